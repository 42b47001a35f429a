package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/terminal"
	"github.com/govmm/govmm/vmm"
)

// bootFlags are the flags of boot as they were typed.
type bootFlags struct {
	kernel, initrd, cmdline string
	memory, maxMemory       string
	vsock                   string
	disks, shares, nets     []string
	cpus                    int
	firmware, protocol      string
	traceExits              bool
}

func bootCommand() *cobra.Command {
	var f bootFlags
	cmd := &cobra.Command{
		Use:   "boot --kernel FILE [flags]",
		Short: "boot a kernel, with disks, networks, shared directories and a vsock",
		Long: `boot runs a kernel in a micro-VM until it resets or powers itself off, with its serial console on this
terminal, which belongs to the guest meanwhile: Ctrl-C goes there, too. Type Ctrl-A x to end the VM, Ctrl-A
Ctrl-A for a Ctrl-A.

Disks are /dev/vda, /dev/vdb and so on in the guest, in the order of the flags. A distribution's kernel (a bzImage)
needs its own initramfs, which has the drivers: --initrd. Nothing is written to a disk or a directory with ",ro".

A network's TAP interface is used if it exists (ip tuntap add dev NAME mode tap user $USER), and else made for the life of the
VM. The guest sends by as many queues as queues=N says, and receives by one, in order.

rate=N[:BURST] bounds the bytes that a disk, or each direction of a network, moves in a second, and ops=N[:BURST] the
requests or frames; N may have a suffix K, M or G.

The network user needs no privileges: what the guest does on it comes from a process beside this one. DHCP gives the guest
10.0.2.15, gateway 10.0.2.2 and name server 10.0.2.3, and router advertisements fd00::/64. The host's loopback is out of reach.
publish=[HOSTIP:]HOSTPORT:GUESTPORT[/udp] opens a port of the host's that leads to the guest's, or a range FIRST-LAST, and may be repeated.

What the guest frees goes back to the host, if it has a driver for the balloon.`,
		Example: `  govmm boot --kernel vmlinux --initrd initrd.cpio --cmdline console=ttyS0
  govmm boot --kernel /boot/vmlinuz --initrd /boot/initrd.img --disk root.img \
      --cpus 4 --memory 1G --cmdline "console=ttyS0 root=/dev/vda rw" --net tap=tap0
  govmm boot --kernel vmlinux --initrd initrd.cpio --net user,publish=8080:80,publish=127.0.0.1:5353:53/udp
  govmm boot --kernel vmlinux --initrd initrd.cpio --fs src=$HOME/src,ro --vsock /tmp/vm.sock`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return f.run() },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kernel, "kernel", "", "kernel: ELF vmlinux or bzImage (default: the one inside this program)")
	fs.StringVar(&f.initrd, "initrd", "", "initramfs")
	fs.StringVar(&f.cmdline, "cmdline", "console=ttyS0 reboot=k panic=-1", "kernel command line")
	fs.StringVar(&f.memory, "memory", "256M", "RAM, with a suffix K, M or G")
	fs.StringVar(&f.maxMemory, "max-memory", "", "RAM up to which the guest grows when it needs it, by virtio-mem (default: it does not)")
	fs.IntVar(&f.cpus, "cpus", 1, "number of virtual CPUs")
	fs.StringArrayVar(&f.disks, "disk", nil, "raw image or block device, FILE[,ro][,rate=N][,ops=N]; may be repeated")
	fs.StringArrayVar(&f.nets, "net", nil, "network, tap=NAME[,queues=N] or user[,publish=HOSTPORT:GUESTPORT]..., with [,mac=ADDRESS][,rate=N][,ops=N]; may be repeated")
	fs.StringArrayVar(&f.shares, "fs", nil, "shared directory, TAG=DIR[,ro]; in the guest: mount -t virtiofs TAG /mnt; may be repeated")
	fs.StringVar(&f.vsock, "vsock", "", "Unix socket of the vsock bridge: write \"CONNECT PORT\" to it; the guest's own calls go to PATH_PORT")
	fs.StringVar(&f.firmware, "firmware", "auto", "what tells the kernel of CPUs and devices: mptable, acpi or auto (acpi for a bzImage)")
	fs.StringVar(&f.protocol, "protocol", "auto", "how the kernel is entered: linux64, pvh or auto")
	fs.BoolVar(&f.traceExits, "trace-exits", false, "count the exits by cause and print them at the end")
	return cmd
}

