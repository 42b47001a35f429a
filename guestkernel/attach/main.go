// Command attach puts a guest kernel, an initramfs and govmm-net behind a program:
// go run ./guestkernel/attach -o bin/govmm-run -exe X -kernel vmlinux -initrd initrd.cpio -net govmm-net
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/govmm/govmm/guestkernel"
)

func main() {
	out := flag.String("o", "", "write the complete program to `FILE`")
	exe := flag.String("exe", "", "the program, as go build left it")
	kernel := flag.String("kernel", "", "uncompressed ELF vmlinux")
	initrd := flag.String("initrd", "", "uncompressed newc archive")
	net := flag.String("net", "", "the program of user-mode networks")
	check := flag.String("check", "", "only verify what is attached to `FILE`")
	flag.Parse()
	var err error
	switch {
	case flag.NArg() > 0:
		flag.Usage()
		os.Exit(2)
	case *check != "":
		err = guestkernel.Verify(*check)
	case *out == "" || *exe == "" || *kernel == "" || *initrd == "" || *net == "":
		flag.Usage()
		os.Exit(2)
	default:
		err = guestkernel.Attach(*exe, *out, *kernel, *initrd, *net)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		os.Exit(1)
	}
}
