// Command build builds the guest kernel, or finds it in the cache, and prints
// its path: go run ./guestkernel/build [-o FILE] [-v]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/govmm/govmm/guestkernel/recipe"
)

func main() {
	var (
		out    = flag.String("o", "", "also copy the kernel to `FILE`")
		initrd = flag.String("initrd", "", "also copy the initramfs to `FILE` (with -bare)")
		bare   = flag.Bool("bare", false, "build the bare guest that start-up is measured with")
		opts   = recipe.Options{Log: os.Stderr}
	)
	flag.IntVar(&opts.Jobs, "j", 0, "compile `N` files at once (default: one per CPU)")
	flag.BoolVar(&opts.Verbose, "v", false, "show make's output")
	flag.BoolVar(&opts.Force, "force", false, "build again and compare with the cached bytes")
	flag.StringVar(&opts.Work, "work", "", "build below `DIR` instead of the cache")
	flag.Parse()
	if flag.NArg() > 0 || (*initrd != "" && !*bare) {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bare, *out, *initrd, opts); err != nil {
		fmt.Fprintln(os.Stderr, "guest kernel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bare bool, out, initrd string, opts recipe.Options) error {
	which := recipe.Container
	if bare {
		which = recipe.Bare
	}
	r, err := which()
	if err != nil {
		return err
	}
	res, err := recipe.Build(ctx, r, opts)
	if err != nil {
		return err
	}
	fmt.Println(res.Kernel)
	if res.Initrd != "" {
		fmt.Println(res.Initrd)
	}
	if out != "" {
		if err := copyFile(out, res.Kernel); err != nil {
			return err
		}
	}
	if initrd != "" {
		return copyFile(initrd, res.Initrd)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, in); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
