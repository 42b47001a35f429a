package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	stdnet "net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// namespace is a network namespace with a thread of its own.
type namespace struct {
	calls chan func()
}

// newNamespace makes one; it ends with the test.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	need.TAP(t)
	ns := &namespace{calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range ns.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("unshare: %v", err)
	}
	t.Cleanup(func() { close(ns.calls) })
	return ns
}

// do calls f on the namespace's thread.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs ip(8) in the namespace.
func (ns *namespace) ip(t testing.TB, args string) {
	t.Helper()
	program := need.Program(t, "ip", "iproute2")
	ns.do(func() {
		if out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Errorf("ip %s: %v: %s", args, err, out)
		}
	})
}

// tap makes or opens a TAP in the namespace.
func (ns *namespace) tap(t testing.TB, cfg Config) *TAP {
	t.Helper()
	tap, err := ns.try(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	return tap
}

func (ns *namespace) try(cfg Config) (tap *TAP, err error) {
	ns.do(func() { tap, err = New(cfg) })
	return tap, err
}

// interfaces returns the names of those in the namespace, in order.
func (ns *namespace) interfaces() string {
	var names []string
	ns.do(func() {
		all, _ := stdnet.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
	})
	return strings.Join(names, " ")
}

func TestName(t *testing.T) {
	ns := newNamespace(t)
	a, b := ns.tap(t, Config{Name: "gv%d"}), ns.tap(t, Config{Name: "gv%d"})
	if a.Name() != "gv0" || b.Name() != "gv1" || ns.interfaces() != "lo gv0 gv1" {
		t.Errorf("%s and %s of %s", a.Name(), b.Name(), ns.interfaces())
	}
	if err := a.Close(); err != nil || ns.interfaces() != "lo gv1" {
		t.Errorf("%v: %s", err, ns.interfaces())
	}
}

func TestMTU(t *testing.T) {
	ns := newNamespace(t)
	ns.tap(t, Config{Name: "gv0"})
	for _, want := range []uint16{1400, 9000, 65521} {
		ns.ip(t, fmt.Sprintf("link set gv0 mtu %d", want))
		ns.do(func() {
			if got, err := MTU("gv0"); got != want || err != nil {
				t.Errorf("%d, %v, want %d", got, err, want)
			}
		})
	}
	ns.do(func() {
		if _, err := MTU("none"); !errors.Is(err, unix.ENODEV) {
			t.Error(err)
		}
	})
}

func TestErrors(t *testing.T) {
	ns := newNamespace(t)
	ns.ip(t, "tuntap add dev routed mode tun")
	ns.tap(t, Config{Name: "used"})
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Name: "routed"}, "invalid argument"},
		{Config{Name: "lo"}, "invalid argument"},
		{Config{Name: "used"}, "another program uses the interface"},
		{Config{Name: "a-name-that-is-too-long"}, "a name of at most 15 bytes"},
	} {
		if _, err := ns.try(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.cfg, err, tt.want)
		}
	}
	if got := ns.interfaces(); got != "lo routed used" {
		t.Errorf("left are %s", got)
	}
}

// TestNoPrivilege: without CAP_NET_ADMIN the error says what to do.
func TestNoPrivilege(t *testing.T) {
	ns := newNamespace(t)
	var err error
	ns.do(func() {
		file, openErr := open()
		if openErr != nil {
			t.Error(openErr)
			return
		}
		// The thread's alone: it gives up its effective capabilities, and gets them back.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Error(errno)
			return
		}
		_, err = New(Config{Name: "x%d", File: file})
		_, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
	})
	if err == nil || !strings.Contains(err.Error(), "takes CAP_NET_ADMIN") {
		t.Errorf("%v", err)
	}
}

