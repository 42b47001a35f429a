package main

import (
	"fmt"
	"os"

	"github.com/govmm/govmm/hostfs"
	"github.com/govmm/govmm/virtio/fs"
	"github.com/govmm/govmm/virtio/vsock"
	"github.com/govmm/govmm/virtio/vsock/bridge"
	"github.com/govmm/govmm/vmm"
)

// share serves one directory as the root of a virtio-fs device of its own.
func (b *builder) share(cfg *vmm.Config, arg string) error {
	tag, dir, readOnly, err := splitShare(arg)
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	files, err := hostfs.New(hostfs.Config{
		Exports: []hostfs.Export{{Name: "", Dir: f, ReadOnly: readOnly}}, // the root itself
		Logger:  cfg.Logger,
	})
	if err != nil {
		return err
	}
	b.onCleanup(func() { files.Close() })
	d, err := fs.New(fs.Config{
		Tag: tag, Server: files.NewSession(), Renew: func() fs.Handler { return files.NewSession() }, SyncFS: files.SyncFS,
		Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	cfg.Devices = append(cfg.Devices, d)
	return nil
}

// guestCID is the guest's vsock address; it means something only behind this VM's socket.
const guestCID = 3

func (b *builder) vsock(cfg *vmm.Config, path string) error {
	d, err := vsock.New(vsock.Config{GuestCID: guestCID, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	br, err := bridge.New(path, d, cfg.Logger)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	b.onCleanup(func() { br.Close() })
	cfg.Devices = append(cfg.Devices, d)
	return nil
}
