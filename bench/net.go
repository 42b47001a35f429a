package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The addresses of a subject's guest and of its host, which only the last subject to be measured has.
const (
	netHost    = "10.77.0.1"
	netGuest   = "10.77.0.2"
	netLink    = "bench0" // the host's end: a TAP or a veth
	serverPort = "7007"
	netMemory  = "256M"
)

// A NetResult is what one boot of the test host measured of networks.
type NetResult struct {
	Meta     Meta
	Clock    string
	Subjects []NetSubject
}

// NetSubject is one way to give a guest, or a container, a network.
type NetSubject struct {
	Name    string
	Command []string
	Error   string `json:",omitempty"`
	Samples []NetSample

	prepare, cleanup []string // shell commands
}

// NetSample is one load, from before its client is started to after it has ended.
type NetSample struct {
	Load    string
	Unit    string // of what the figures are for
	Elapsed int64  // nanoseconds
	Busy    int64  // for how long tasks ran, on all CPUs together
	// What the host's end of the link counted, both directions together.
	Packets, Bytes int64
	// Units is how much was done: datagrams that arrived, round trips, or blocks of a stream.
	Units int64
	Counts
}

// A netLoad is a fixed amount of work between a client on the host and a server in the guest.
type netLoad struct {
	name, unit string
	amount     int // of bytes, or units
	stream     bool
	client     func(address string, amount int) []string
}

// streamUnit is the unit of the figures of a stream: about what crosses a TAP in one piece.
const streamUnit = 64 << 10

// netLoads are the loads. Under icount all is emulated on one CPU: there is less to do.
func netLoads(scale int) []netLoad {
	stream := func(name string, args ...string) netLoad {
		return netLoad{name, "64 KiB", scale << 23, true, func(address string, amount int) []string {
			return append([]string{installed("iperf3"), "-c", address, "--connect-timeout", "5000", "-n", fmt.Sprint(amount)}, args...)
		}}
	}
	own := func(name, unit string, kind rune, n int) netLoad {
		return netLoad{name, unit, n * scale, false, func(address string, amount int) []string {
			return []string{"/bench", "-load", string(kind), "-connect", address + ":" + serverPort, "-runs", fmt.Sprint(amount)}
		}}
	}
	return []netLoad{
		stream("TCP in, 1 stream"), stream("TCP in, 4 streams", "-P", "4"),
		stream("TCP out, 1 stream", "-R"), stream("TCP out, 4 streams", "-R", "-P", "4"),
		own("UDP in, 64 bytes", "datagram", loadPlainIn, 4000), own("UDP out, 64 bytes", "datagram", loadPlainOut, 4000),
		own("request and response", "round trip", loadPlainRoundTrips, 400),
		own("UDP in, 64 bytes, Go", "datagram", loadIn, 4000), own("UDP out, 64 bytes, Go", "datagram", loadOut, 4000),
		own("request and response, Go", "round trip", loadRoundTrips, 400),
	}
}

// netServers runs the servers of all loads, as the init of a VM or as a container's process.
const netServers = `#!/bin/busybox sh
if [ $$ = 1 ] && ! [ -e /proc/self ]; then
	/bin/busybox mount -t proc proc /proc
	/bin/busybox mount -t sysfs sysfs /sys
	/bin/busybox mount -t devtmpfs dev /dev
	/bin/busybox ip link set lo up
	/bin/busybox ip link set eth0 up
	/bin/busybox ip address add ` + netGuest + `/24 dev eth0
fi
/usr/bin/iperf3 -s >/dev/null 2>&1 &
until /bin/busybox grep -q ':1451 ' /proc/net/tcp6; do /bin/busybox sleep 0.05; done # its port
exec /bench -serve :` + serverPort + `
`

// makeVeth are the shell commands that make the network of a container, a veth into a namespace, and removeVeth those that end it.
var (
	makeVeth = []string{"ip netns add bench", "ip link add " + netLink + " type veth peer name eth0 netns bench",
		"ip address add " + netHost + "/24 dev " + netLink, "ip link set " + netLink + " up", "ip -n bench link set lo up",
		"ip -n bench link set eth0 up", "ip -n bench address add " + netGuest + "/24 dev eth0",
		// Where the measured programs see it.
		"mkdir -p " + rootDir + "/run/netns && touch " + rootDir + "/run/netns/bench && mount --bind /run/netns/bench " + rootDir + "/run/netns/bench"}
	removeVeth = []string{"umount " + rootDir + "/run/netns/bench", "ip netns delete bench"}
)