// TestNoNode: so does the error where the kernel has no TAPs, or nobody made the node.
func TestNoNode(t *testing.T) {
	ns := newNamespace(t)
	var err error
	ns.do(func() {
		if err = unix.Unshare(unix.CLONE_NEWNS); err == nil {
			err = errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", "/dev/net", "tmpfs", 0, ""))
		}
		if err != nil {
			t.Error(err)
			return
		}
		_, err = New(Config{Name: "x%d"})
	})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "load the kernel's module tun") {
		t.Errorf("%v", err)
	}
}

// TestFile: a descriptor that was opened before, by os or belonging to an interface already, does as well.
func TestFile(t *testing.T) {
	ns := newNamespace(t)
	var file *os.File
	var err error
	ns.do(func() { file, err = os.OpenFile(Node, os.O_RDWR, 0) })
	if err != nil {
		t.Fatal(err)
	}
	tap, err := New(Config{Name: "late%d", Pairs: 2, File: file}) // of another namespace's thread
	if err != nil {
		t.Fatal(err)
	}
	if ns.interfaces() != "lo late0" || tap.Pairs() != 2 || file.Close() == nil {
		t.Errorf("%s, %d pairs; or a file was left open", ns.interfaces(), tap.Pairs())
	}
	receives(t, ns, tap)
	// A descriptor of an interface that is there.
	var again *os.File
	if err := control(tap.queues[0].File(), func(fd int) error {
		own, err := unix.Dup(fd)
		again = os.NewFile(uintptr(own), "tap")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	tap, err = New(Config{File: again})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if tap.Name() != "late0" {
		t.Errorf("the interface is %s", tap.Name())
	}
	receives(t, ns, tap)
}

// receives has the kernel send something, and waits for it.
func receives(t *testing.T, ns *namespace, tap *TAP) {
	t.Helper()
	ns.ip(t, "link set "+tap.Name()+" up") // IPv6 sends on its own account
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := make([]byte, net.MaxFrame)
	n, err := tap.Receive(ctx, 0, [][]byte{p[:5], p[5:]}, func() {})
	if err != nil || n < net.HeaderSize+14 || binary.BigEndian.Uint16(p[net.HeaderSize+12:]) != 0x86dd {
		t.Errorf("%v, % x", err, p[:max(n, 0)])
	}
}

// TestInterrupt: the end of a context ends the wait, again and again, and another one waits on.
func TestInterrupt(t *testing.T) {
	ns := newNamespace(t)
	tap := ns.tap(t, Config{Name: "gv%d"})
	p := [][]byte{make([]byte, 2000)}
	for round := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan struct{})
		go func() {
			if round%2 == 0 {
				<-waits
			}
			cancel()
		}()
		var once bool
		_, err := tap.Receive(ctx, 0, p, func() {
			if !once {
				close(waits)
			}
			once = true
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("round %d: %v", round, err)
		}
		cancel()
	}
	receives(t, ns, tap)
}

// TestGone: when the interface is removed, or the link closed, a wait ends, and later calls fail at once.
func TestGone(t *testing.T) {
	for _, how := range []string{"removed", "closed"} {
		ns := newNamespace(t)
		tap := ns.tap(t, Config{Name: "gone"})
		ended := make(chan struct{})
		var once sync.Once // it may wait again
		_, err := tap.Receive(t.Context(), 0, [][]byte{make([]byte, 2000)}, func() {
			once.Do(func() {
				go func() {
					defer close(ended)
					if how == "removed" {
						ns.ip(t, "link delete gone")
					} else {
						_ = tap.Close()
					}
				}()
			})
		})
		if <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", how, err)
		}
		if err := tap.Send(t.Context(), 0, [][]byte{make([]byte, 100)}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: send: %v", how, err)
		}
	}
}

