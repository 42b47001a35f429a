package network

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// kernel stands for a guest: a thread in a network namespace of its own, which carries out what it is asked as PID 1 does. Its cards are
// TAPs whose other end is held open.
type kernel struct {
	t     *testing.T
	calls chan func()
	new   []*Interface // to appear with Plug
	cards map[int32]*os.File
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{t: t, calls: make(chan func()), cards: map[int32]*os.File{}}
	t.Cleanup(func() { close(k.calls) })
	go func() {
		runtime.LockOSThread() // never unlocked
		must(t, unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
		for f := range k.calls {
			f()
		}
	}()
	return k
}

// do runs f in the guest's namespace.
func (k *kernel) do(f func(c conn)) {
	done := make(chan struct{})
	k.calls <- func() {
		defer close(done)
		c := rtnl(k.t)
		f(c)
	}
	<-done
}

func (k *kernel) Network(steps []agent.NetworkStep) ([]agent.Answer, error) {
	out := make([]agent.Answer, len(steps))
	k.do(func(c conn) {
		for i, s := range steps {
			var err error
			if s.Request == "" {
				err = os.WriteFile("/proc/sys/net/"+s.Sysctl.Name, []byte(s.Sysctl.Value), 0)
			} else {
				out[i].Data, err = k.ask(c, s.Request)
			}
			errno := unix.Errno(0)
			if err != nil && !errors.As(err, &errno) {
				errno = unix.EIO
			}
			out[i].Errno = uint32(errno)
		}
	})
	return out, nil
}

func (k *kernel) ask(c conn, request string) (string, error) {
	var m netlink.Message
	must(k.t, m.UnmarshalBinary([]byte(request)))
	m.Header.Length, m.Header.Sequence, m.Header.PID = 0, 0, 0
	answers, err := c.Execute(m)
	var data []byte
	for _, a := range answers {
		b, err := a.MarshalBinary()
		must(k.t, err)
		data = append(data, b...)
	}
	// A TAP says what it is; a virtio device has no kind.
	return strings.ReplaceAll(string(data), "tun\x00", "\x00\x00\x00\x00"), err
}

func (k *kernel) Plug() error {
	k.do(func(c conn) {
		for _, i := range k.new {
			f, name := openTAP(k.t)
			l := c.link(k.t, name)
			must(k.t, c.execute(request{unix.RTM_NEWLINK, 0, append(ifInfo(l.Index, 0, 0), attributes(func(e *attributeEncoder) {
				e.Bytes(unix.IFLA_ADDRESS, i.MAC)
				e.String(unix.IFLA_IFNAME, "new"+name[len(tapPrefix):])
			})...), "card"}))
			k.cards[l.Index] = f
		}
		k.new = nil
	})
	return nil
}

func (k *kernel) Unplug(index int32) error {
	f := k.cards[index]
	if f == nil {
		return unix.ENODEV
	}
	delete(k.cards, index)
	return f.Close()
}

// insert makes the TAP in the container's namespace, in which it is called.
func (k *kernel) insert(i *Interface) (Card, error) {
	f, name := openTAP(k.t)
	k.new = append(k.new, i)
	return Card{TAP: name, Remove: f.Close}, nil
}

// view is what a namespace shows, without indices and in words.
func view(t *testing.T, s *state) []string {
	t.Helper()
	var out []string
	names := map[int32]string{loopback: "lo"}
	for _, i := range s.Interfaces {
		names[i.Index] = i.Name
		disabled := i.IPv6[26]
		out = append(out, strings.Join([]string{
			i.Name, net.HardwareAddr(i.MAC).String(), "mtu", string(rune('0' + i.MTU/1000)), "up", map[bool]string{true: "1", false: "0"}[i.Up()],
			"rp", string(rune('0' + i.IPv4[7])), "no6", string(rune('0' + disabled)),
		}, " "))
	}
	same := indices{}
	for index := range names {
		same[index] = 0
	}
	for _, o := range s.Objects {
		data, ok := o.in(same)
		if !ok {
			t.Errorf("%v is of no interface", o)
		}
		// The kernel makes these when it has noticed the carrier, on each side for itself.
		if !strings.HasPrefix(o.String(), "address fe80:") {
			out = append(out, o.String()+" "+string(data))
		}
	}
	slices.Sort(out)
	return append(out, "IPv4 routes to anywhere:"+fromAnywhere(s, names))
}

// fromAnywhere lists IPv4 default routes by their interfaces, in the order in which the kernel takes them.
func fromAnywhere(s *state, names map[int32]string) string {
	list := ""
	for _, o := range s.Objects {
		if o.kind != route || o.data[0] != unix.AF_INET || o.data[1] != 0 {
			continue
		}
		for index, name := range names {
			if _, ok := o.in(indices{index: 0}); ok {
				list += " " + name
			}
		}
	}
	return list
}

// differences are those of the guest's network and the container's.
func (k *kernel) differences(t *testing.T) string {
	t.Helper()
	want, err := Read()
	must(t, err)
	var got *state
	k.do(func(c conn) {
		got, err = c.read()
		must(t, err)
	})
	return cmp.Diff(view(t, want), view(t, got))
}

func (c conn) address(t *testing.T, index int32, prefix string) request {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	head := []byte{family, byte(p.Bits()), unix.IFA_F_NODAD, 0, byte(index), byte(index >> 8), 0, 0}
	return request{unix.RTM_NEWADDR, netlink.Create, append(head, attributes(func(e *attributeEncoder) {
		e.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		e.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	})...), "address " + prefix}
}

func route4(to, via string, index int32) request {
	p := netip.MustParsePrefix(to)
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	scope := byte(unix.RT_SCOPE_UNIVERSE)
	if via == "" {
		scope = unix.RT_SCOPE_LINK
	}
	head := []byte{family, byte(p.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, scope, unix.RTN_UNICAST, 0, 0, 0, 0}
	return request{unix.RTM_NEWROUTE, netlink.Create | netlink.Append, append(head, attributes(func(e *attributeEncoder) {
		if p.Bits() > 0 {
			e.Bytes(unix.RTA_DST, p.Addr().AsSlice())
		}
		if via != "" {
			e.Bytes(unix.RTA_GATEWAY, netip.MustParseAddr(via).AsSlice())
		}
		e.Uint32(unix.RTA_OIF, uint32(index))
	})...), "route " + to}
}

// negated takes away what a request makes.
func negated(r request) request { return request{r.kind + 1, 0, r.data, "no " + r.what} }

func rename(index int32, name string) request {
	return request{unix.RTM_NEWLINK, 0, append(ifInfo(index, 0, 0), attributes(func(e *attributeEncoder) { e.String(unix.IFLA_IFNAME, name) })...), "rename"}
}

func up(index int32, on uint32) request {
	return request{unix.RTM_NEWLINK, 0, ifInfo(index, on*unix.IFF_UP, unix.IFF_UP), "up"}
}

// TestManager has a guest follow a namespace through all kinds of changes.
func TestManager(t *testing.T) {
	k := newKernel(t)
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		m := NewManager(Config{Guest: k, Insert: k.insert, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		sync := func(what string, requests ...request) {
			t.Helper()
			must(t, c.execute(requests...))
			if err := m.Sync(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if d := k.differences(t); d != "" {
				t.Errorf("%s: the guest's network differs (-container +guest):\n%s", what, d)
			}
		}
		sync("nothing", up(loopback, 1))
		c.veth(t, "eth0", "far0")
		far := c.link(t, "far0")
		must(t, c.execute(rename(far.Index, tapPrefix+"far")))
		hide(t, c, far.Index)
		i := c.link(t, "eth0").Index
		sync("an interface",
			request{unix.RTM_NEWLINK, 0, append(ifInfo(i, 0, 0), attributes(func(e *attributeEncoder) { e.Uint32(unix.IFLA_MTU, 9000) })...), "mtu"},
			c.address(t, i, "10.1.0.2/24"), c.address(t, i, "10.1.0.3/24"), c.address(t, i, "fd00::2/64"), c.address(t, loopback, "10.9.9.9/32"),
			route4("10.7.0.0/16", "", i), route4("0.0.0.0/0", "10.7.0.1", i), route4("::/0", "fd00::1", i),
			request{unix.RTM_NEWNEIGH, netlink.Create, append([]byte{unix.AF_INET, 0, 0, 0, byte(i), 0, 0, 0, unix.NUD_PERMANENT, 0, 0, 0}, attributes(func(e *attributeEncoder) {
				e.Bytes(unix.NDA_DST, []byte{10, 1, 0, 77})
				e.Bytes(unix.NDA_LLADDR, []byte{2, 0, 0, 0, 0, 77})
			})...), "neighbour"},
			request{unix.RTM_NEWRULE, netlink.Create | netlink.Excl, append([]byte{unix.AF_INET, 0, 0, 0, 100, 0, 0, unix.FR_ACT_TO_TBL, 0, 0, 0, 0}, attributes(func(e *attributeEncoder) {
				e.Uint32(unix.FRA_PRIORITY, 1000)
			})...), "rule"},
		)
		sync("again")
		sync("changes", negated(c.address(t, i, "10.1.0.3/24")), c.address(t, i, "10.1.0.4/24"), negated(route4("::/0", "fd00::1", i)))
		sysctl(t, "ipv4/conf/eth0/rp_filter", "2")
		sysctl(t, "ipv6/conf/eth0/disable_ipv6", "1")
		sync("sysctls")
		c.veth(t, "eth1", "far1")
		hide(t, c, c.link(t, "far1").Index)
		j := c.link(t, "eth1").Index
		sync("a second interface", c.address(t, j, "10.2.0.2/24"), route4("10.8.0.0/16", "10.2.0.1", j))
		first := func(r request) request { r.flags = netlink.Create; return r }
		sync("a route that goes before one like it", first(route4("0.0.0.0/0", "10.2.0.1", j)))
		sync("one that follows", negated(route4("0.0.0.0/0", "10.7.0.1", i)), route4("0.0.0.0/0", "10.7.0.1", i))
		sync("names change places", up(i, 0), up(j, 0), rename(i, "x"), rename(j, "eth0"), rename(i, "eth1"), up(j, 1))
		sync("one goes", request{unix.RTM_DELLINK, 0, ifInfo(i, 0, 0), "delete"})
		sync("the other goes", request{unix.RTM_DELLINK, 0, ifInfo(j, 0, 0), "delete"})
		if len(k.cards) != 0 {
			t.Errorf("%d cards are left", len(k.cards))
		}
		gone(t)
	})
}

// TestManagerLeavesOut has a guest follow a namespace with an interface that it cannot have.
func TestManagerLeavesOut(t *testing.T) {
	k := newKernel(t)
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		full, tries := errors.New("no slot is left"), 0
		insert := func(i *Interface) (Card, error) {
			if len(k.cards) == 2 {
				tries++
				return Card{}, full
			}
			return k.insert(i)
		}
		m := NewManager(Config{Guest: k, Insert: insert, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		sync := func(what, lacking string, requests ...request) {
			t.Helper()
			must(t, c.execute(requests...))
			err := m.Sync()
			if lacking == "" && err != nil || lacking != "" && (err == nil || !strings.Contains(err.Error(), lacking)) {
				t.Errorf("%s: error %v, want one about %q", what, err, lacking)
			}
		}
		list := func() string {
			var out []string
			k.do(func(c conn) {
				s, err := c.read()
				must(t, err)
				for _, o := range s.Objects {
					if text := o.String(); strings.HasPrefix(text, "address 10.") {
						out = append(out, text)
					}
				}
			})
			return strings.Join(out, ", ")
		}
		links := make([]int32, 3)
		for n := range links {
			name := "eth" + string(rune('0'+n))
			c.veth(t, name, "far")
			hide(t, c, c.link(t, "far").Index)
			links[n] = c.link(t, name).Index
			if n < 2 {
				sync(name, "")
			}
		}
		sync("three", "interface eth2: no slot is left", c.address(t, links[0], "10.1.0.2/24"), c.address(t, links[2], "10.3.0.2/24"))
		sync("again", "interface eth2: no slot is left", c.address(t, links[1], "10.2.0.2/24"))
		if tries != 1 {
			t.Errorf("%d tries to give the guest an interface for which it has no place", tries)
		}
		if got, want := list(), "address 10.1.0.2/24, address 10.2.0.2/24"; got != want {
			t.Errorf("the guest has %s, want %s", got, want)
		}
		tun := openTUN(t)
		sync("a tunnel", "tun0, which carries no Ethernet frames", up(c.link(t, "tun0").Index, 1),
			request{unix.RTM_DELLINK, 0, ifInfo(links[1], 0, 0), "delete"})
		if got, want := list(), "address 10.1.0.2/24, address 10.3.0.2/24"; got != want {
			t.Errorf("the guest has %s, want %s", got, want)
		}
		must(t, tun.Close())
		sync("all", "")
	})
}

// TestManagerRefused has a guest's kernel refuse a change, and follow the others, what goes as well as what comes.
func TestManagerRefused(t *testing.T) {
	k := newKernel(t)
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		m := NewManager(Config{Guest: k, Insert: k.insert, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		c.veth(t, "eth0", "far0")
		hide(t, c, c.link(t, "far0").Index)
		i := c.link(t, "eth0").Index
		must(t, m.Sync())
		size := func(mtu uint32) request {
			return request{unix.RTM_NEWLINK, 0, append(ifInfo(i, 0, 0), attributes(func(e *attributeEncoder) { e.Uint32(unix.IFLA_MTU, mtu) })...), "mtu"}
		}
		for _, step := range []struct {
			request
			want int // addresses
		}{{c.address(t, i, "10.1.0.2/24"), 1}, {negated(c.address(t, i, "10.1.0.2/24")), 0}, {c.address(t, i, "10.1.0.3/24"), 1}} {
			must(t, c.execute(size(65535), step.request)) // more than a TAP takes
			if err := m.Sync(); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s: error %v", step.what, err)
			}
			k.do(func(c conn) {
				s, err := c.read()
				must(t, err)
				got := slices.DeleteFunc(s.Objects, func(o object) bool { return !strings.HasPrefix(o.String(), "address 10.") })
				if len(got) != step.want {
					t.Errorf("%s: the guest has %v", step.what, got)
				}
			})
		}
		must(t, c.execute(size(1400)))
		must(t, m.Sync())
		if d := k.differences(t); d != "" {
			t.Errorf("the guest's network differs (-container +guest):\n%s", d)
		}
	})
}

// openTUN makes the interface tun0, whose frames are not Ethernet's.
func openTUN(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	r, err := unix.NewIfreq("tun0")
	must(t, err)
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
	return os.NewFile(uintptr(fd), "tun")
}

// hide moves an interface to a namespace of its own.
func hide(t *testing.T, c conn, index int32) {
	t.Helper()
	done := make(chan int)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	go func() {
		runtime.LockOSThread() // never unlocked
		must(t, unix.Unshare(unix.CLONE_NEWNET))
		done <- unix.Gettid()
		<-release
	}()
	tid := <-done
	must(t, c.execute(request{unix.RTM_NEWLINK, 0, append(ifInfo(index, 0, 0), attributes(func(e *attributeEncoder) {
		e.Uint32(unix.IFLA_NET_NS_PID, uint32(tid))
	})...), "move"}))
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}
