package net

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// HeaderSize is the size of struct virtio_net_hdr, in bytes, which stands in front of every frame in both directions
// (virtio 1.2 §5.1.6). This package looks into none but for num_buffers, which it writes: what a header says is between
// the driver and the Link.
const HeaderSize = 12

// MaxFrame bounds a frame, its header included: a packet of 64 KiB behind an Ethernet header with two VLAN tags.
const MaxFrame = HeaderSize + 14 + 8 + 65535

// Errors of a Link.
var (
	// ErrNoFrame is what Receive returns when there is none and it does not wait: the device looks again when the driver has offered
	// more buffers.
	ErrNoFrame = errors.New("no frame")
	// ErrBadFrame is what Send returns for a frame, or a header, that breaks the rules. It is not logged.
	ErrBadFrame = errors.New("a frame that breaks the rules")
	// ErrClosed is what a Link returns that will never carry a frame again, or not on this pair for now.
	ErrClosed = errors.New("the link is closed")
)

// Link is the host's end of the guest's network cable: a TAP (package tap), or a network stack in this process. It has one
// or more pairs of queues, 0 to Pairs-1, of which the first ones are in use. Send and Receive of one pair may run at the same
// time, Receive of one pair never runs twice. The buffers alias guest memory, which may change at any moment: hand
// them to the kernel, or copy them out before looking at them.
type Link interface {
	// Features returns which of the features CSUM, GUEST_CSUM and those of segmentation it can carry (OffloadFeatures).
	Features() uint64
	// Pairs returns the number of pairs, constant and at least 1.
	Pairs() int
	// Receive puts the next frame, behind its header, into the buffers in order, and returns the size of both. It is more
	// than the buffers hold when the frame had to be cut off. It waits for a frame until ctx is done, then returns
	// ctx.Err(); before it waits it calls idle. Any error but ErrNoFrame, ErrClosed and ctx's says that a frame was lost.
	// The first pair gets whatever order matters in; others may get nothing.
	Receive(ctx context.Context, pair int, buffers [][]byte, idle func()) (int, error)
	// Send takes a frame behind its header. With any error the frame is lost.
	Send(ctx context.Context, pair int, buffers [][]byte) error
	// SetOffloads says what the driver can take: a selection of the GUEST features. Received frames ask for nothing else.
	SetOffloads(features uint64) error
}

// Filterer is a Link that can keep frames from the guest by their destination.
type Filterer interface {
	SetFilter(f Filter) error
}

// Filter says which frames the driver wants (virtio 1.2 §5.1.6.5.1, §5.1.6.5.2).
type Filter struct {
	// Promiscuous is all of them. The rest counts for nothing then.
	Promiscuous bool
	// AllMulticast is all frames with a multicast destination.
	AllMulticast bool
	// Addresses are destinations: first the device's own, then broadcast, then others.
	Addresses []MAC
}

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is every station's address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String returns the address in the usual form.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// ParseMAC reads an address of the form 02:00:5e:10:00:01, which must be one that a station can have.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	parts := strings.Split(s, ":")
	ok := len(parts) == len(m)
	for i := 0; ok && i < len(m); i++ {
		v, err := strconv.ParseUint(parts[i], 16, 8)
		m[i] = byte(v)
		ok = err == nil && len(parts[i]) == 2
	}
	if !ok || !m.unicast() {
		return MAC{}, fmt.Errorf("%q is not the Ethernet address of one station: write it as 02:00:5e:10:00:01", s)
	}
	return m, nil
}

// unicast says whether a station can have the address: neither a group's nor all zeroes.
func (m MAC) unicast() bool { return m[0]&1 == 0 && m != MAC{} }
