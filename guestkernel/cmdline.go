package guestkernel

// Cmdline is the command line that the container kernel is built for, without
// what the monitor knows better (virtio_mmio.device=). README.md says why each
// word is there.
//
//   - panic=-1, reboot=k: a panic resets at once, through the i8042.
//   - no_timer_check, tsc=reliable: the hypervisor's timers are not doubted.
//   - noreplace-smp: with one CPU, leave the lock prefixes where they are.
//   - rcupdate.rcu_expedited=1: nobody waits for a grace period.
//   - initcall_blacklist=slab_late_init: no files in /sys/kernel/slab.
//   - rootfstype=ramfs: unpack the initramfs without tmpfs's accounting.
//   - dummy.numdummies=0: no interface that nobody asked for.
//   - 8250.nr_uarts=0: there is no serial port to look for.
const Cmdline = "panic=-1 reboot=k no_timer_check tsc=reliable noreplace-smp rcupdate.rcu_expedited=1 " +
	"initcall_blacklist=slab_late_init rootfstype=ramfs dummy.numdummies=0 8250.nr_uarts=0 loglevel=1"

// SerialCmdline, appended to Cmdline, brings the first serial port back as the
// console. At Cmdline's log level only a panic is printed there; append
// "loglevel=7" for everything.
const SerialCmdline = "8250.nr_uarts=1 console=ttyS0"
