package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/vmm"
)

func TestShare(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := vmm.Config{Logger: slog.New(slog.DiscardHandler)}
	b := &builder{}
	t.Cleanup(b.cleanup)
	for _, arg := range []string{"src=" + dir, "other=" + dir + ",ro"} {
		if err := b.share(&cfg, arg); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
	}
	if len(cfg.Devices) != 2 {
		t.Fatalf("%d devices", len(cfg.Devices))
	}
	for i, tag := range []string{"src", "other"} {
		d := cfg.Devices[i]
		if d.ID() != virtio.IDFS || !strings.HasPrefix(string(d.Config()), tag+"\x00") {
			t.Errorf("device %d is of type %d, config %q", i, d.ID(), d.Config())
		}
	}
	for arg, want := range map[string]string{
		dir: "TAG=DIR", "=" + dir: "TAG=DIR", "t=": "TAG=DIR", "t=" + file: "not a directory", "t=" + dir + "/none": "no such file",
		"t=/proc": "not served", strings.Repeat("t", 37) + "=" + dir: "1 to 36 bytes",
	} {
		if err := b.share(&cfg, arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}
