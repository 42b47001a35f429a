package boot

import (
	"fmt"
	"strings"
)

// maxCmdline is the room that Load keeps for the command line, without the NUL; what a kernel takes is usually less.
const maxCmdline = int64(setupDataAddr-cmdlineAddr) - 1

func checkCmdline(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("boot: command line of %d bytes: this kernel takes at most %d", len(s), limit)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("boot: command line has a NUL byte at offset %d", strings.IndexByte(s, 0))
	}
	return nil
}

// writeCmdline needs no NUL behind the text: fresh memory is zero.
func (l *loader) writeCmdline() error {
	b, err := l.mem.Slice(cmdlineAddr, uint32(len(l.cfg.Cmdline)))
	if err != nil {
		return err
	}
	copy(b, l.cfg.Cmdline)
	return nil
}

// MMIOCmdline names devices in the form of the kernel's virtio_mmio.device parameter, for guests without ACPI
// (Linux, Documentation/admin-guide/kernel-parameters.txt).
func MMIOCmdline(devs []MMIODevice) string {
	var b strings.Builder
	for i, d := range devs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "virtio_mmio.device=%s@%#x:%d", sizeWord(d.Size), uint64(d.Base), d.GSI)
	}
	return b.String()
}

// sizeWord writes a size as the kernel's memparse reads it.
func sizeWord(n uint64) string {
	switch {
	case n == 0 || n%(1<<10) != 0:
		return fmt.Sprint(n)
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	}
	return fmt.Sprintf("%dK", n>>10)
}