// shell runs commands, one after the other.
func shell(commands []string) error {
	for _, c := range commands {
		if b, err := exec.Command("sh", "-c", c).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, b)
		}
	}
	return nil
}

// netSubjects are the subjects: what ours are compared with has the same kernel, initramfs and size.
func netSubjects() []NetSubject {
	tap := []string{"ip tuntap add dev " + netLink + " mode tap vnet_hdr", "ip address add " + netHost + "/24 dev " + netLink,
		"ip link set " + netLink + " up"}
	noTAP := []string{"ip link delete " + netLink}
	qemu := func(vhost string) []string {
		return []string{installed("qemu-system-x86_64"), "-bios", "qboot.rom",
			"-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,acpi=off", "-cpu", "host", "-smp", "1", "-m", netMemory,
			"-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", "/container-vmlinux", "-initrd", "/net.cpio",
			"-append", netCmdline, "-global", "virtio-mmio.force-legacy=false",
			"-netdev", "tap,id=n,ifname=" + netLink + ",script=no,downscript=no,vhost=" + vhost, "-device", "virtio-net-device,netdev=n"}
	}
	return []NetSubject{
		{Name: "govmm boot", prepare: tap, cleanup: noTAP, Command: []string{"/govmm", "boot", "--kernel", "/container-vmlinux", "--initrd", "/net.cpio",
			"--memory", netMemory, "--cmdline", netCmdline, "--net", "tap=" + netLink}},
		{Name: "QEMU microvm", prepare: tap, cleanup: noTAP, Command: qemu("off")},
		{Name: "QEMU microvm, vhost", prepare: tap, cleanup: noTAP, Command: qemu("on")},
		{Name: "govmm-run", prepare: makeVeth, cleanup: removeVeth,
			Command: []string{"/govmm-run", "run", "--bundle", "/bundle", "bench"}},
		{Name: "runc", prepare: makeVeth, cleanup: removeVeth,
			Command: []string{installed("runc"), "run", "--bundle", "/bundle", "bench"}},
	}
}

// netCmdline is for the containers' kernel in a plain VM.
const netCmdline = "panic=-1 reboot=k no_timer_check tsc=reliable noreplace-smp dummy.numdummies=0 8250.nr_uarts=1 console=ttyS0 loglevel=4"

// benchNet prepares the files and measures networks in the test host, on each clock.
func benchNet(runs int, wall bool, only, loads string) error {
	needed = append(needed, [2]string{"iperf3", "iperf3"})
	dir, meta, err := prepare()
	if err != nil {
		return err
	}
	if err := run("cp", "build/vmlinux", filepath.Join(dir, "container-vmlinux")); err != nil {
		return err
	}
	args := []string{filepath.Join(dir, "bench"), "-net", "-inside", dir, "-runs", fmt.Sprint(runs), "-only", only, "-loads", loads}
	if err := bootNet(clockInstructions, meta, append(args, "-scale", "1"), "--icount"); err != nil || !wall {
		return err
	}
	return bootNet(clockWall, meta, append(args, "-scale", "4"), "--smp", "3")
}

func bootNet(clock string, meta Meta, args []string, hostFlags ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"run", "./testhost"}, hostFlags, []string{"--"}, args)...)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("test host: %w", err)
	}
	var r NetResult
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("the test host's answer: %w", err)
	}
	meta.Tools = r.Meta.Tools
	r.Meta, r.Clock = meta, clock
	if b, err = json.MarshalIndent(&r, "", " "); err != nil {
		return err
	}
	path := filepath.Join(out, "net-"+clock+".json")
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return showResult(path)
}

// measureNet runs the loads on each subject and prints the result as JSON.
func measureNet(from string, runs, scale int, only, loads string) error {
	needed = append(needed, [2]string{"iperf3", "iperf3"})
	if err := makeRoot(from); err != nil {
		return err
	}
	if err := netFiles(from); err != nil {
		return err
	}
	r := NetResult{Meta: Meta{Tools: map[string]string{
		"QEMU": line("qemu-system-x86_64", "--version"), "runc": line("runc", "--version"), "iperf3": line("iperf3", "--version"),
		"test host's kernel": line("uname", "-rv"),
	}}}
	for _, s := range netSubjects() {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.Name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", s.Name)
		wanted := slices.DeleteFunc(netLoads(scale), func(l netLoad) bool { return !strings.Contains(l.name, loads) })
		if err := s.measure(runs, wanted); err != nil {
			s.Error = err.Error()
			fmt.Fprintln(os.Stderr, " ", err)
		}
		r.Subjects = append(r.Subjects, s)
	}
	return json.NewEncoder(os.Stdout).Encode(&r)
}

