package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// redirector connects interfaces of one network namespace with TAPs. What it made is undone when it is closed, or when this process ends.
type redirector struct {
	nft, rtnl conn
	taps      map[int32]int32 // indices of TAPs, by those of the interfaces
	answers   bool            // the namespace's own look-ups get their answers
}

// newRedirector works in the calling thread's network namespace.
func newRedirector() (*redirector, error) {
	r := &redirector{taps: map[int32]int32{}}
	var err error
	if r.nft, err = dial(unix.NETLINK_NETFILTER); err != nil {
		return nil, err
	}
	if r.rtnl, err = dial(unix.NETLINK_ROUTE); err != nil {
		_ = r.nft.Close()
		return nil, err
	}
	return r, nil
}

// Close takes away every redirection.
func (r *redirector) Close() error {
	_ = r.rtnl.Close()
	return r.nft.Close()
}

// tableFor is the table of an interface.
func tableFor(index int32) table {
	return table{familyNetdev, fmt.Sprintf("govmm-%d", index)}
}

// Redirect sends what an interface receives to a TAP, and what the TAP's reader writes out of the interface. The namespace's own kernel
// sees nothing of it: the guest has the addresses now. The TAP gets the interface's MTU, no address of its own, and is switched on.
func (r *redirector) Redirect(i *Interface, tap string) error {
	to, err := r.setUp(i, tap)
	if err != nil {
		return fmt.Errorf("TAP %s: %w", tap, err)
	}
	t := tableFor(i.Index)
	in, out := chain{chainIn, "filter", hookIngress, 0, i.Name}, chain{"out", "filter", hookIngress, 0, tap}
	messages := []netlink.Message{
		t.create(), t.chain(in), t.chain(out),
		t.rule(in.name, load(index(to)), forward()),
		t.rule(out.name, load(index(i.Index)), forward()),
	}
	if r.answers {
		messages = append(messages, keepAnswers(t, to)...)
	}
	if err := r.nft.batch(messages...); err != nil {
		return fmt.Errorf("redirect interface %s: %w", i.Name, errNFT(err))
	}
	r.taps[i.Index] = to
	return nil
}

// chainIn is the chain that an interface's frames enter.
const chainIn = "in"

// index is an interface's, as registers hold it.
func index(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// Undo takes the redirection of an interface away. It is no error if the interface has gone, and the redirection with it.
func (r *redirector) Undo(index int32) error {
	delete(r.taps, index)
	err := r.nft.batch(tableFor(index).remove())
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// genModeNone is IN6_ADDR_GEN_MODE_NONE (linux/if_link.h): no link-local address, and with it no word of the kernel's own.
const genModeNone = 1

// setUp readies a TAP and returns its index.
func (r *redirector) setUp(i *Interface, tap string) (int32, error) {
	all, err := r.rtnl.links()
	if err != nil {
		return 0, err
	}
	for _, l := range all {
		if l.Name != tap {
			continue
		}
		change := attributes(func(e *attributeEncoder) {
			e.Uint32(unix.IFLA_MTU, i.MTU)
			nested(e, unix.IFLA_AF_SPEC, func(e *attributeEncoder) {
				nested(e, unix.AF_INET6, func(e *attributeEncoder) { e.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, genModeNone) })
			})
		})
		return l.Index, r.rtnl.execute(
			request{unix.RTM_NEWLINK, 0, append(ifInfo(l.Index, unix.IFF_NOARP, unix.IFF_NOARP|unix.IFF_MULTICAST), change...), "set up"},
			request{unix.RTM_NEWLINK, 0, ifInfo(l.Index, unix.IFF_UP, unix.IFF_UP), "switch on"},
		)
	}
	return 0, unix.ENODEV
}
