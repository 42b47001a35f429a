package vmm_test

import (
	"context"
	"errors"
	"log"
	"os"

	"github.com/govmm/govmm/vmm"
)

// A program that boots a kernel with its console on the standard output, until the guest resets.
func Example() {
	kernel, err := vmm.OpenImage("vmlinux")
	if err != nil {
		log.Fatal(err)
	}
	vm, err := vmm.New(vmm.Config{Kernel: kernel, Cmdline: "console=ttyS0 panic=-1", Serial: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Close()
	if err := vm.Run(context.Background()); !errors.Is(err, vmm.ErrReset) {
		log.Print(err)
	}
}