// inNetns is the network namespace of a container that joins makeVeth's.
const inNetns = `"type": "network", "path": "/run/netns/bench"`

// netFiles makes the guest's kernel, its initramfs, and a bundle of the same files in a network namespace.
func netFiles(from string) error {
	for _, f := range []string{"container-vmlinux", "bench"} {
		if err := copyFile(filepath.Join(from, f), filepath.Join(rootDir, f)); err != nil {
			return err
		}
	}
	if err := bundle(); err != nil {
		return err
	}
	rootfs := rootDir + "/bundle/rootfs"
	iperf := installed("iperf3")
	for _, f := range append([]string{iperf}, libraries(iperf)...) {
		if err := copyFile(f, rootfs+f); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(from, "bench"), rootfs+"/bench"); err != nil {
		return err
	}
	if err := os.Mkdir(rootfs+"/tmp", 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(rootfs+"/init", []byte(netServers), 0o755); err != nil {
		return err
	}
	pack := exec.Command("sh", "-c", "cd "+rootfs+" && find . | busybox cpio -o -H newc >"+rootDir+"/net.cpio")
	if b, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("initramfs: %w: %s", err, b)
	}
	return edit(configPath, `"/bin/busybox", "echo", "HELLO"`, `"/init"`, `"type": "network"`, inNetns,
		`"readonly": true`, `"readonly": false`)
}

// measure starts a subject, waits for its servers, and takes the samples of all loads.
func (s *NetSubject) measure(runs int, loads []netLoad) error {
	if err := shell(s.prepare); err != nil {
		return err
	}
	defer func() {
		for _, c := range s.cleanup {
			_ = exec.Command("sh", "-c", c).Run()
		}
	}()
	log, err := os.Create(rootDir + "/tmp/" + strings.ReplaceAll(s.Name, " ", "-"))
	if err != nil {
		return err
	}
	defer log.Close()
	vm := inRoot(s.Command...)
	vm.Stdout, vm.Stderr = log, log
	if err := vm.Start(); err != nil {
		return err
	}
	defer func() {
		killAll(vm.Process.Pid, "bench")
		_ = vm.Wait()
	}()
	if err := awaitServer(netGuest + ":" + serverPort); err != nil {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w: %s", err, b[max(0, len(b)-2000):])
	}
	for _, l := range loads {
		if _, err := l.measure(vm.Process.Pid, warmUp); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		for range runs {
			sample, err := l.measure(vm.Process.Pid, 1)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			s.Samples = append(s.Samples, sample)
			b, _ := json.Marshal(&sample)
			fmt.Fprintf(os.Stderr, "  %s\n", b)
		}
	}
	return nil
}

// warmUp is the part of a load that is done before it is measured.
const warmUp = 8

// measure takes a sample of a part of a load.
func (l *netLoad) measure(pid, part int) (NetSample, error) {
	s := NetSample{Load: l.name, Unit: l.unit}
	client := inRoot(l.client(netGuest, l.amount/part)...)
	packets, bytes, err := linkCounters(netLink)
	if err != nil {
		return s, err
	}
	counting, err := startCounting()
	if err != nil {
		return s, err
	}
	busy, began := busyTime(), time.Now()
	b, err := client.CombinedOutput()
	s.Elapsed, s.Busy = time.Since(began).Nanoseconds(), busyTime()-busy
	counts, countErr := counting.stop(monitorOf(pid))
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, b)
	}
	if countErr != nil {
		return s, countErr
	}
	s.Counts = *counts
	nowPackets, nowBytes, err := linkCounters(netLink)
	s.Packets, s.Bytes = nowPackets-packets, nowBytes-bytes
	if l.stream {
		s.Units = s.Bytes / streamUnit
	} else if _, scanErr := fmt.Sscan(string(b), &s.Units); scanErr != nil || s.Units == 0 {
		return s, fmt.Errorf("nothing arrived: %s", b)
	}
	return s, err
}

// linkCounters are the packets and bytes that passed an interface, in both directions.
func linkCounters(name string) (packets, bytes int64, err error) {
	for file, sum := range map[string]*int64{"rx_packets": &packets, "tx_packets": &packets, "rx_bytes": &bytes, "tx_bytes": &bytes} {
		b, err := os.ReadFile("/sys/class/net/" + name + "/statistics/" + file)
		if err != nil {
			return 0, 0, err
		}
		var n int64
		if _, err := fmt.Sscan(string(b), &n); err != nil {
			return 0, 0, err
		}
		*sum += n
	}
	return packets, bytes, nil
}