func (f *bootFlags) run() error {
	cfg, cleanup, err := f.config()
	defer cleanup()
	if err != nil {
		return err
	}
	if old, err := terminal.MakeRaw(os.Stdin); err == nil {
		defer func() { _ = terminal.Restore(os.Stdin, old) }()
	}
	// The terminal is put back however this ends. SIGPIPE too: the standard output may be a pipe that nobody reads any
	// more while the standard input is the terminal.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	defer stop()
	// One more than the vCPUs, and never 1: while a system call blocks, the rest goes on.
	runtime.GOMAXPROCS(cfg.CPUs + 1)
	coarseTimers()
	vm, err := vmm.New(*cfg)
	if err != nil {
		return err
	}
	defer vm.Close()
	ctx, quit := context.WithCancelCause(ctx)
	if cfg.MaxMemory > cfg.Memory {
		go vm.GrowOnDemand(ctx)
	}
	go feed(vm, os.Stdin, func() { quit(errQuit) })
	err = vm.Run(ctx)
	if f.traceExits {
		_ = vm.WriteExits(os.Stderr)
	}
	if errors.Is(err, vmm.ErrReset) || errors.Is(err, vmm.ErrPowerOff) || errors.Is(err, errQuit) {
		return nil
	}
	return err
}

// coarseTimers lets timers fire up to a millisecond late, as those of a container's monitor may (see lifecycle): Go's sysmon wakes every 20 us while a
// vCPU is in KVM_RUN, and where CPUs are scarce each time is an exit of the guest's. Later threads inherit it. For the threads that are there
// it takes CAP_SYS_NICE, sysmon among them; without it all is as before.
func coarseTimers() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte("1000000"), 0)
	}
}

var errQuit = errors.New("ended at the console")

// escape is the key that announces a command to govmm itself.
const escape = 0x01 // Ctrl-A

// feed gives what is typed to the guest, and carries out the commands behind the escape key.
func feed(vm *vmm.VM, in *os.File, quit func()) {
	buf := make([]byte, 4096)
	escaped := false
	for {
		n, err := in.Read(buf)
		var out []byte
		for _, b := range buf[:n] {
			switch {
			case escaped && (b == 'x' || b == 'X'):
				quit()
				return
			case !escaped && b == escape:
				escaped = true
				continue
			}
			escaped = false
			out = append(out, b)
		}
		vm.InputAll(out)
		if err != nil {
			return
		}
	}
}

func (f *bootFlags) config() (cfg *vmm.Config, cleanup func(), err error) {
	b := &builder{}
	cfg = &vmm.Config{
		CPUs: f.cpus, Balloon: true, Cmdline: f.cmdline, Serial: os.Stdout, TraceExits: f.traceExits,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if f.cpus < 1 {
		return nil, b.cleanup, fmt.Errorf("--cpus %d: at least 1 is needed", f.cpus)
	}
	if cfg.Memory, err = parseSize(f.memory); err != nil {
		return nil, b.cleanup, fmt.Errorf("--memory: %w", err)
	}
	if f.maxMemory != "" {
		if cfg.MaxMemory, err = parseSize(f.maxMemory); err != nil {
			return nil, b.cleanup, fmt.Errorf("--max-memory: %w", err)
		}
		if cfg.MaxMemory < cfg.Memory {
			return nil, b.cleanup, fmt.Errorf("--max-memory %s is less than --memory %s", f.maxMemory, f.memory)
		}
	}
	if err := b.images(cfg, f); err != nil {
		return nil, b.cleanup, err
	}
	if cfg.Protocol, err = parseProtocol(f.protocol); err != nil {
		return nil, b.cleanup, fmt.Errorf("--protocol: %w", err)
	}
	if cfg.Firmware, err = b.firmware(f.firmware, cfg.Kernel); err != nil {
		return nil, b.cleanup, fmt.Errorf("--firmware: %w", err)
	}
	if err := b.devices(cfg, f); err != nil {
		return nil, b.cleanup, err
	}
	return cfg, b.cleanup, nil
}