// TestOffloads: what the kernel says it can do can be switched on, in every combination that a driver may ask for.
func TestOffloads(t *testing.T) {
	tap := newNamespace(t).tap(t, Config{Name: "gv%d"})
	f := tap.Features()
	least := net.FeatureCSum | net.FeatureHostTSO4 | net.FeatureGuestCSum | net.FeatureGuestTSO4 | net.FeatureGuestTSO6 |
		net.FeatureGuestECN
	if f&least != least {
		t.Errorf("features %#x", f)
	}
	for _, v := range []uint64{
		0, net.FeatureGuestCSum, net.FeatureGuestCSum | net.FeatureGuestUSO4, net.FeatureGuestCSum | net.FeatureGuestTSO6,
		net.FeatureGuestCSum | net.FeatureGuestTSO4 | net.FeatureGuestECN, f,
	} {
		if err := tap.SetOffloads(v); err != nil {
			t.Errorf("%#x: %v", v, err)
		}
	}
}

// packetSocket returns a socket that sends frames out of an interface, as they are.
func (ns *namespace) packetSocket(t testing.TB, name string) (socket int) {
	t.Helper()
	ns.do(func() {
		var err error
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Errorf("socket: %v", err)
			return
		}
		link, err := stdnet.InterfaceByName(name)
		if err == nil {
			err = unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: link.Index})
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { _ = unix.Close(socket) })
	return socket
}

