package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/govmm/govmm/testhost/guest"
	"github.com/govmm/govmm/testhost/wire"
)

// machine holds what QEMU's command line needs besides the options: numbers
// of inherited descriptors.
type machine struct {
	kernel  string
	initrd  int
	serial  int
	qmp     int
	control int
	stream  int
	fs      int
	scratch int
}

// qemuArgs returns QEMU's arguments.
func qemuArgs(o *options, m machine) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "q35", "-cpu", "EPYC,+svm,+npt", "-smp", fmt.Sprint(o.smp),
		"-m", fmt.Sprintf("%dM", o.memory),
		// vhost-user needs the guest's memory to be shareable.
		"-object", fmt.Sprintf("memory-backend-memfd,id=m,size=%dM,share=on", o.memory),
		"-numa", "node,memdev=m",
	}
	switch {
	case o.realIdle:
		// What waits for this machine's disk and files idles, too: with sleep=off timeouts beside it would be over at once.
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on")
	case o.icount:
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off")
	case o.oneThread:
		args = append(args, "-accel", "tcg,thread=single")
	default:
		args = append(args, "-accel", "tcg,thread=multi")
	}
	socket := func(id string, fd int) {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, fd))
	}
	device := func(d string) { args = append(args, "-device", d) }
	drive := func(id, file, more string) {
		args = append(args, "-drive", fmt.Sprintf("file=%s,if=none,id=%s,format=raw,discard=unmap%s", escapeComma(file), id, more))
	}
	socket("serial", m.serial)
	args = append(args, "-serial", "chardev:serial")
	socket("qmp", m.qmp)
	args = append(args, "-mon", "chardev=qmp,mode=control")
	device("virtio-serial-pci")
	socket("control", m.control)
	device("virtserialport,chardev=control,name=" + wire.ControlPort)
	socket("stream", m.stream)
	device("virtserialport,chardev=stream,name=" + wire.StreamPort)
	socket("fs", m.fs)
	device("vhost-user-fs-pci,chardev=fs,tag=" + guest.RootTag)
	device("virtio-rng-pci")
	// Nothing on it outlives this machine, so flushes are for nothing.
	drive("scratch", fmt.Sprintf("/proc/self/fd/%d", m.scratch), ",cache=unsafe")
	device("virtio-blk-pci,drive=scratch,serial=" + guest.ScratchSerial)
	for i, d := range o.disks {
		file, mode, _ := strings.Cut(d, ",")
		more := ""
		if mode == "ro" {
			more = ",readonly=on"
		}
		id := fmt.Sprintf("disk%d", i)
		drive(id, file, more)
		device(fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", id, diskSerial(file)))
	}
	args = append(args, "-kernel", m.kernel, "-initrd", fmt.Sprintf("/proc/self/fd/%d", m.initrd),
		"-append", kernelCommandLine(o))
	return append(args, o.qemuArgs...)
}

// kernelCommandLine makes every way of standing still end in a restart, which
// -no-reboot turns into QEMU's exit.
func kernelCommandLine(o *options) string {
	args := []string{"console=ttyS0", "quiet", "panic=-1", "oops=panic", "softlockup_panic=1"}
	if !o.icount {
		// QEMU's VMRUN and #VMEXIT change a CPU's word of pending interrupts without a lock, while other threads set bits
		// in it: now and then an interrupt is lost. A one-shot timer that is lost never fires again, and the host stands
		// still with all CPUs halted. A periodic tick comes again, and brings what was lost with it.
		args = append(args, "highres=off", "nohz=off")
	}
	return strings.Join(append(args, o.kernelArgs...), " ")
}

// escapeComma doubles commas, as QEMU's option lists want them.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// diskSerial is the base name as far as it fits virtio-blk's 20 bytes.
func diskSerial(file string) string {
	s := strings.Map(func(r rune) rune {
		if r == ',' || r == '=' || r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, filepath.Base(file))
	return s[:min(len(s), 20)]
}
