// Command pack writes the initramfs of a guest whose PID 1 is one static
// program: go run ./guestkernel/initramfs/pack -o initrd.cpio -init bin/govmm-init
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
	init := flag.String("init", "", "static program that becomes /init")
	flag.Parse()
	if *out == "" || *init == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *init); err != nil {
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
