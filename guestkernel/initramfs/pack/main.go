// Command pack writes the initramfs of a guest whose PID 1 is one static
// program: go run ./guestkernel/initramfs/pack -o initrd.cpio bin/govmm-init
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"

	"github.com/govmm/govmm/guestkernel/initramfs"
)

func main() {
	out := flag.String("o", "", "write the archive to `FILE`")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: pack -o FILE PROGRAM\nPROGRAM, static, becomes /init.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *out == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(out, init string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := initramfs.Write(&b, initramfs.ForInit(program)); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}
