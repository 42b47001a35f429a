package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/govmm/govmm/testhost/wire"
)

// host is one running test host.
type host struct {
	qemu, virtiofsd *child
	console         *console
	control, stream *os.File
	qmp, serial     *os.File
	controlWriter   *wire.Writer
	streamWriter    *wire.Writer
	started         time.Time
}

// bootFiles is what all boots of one run share.
type bootFiles struct {
	qemu      string // the emulator
	kernel    kernel
	initramfs []byte
	cache     string
}

// boot starts a host; it is not up before its Ready frame.
func boot(o *options, b bootFiles, consoleLogs ...io.Writer) (h *host, err error) {
	h = &host{started: time.Now()}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	listener, fs, err := listenerPair()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	fds := new(fdList)
	defer fds.close()
	m := machine{kernel: b.kernel.image(), fs: fds.add(fs)}
	scratch, err := openScratch(b.cache, o.keepScratch, o.scratchSize)
	if err != nil {
		return nil, err
	}
	m.scratch = fds.add(scratch)
	initrd, err := memoryFile("initramfs", b.initramfs)
	if err != nil {
		return nil, err
	}
	m.initrd = fds.add(initrd)
	for _, s := range []struct {
		ours   **os.File
		theirs *int
	}{{&h.serial, &m.serial}, {&h.qmp, &m.qmp}, {&h.control, &m.control}, {&h.stream, &m.stream}} {
		var theirs *os.File
		if *s.ours, theirs, err = socketPair(); err != nil {
			return nil, err
		}
		*s.theirs = fds.add(theirs)
	}
	if h.virtiofsd, err = startVirtiofsd(listener); err != nil {
		return nil, err
	}
	argv := append([]string{b.qemu}, qemuArgs(o, m)...)
	if h.qemu, err = startChild("qemu", argv, fds); err != nil {
		return nil, err
	}
	h.console = follow(h.serial, consoleLogs...)
	h.controlWriter = wire.NewWriter(h.control)
	h.streamWriter = wire.NewWriter(h.stream)
	return h, nil
}

func startVirtiofsd(listener *os.File) (*child, error) {
	fds := new(fdList)
	return startChild("virtiofsd", []string{virtiofsTool.path(),
		fmt.Sprintf("--fd=%d", fds.add(listener)), "-f",
		"-o", "source=/", "-o", "cache=auto", "-o", "sandbox=chroot", "-o", "log_level=warn",
		"-o", "xattr",
	}, fds)
}

// close ends the host's processes. Its files have no names.
func (h *host) close() {
	if h.qemu != nil {
		h.qemu.kill()
	}
	if h.virtiofsd != nil {
		h.virtiofsd.kill()
	}
	for _, f := range []*os.File{h.serial, h.qmp, h.control, h.stream} {
		if f != nil {
			f.Close()
		}
	}
}

// errPanic and errHung say how a host ended without telling the command's
// exit status.
var (
	errPanic = errors.New("the test host's kernel panicked")
	errHung  = errors.New("the test host hung")
)

// died explains why QEMU ended by itself.
func (h *host) died() error {
	// The console's last bytes may still be on their way.
	select {
	case <-h.console.done:
	case <-time.After(time.Second):
	}
	switch reason := h.console.panicReason(); {
	case isLockup(reason):
		return fmt.Errorf("%w: kernel panic: %s", errHung, reason)
	case reason != "":
		return fmt.Errorf("%w: %s; its console:\n%s", errPanic, reason, h.console.tail())
	}
	return fmt.Errorf("the test host ended by itself (qemu: %v); last lines of its console:\n%s\nqemu says:\n%s\nvirtiofsd says:\n%s",
		h.qemu.err, h.console.tail(), h.qemu.stderr.String(), h.virtiofsd.stderr.String())
}