// TestFilter lets the kernel drop what the driver does not want.
func TestFilter(t *testing.T) {
	ns := newNamespace(t)
	tap := ns.tap(t, Config{Name: "gv0"})
	ns.ip(t, "link set gv0 addrgenmode none")
	ns.ip(t, "link set gv0 up")
	socket := ns.packetSocket(t, "gv0")
	own, group, other := net.MAC{2, 0, 0, 0, 0, 1}, net.MAC{1, 0, 0x5e, 0, 0, 1}, net.MAC{2, 9, 9, 9, 9, 9}
	var many []net.MAC
	for i := range byte(20) {
		many = append(many, net.MAC{1, 0, 0x5e, 0, 1, i})
	}
	for _, tt := range []struct {
		name   string
		filter net.Filter
		pass   []net.MAC
	}{
		{"promiscuous", net.Filter{Promiscuous: true, Addresses: []net.MAC{own}}, []net.MAC{own, net.Broadcast, group, other}},
		{"own", net.Filter{Addresses: []net.MAC{own, net.Broadcast}}, []net.MAC{own, net.Broadcast}},
		{"group", net.Filter{Addresses: []net.MAC{own, net.Broadcast, group}}, []net.MAC{own, net.Broadcast, group}},
		{"all groups", net.Filter{AllMulticast: true, Addresses: []net.MAC{own, net.Broadcast}}, []net.MAC{own, net.Broadcast, group}},
		{"many groups", net.Filter{Addresses: append([]net.MAC{own, net.Broadcast}, many...)}, []net.MAC{own, net.Broadcast, many[19]}},
		{"many stations", net.Filter{Addresses: append([]net.MAC{own, net.Broadcast}, make([]net.MAC, 7)...)}, []net.MAC{own, net.Broadcast, group, other}},
		{"promiscuous again", net.Filter{Promiscuous: true}, []net.MAC{own, net.Broadcast, group, other}},
	} {
		if err := tap.SetFilter(tt.filter); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for _, to := range []net.MAC{own, net.Broadcast, group, many[19], other} {
			f := append(append(append([]byte(nil), to[:]...), other[:]...), 0x88, 0xb5, 1, 2)
			if _, err := unix.Write(socket, append(f, make([]byte, 46)...)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
		}
		var got []net.MAC
		ctx, cancel := context.WithCancel(t.Context())
		for p := make([]byte, 2000); ; {
			n, err := tap.Receive(ctx, 0, [][]byte{p}, cancel)
			if err != nil {
				break
			}
			if n > 26 && p[24] == 0x88 && p[25] == 0xb5 {
				got = append(got, net.MAC(p[12:18]))
			}
		}
		for _, want := range tt.pass {
			if !strings.Contains(fmt.Sprint(got), want.String()) {
				t.Errorf("%s: %v did not pass: %v", tt.name, want, got)
			}
		}
		if tt.name != "promiscuous" && len(tt.pass) == 2 && len(got) != 2 {
			t.Errorf("%s: %v passed", tt.name, got)
		}
	}
}

// TestSeveralPairs: frames arrive on the first pair, in order, whichever pairs the guest sends frames of the same flow by, be the interface
// made for one queue, for several, or by us.
func TestSeveralPairs(t *testing.T) {
	for _, made := range []string{"", "tuntap add dev gv0 mode tap", "tuntap add dev gv0 mode tap multi_queue"} {
		t.Run(made, func(t *testing.T) { testSeveralPairs(t, made) })
	}
}

func testSeveralPairs(t *testing.T, made string) {
	const pairs, rounds = 3, 300
	ns := newNamespace(t)
	if made != "" {
		ns.ip(t, made)
	}
	tap := ns.tap(t, Config{Name: "gv0", Pairs: pairs})
	ns.ip(t, "link set gv0 address 02:00:00:00:00:09 addrgenmode none")
	ns.ip(t, "addr add 10.9.0.1/24 dev gv0")
	ns.ip(t, "link set gv0 up")
	ns.ip(t, "neigh add 10.9.0.2 lladdr 02:00:00:00:00:01 dev gv0")
	var c stdnet.Conn
	var err error
	ns.do(func() { c, err = stdnet.Dial("udp4", "10.9.0.2:1000") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, net.HeaderSize+14+28+1)
	const at = net.HeaderSize + 14 + 28 // of the datagram's byte
	for i := range rounds {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			answerTo(t, tap, answer)
		}
		if err := tap.Send(t.Context(), i%pairs, [][]byte{answer}); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 2000)
	ctx, cancel := context.WithTimeout(t.Context(), virtiotest.Timeout)
	defer cancel()
	for i := 1; i < rounds; i++ {
		if n, err := tap.Receive(ctx, 0, [][]byte{p}, func() {}); err != nil || n != len(answer) || p[at] != byte(i) {
			t.Fatalf("frame %d: %v, %d bytes, datagram %d", i, err, n, p[at])
		}
	}
	buf := make([]byte, 2)
	for range rounds {
		_ = c.SetReadDeadline(time.Now().Add(virtiotest.Timeout))
		if n, err := c.Read(buf); err != nil || n != 1 {
			t.Fatalf("what the guest sent: %v, %d bytes", err, n)
		}
	}
	for i := 1; i < pairs; i++ {
		ctx, cancel := context.WithCancel(t.Context())
		if n, err := tap.Receive(ctx, i, [][]byte{p}, cancel); !errors.Is(err, context.Canceled) {
			t.Errorf("pair %d: %v, a frame of %d bytes", i, err, n)
		}
	}
	waits, ended := make(chan struct{}), make(chan error)
	go func() {
		_, err := tap.Receive(t.Context(), 1, [][]byte{p}, func() { close(waits) })
		ended <- err
	}()
	<-waits
	if err := errors.Join(tap.Close(), tap.Close()); err == nil {
		t.Error("an interface was closed twice")
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a receiver of an interface that was closed: %v", err)
	}
}

// answerTo takes the first datagram and makes the frame that answers it.
func answerTo(t *testing.T, tap *TAP, answer []byte) {
	t.Helper()
	p := make([]byte, 2000)
	n, err := tap.Receive(t.Context(), 0, [][]byte{p}, func() {})
	if err != nil || n != len(answer) {
		t.Fatalf("%v, %d bytes", err, n)
	}
	eth, ip := net.HeaderSize, net.HeaderSize+14
	udp := ip + 20
	copy(answer[eth:], p[eth:n])
	copy(answer[eth:], p[eth+6:eth+12])
	copy(answer[eth+6:], p[eth:eth+6])
	copy(answer[ip+12:], p[ip+16:ip+20])
	copy(answer[ip+16:], p[ip+12:ip+16])
	copy(answer[udp:], p[udp+2:udp+4])
	copy(answer[udp+2:], p[udp:udp+2])
	binary.BigEndian.PutUint16(answer[udp+6:], 0) // no checksum
}
