package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// Guest is the guest's side: PID 1 and what it asks of its kernel.
type Guest interface {
	// Network has the guest's kernel carry out steps.
	Network([]agent.NetworkStep) ([]agent.Answer, error)
	// Plug has the guest look for devices that have come.
	Plug() error
	// Unplug has the guest let go of the device of one of its interfaces.
	Unplug(index int32) error
}

// A Card is a network device of the guest.
type Card struct {
	TAP    string       // the name of the interface at its other end
	Remove func() error // takes the device out of the guest, and the TAP away
}

// Config is what a Manager needs.
type Config struct {
	Guest Guest
	// Insert gives the guest a network device with an interface's address and MTU.
	Insert func(*Interface) (Card, error)
	Relay  Relay // nil for none
	Logger *slog.Logger
}

// Manager keeps a guest's network like that of the namespace in which it is made.
type Manager struct {
	cfg Config

	mu       sync.Mutex
	redirect *redirector // nil until there is an interface
	nics     []*nic
	objects  []object // that the guest has
	given    bool     // the guest has had all that the namespace held
	left     leftOut
	mirrored bool // loopback has been
	named    bool // the guest has the name server
}

// leftOut are the interfaces, by their indices, that the guest could not be given, and among which others that was. They are not tried again
// while these are the same: a try makes a TAP, of which the Watcher hears.
type leftOut struct {
	why   map[int32]error
	among []int32
}

// nic is an interface of the namespace's that the guest has too.
type nic struct {
	host Interface // as the guest has been told
	card Card
	// guest is the guest's interface; it has no index before the guest has found the device.
	guest Interface
}

// NewManager makes a manager of the calling process's network namespace; the guest gets nothing before Sync.
func NewManager(cfg Config) *Manager { return &Manager{cfg: cfg} }

// Sync gives the guest what the namespace holds now and it has not, and takes away what is there no more. An interface that the guest cannot
// have is an error; one that has come after all others were given does not keep the guest from following those.
func (m *Manager) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, err := Read()
	if err != nil {
		return err
	}
	if now.Refused != nil && !m.given {
		return now.Refused
	}
	lacking := now.Refused
	if len(now.Interfaces) > 0 || len(m.nics) > 0 {
		missed, err := m.follow(now)
		if err != nil {
			return err
		}
		if lacking == nil {
			lacking = missed
		}
	}
	m.given = m.given || lacking == nil
	return lacking
}

// follow brings the guest to what the namespace holds, and returns the error of the first interface that it could not be given.
func (m *Manager) follow(now *state) (missed, err error) {
	for _, n := range slices.Clone(m.nics) {
		if !slices.ContainsFunc(now.Interfaces, n.is) {
			m.remove(n)
		}
	}
	missed, err = m.insert(now.Interfaces)
	if err != nil {
		return nil, err
	}
	now.Interfaces = slices.DeleteFunc(now.Interfaces, func(i Interface) bool { return m.find(i) == nil })
	if err := m.configure(now); err != nil {
		return nil, err
	}
	return missed, m.relay()
}

// is tells whether i is the interface that n stands for.
func (n *nic) is(i Interface) bool { return i.Index == n.host.Index }

func (m *Manager) find(i Interface) *nic {
	for _, n := range m.nics {
		if n.is(i) {
			return n
		}
	}
	return nil
}

// remove takes an interface away from the guest. A guest that does not let go of the device loses it all the same.
func (m *Manager) remove(n *nic) {
	m.nics = slices.DeleteFunc(m.nics, func(o *nic) bool { return o == n })
	where := m.indices()
	m.objects = slices.DeleteFunc(m.objects, func(o object) bool {
		_, ok := o.in(where)
		return !ok
	})
	if n.guest.Index != 0 {
		if err := m.cfg.Guest.Unplug(n.guest.Index); err != nil {
			m.log("the guest does not let go of an interface", n.host.Name, err)
		}
	}
	if err := m.redirect.Undo(n.host.Index); err != nil {
		m.log("a redirection stays", n.host.Name, err)
	}
	if err := n.card.Remove(); err != nil {
		m.log("a device stays", n.host.Name, err)
	}
}

func (m *Manager) log(what, name string, err error) {
	m.cfg.Logger.Debug("network: "+what, "interface", name, "error", err)
}

// insert gives the guest a device for each interface that it has none for, and returns the error of the first for which that failed.
func (m *Manager) insert(list []Interface) (missed, err error) {
	var among []int32
	for _, i := range list {
		among = append(among, i.Index)
	}
	if !m.given || !slices.Equal(among, m.left.among) {
		m.left = leftOut{map[int32]error{}, among}
	}
	for _, i := range list {
		if m.find(i) != nil {
			continue
		}
		err := m.left.why[i.Index]
		if err == nil {
			err = m.insertOne(i)
		}
		if err != nil && missed == nil {
			missed = err
		}
		m.left.why[i.Index] = err
	}
	if !slices.ContainsFunc(m.nics, func(n *nic) bool { return n.guest.Index == 0 }) {
		return missed, nil
	}
	if err := m.cfg.Guest.Plug(); err != nil {
		return nil, err
	}
	return missed, m.identify()
}

func (m *Manager) insertOne(i Interface) error {
	if m.redirect == nil {
		var err error
		if m.redirect, err = newRedirector(); err != nil {
			return err
		}
	}
	card, err := m.cfg.Insert(&i)
	if err != nil {
		return fmt.Errorf("interface %s: %w", i.Name, err)
	}
	if err := m.redirect.Redirect(&i, card.TAP); err != nil {
		return errors.Join(err, card.Remove())
	}
	m.nics = append(m.nics, &nic{host: i, card: card})
	return nil
}

