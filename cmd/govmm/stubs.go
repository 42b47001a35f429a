package main

import (
	"errors"

	"github.com/govmm/govmm/vmm"
)

func (b *builder) share(cfg *vmm.Config, arg string) error {
	_, _, _, err := splitShare(arg)
	if err != nil {
		return err
	}
	return errors.New("not built yet")
}

func (b *builder) vsock(cfg *vmm.Config, path string) error { return errors.New("not built yet") }