// identify finds the guest's interfaces of the devices that are new, by their addresses.
func (m *Manager) identify() error {
	answers, err := m.cfg.Guest.Network([]agent.NetworkStep{{
		Protocol: unix.NETLINK_ROUTE, Request: string(encode(unix.RTM_GETLINK, netlink.Dump, ifInfo(0, 0, 0))),
	}})
	if err != nil {
		return err
	}
	links, err := parseLinks(answers[0].Data)
	if err != nil {
		return fmt.Errorf("the guest's interfaces: %w", err)
	}
	taken := map[int32]bool{}
	for _, n := range m.nics {
		taken[n.guest.Index] = true
	}
	for _, n := range m.nics {
		if n.guest.Index != 0 {
			continue
		}
		i := slices.IndexFunc(links, func(l Interface) bool {
			return !taken[l.Index] && l.Kind == "" && slices.Equal(l.MAC, n.host.MAC)
		})
		if i < 0 {
			return fmt.Errorf("interface %s: the guest has not found its device: its kernel needs CONFIG_VIRTIO_NET", n.host.Name)
		}
		n.guest = links[i]
		taken[n.guest.Index] = true
	}
	return nil
}

func (m *Manager) indices() indices {
	where := newIndices()
	for _, n := range m.nics {
		if n.guest.Index != 0 {
			where[n.host.Index] = n.guest.Index
		}
	}
	return where
}

// configure brings the guest's interfaces, and then what depends on them, to the state now.
func (m *Manager) configure(now *state) error {
	var names, switches []step
	for _, i := range now.Interfaces {
		n := m.find(i)
		names = append(names, nameSteps(&i, &n.guest)...)
		if i.Up() != n.guest.Up() {
			switches = append(switches, upStep(i.Name, n.guest.Index, i.Up()))
		}
	}
	where := m.indices()
	addresses, others := changes(m.objects, now.Objects, where)
	begin := append(addresses, switches...)
	if len(begin) > 0 {
		for _, i := range now.Interfaces {
			begin = withoutDAD(&i, begin)
		}
	}
	failed, err := m.carryOut(slices.Concat(m.wayFree(now.Interfaces), names, begin, others))
	if err != nil && failed == nil {
		return err
	}
	m.told(now, where, failed)
	return err
}

// told notes what the guest has now: the state now, but for what failed, which is tried again.
func (m *Manager) told(now *state, where indices, failed []step) {
	objects, interfaces := map[object]bool{}, true
	for _, s := range failed {
		if s.object != nil {
			objects[*s.object] = true
		} else {
			interfaces = false
		}
	}
	for _, i := range now.Interfaces {
		if n := m.find(i); interfaces {
			n.host = i
			n.guest = i.as(n.guest.Index)
		}
	}
	old := m.objects
	m.objects = nil
	for _, o := range now.Objects {
		if _, ok := o.in(where); ok && !objects[o] {
			m.objects = append(m.objects, o)
		}
	}
	for _, o := range old {
		if objects[o] && !slices.Contains(now.Objects, o) {
			m.objects = append(m.objects, o)
		}
	}
}

// as is the interface with another index.
func (i Interface) as(index int32) Interface {
	i.Index = index
	return i
}

// wayFree renames the guest's interfaces whose names others are to get.
func (m *Manager) wayFree(now []Interface) []step {
	var out []step
	for _, i := range now {
		n := m.find(i)
		for _, other := range m.nics {
			if other != n && other.guest.Name == i.Name && n.guest.Name != i.Name {
				other.guest.Name = fmt.Sprintf("%s%d", tapPrefix, other.guest.Index)
				out = append(out, step{
					Request: encode(unix.RTM_NEWLINK, 0, append(ifInfo(other.guest.Index, 0, 0),
						attributes(func(e *attributeEncoder) { e.String(unix.IFLA_IFNAME, other.guest.Name) })...)),
					What: "interface " + i.Name,
				})
			}
		}
	}
	return out
}

// carryOut has the guest take steps, and returns those that failed, and the error of the first.
func (m *Manager) carryOut(steps []step) (failed []step, first error) {
	if len(steps) == 0 {
		return nil, nil
	}
	list := make([]agent.NetworkStep, len(steps))
	for i, s := range steps {
		list[i] = agent.NetworkStep{Protocol: s.Protocol, Request: string(s.Request), Sysctl: agent.Sysctl{Name: s.Path, Value: s.Value}}
	}
	answers, err := m.cfg.Guest.Network(list)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		errno := unix.Errno(a.Errno)
		if errno == 0 || slices.Contains(steps[i].Fine, errno) {
			continue
		}
		err := fmt.Errorf("the guest's network: %s: %w", steps[i].What, errno)
		m.cfg.Logger.Debug(err.Error())
		if failed = append(failed, steps[i]); first == nil {
			first = err
		}
	}
	return failed, first
}

// parseLinks reads a guest's answer: messages one after the other.
func parseLinks(data string) ([]Interface, error) {
	var out []Interface
	for b := []byte(data); len(b) > 0; {
		if len(b) < headerLen {
			return nil, errShort
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < headerLen || n > len(b) {
			return nil, errShort
		}
		if binary.NativeEndian.Uint16(b[4:]) == unix.RTM_NEWLINK {
			i, err := parseLink(b[headerLen:n])
			if err != nil {
				return nil, err
			}
			out = append(out, i)
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return out, nil
}
