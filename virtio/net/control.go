package net

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govmm/govmm/virtio"
)

// Classes and commands of the control queue (virtio 1.2 §5.1.6.5).
const (
	classRX            = 0
	cmdPromiscuous     = 0
	cmdAllMulticast    = 1
	classMAC           = 1
	cmdTable           = 0
	cmdAddress         = 1
	classAnnounce      = 3
	cmdAcknowledge     = 0
	classPairs         = 4
	cmdSetPairs        = 0
	classGuestOffloads = 5
	cmdSetOffloads     = 0
)

// Answers.
const (
	answerOK    = 0
	answerError = 1
)

// maxAddresses bounds each half of the filter table that is kept. A longer one counts as all of its kind.
const maxAddresses = 64

// settings are what the driver has set up by features and commands, and a snapshot keeps.
type settings struct {
	active                    bool // DRIVER_OK
	features                  uint64
	pairs                     uint16
	offloads                  uint64
	promiscuous, allMulticast bool
	// The table; a half that did not fit is empty, and its flag set.
	unicast, multicast         []MAC
	manyUnicast, manyMulticast bool
}

// errCommand is the driver's fault: an answer, but no log line.
var errCommand = errors.New("bad command")

// control carries out the driver's commands.
func (d *Device) control(ctx context.Context, q *virtio.Queue) error {
	for ctx.Err() == nil {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		if c.WritableLen() == 0 {
			_ = q.Push(c, 0)
			return fmt.Errorf("%w: network command without a place for the answer", virtio.ErrMalformed)
		}
		answer := byte(answerOK)
		if err := d.command(c); err != nil {
			answer = answerError
			if !errors.Is(err, errCommand) {
				d.complain("a command of the driver's failed", err)
			}
		}
		if err := q.Push(c, uint32(c.Write([]byte{answer}))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// arguments reads what is behind a command's header, once.
type arguments struct {
	buffers [][]byte
	left    uint64
}

// next copies the next len(p) bytes, or says that there are not as many.
func (a *arguments) next(p []byte) bool {
	if uint64(len(p)) > a.left {
		return false
	}
	virtio.CopyFrom(p, a.buffers)
	a.skip(uint64(len(p)))
	return true
}

func (a *arguments) skip(n uint64) {
	a.buffers = virtio.Skip(a.buffers, int(n))
	a.left -= n
}

// command carries out one command, if the feature was negotiated that it comes with.
func (d *Device) command(c *virtio.Chain) error {
	a := &arguments{c.Readable(), c.ReadableLen()}
	var head [2]byte
	if !a.next(head[:]) {
		return errCommand
	}
	switch class, cmd := head[0], head[1]; {
	case class == classRX && d.negotiated(FeatureCtrlRX):
		return d.setMode(cmd, a)
	case class == classMAC && cmd == cmdTable && d.negotiated(FeatureCtrlRX):
		return d.setTable(a)
	case class == classMAC && cmd == cmdAddress && d.negotiated(FeatureCtrlMACAddr):
		return d.setAddress(a)
	case class == classAnnounce && cmd == cmdAcknowledge && d.negotiated(FeatureGuestAnnounce):
		d.mu.Lock()
		defer d.mu.Unlock()
		d.announce = false
		return nil
	case class == classPairs && cmd == cmdSetPairs && d.negotiated(FeatureMultiQueue):
		return d.setPairs(a)
	case class == classGuestOffloads && cmd == cmdSetOffloads && d.negotiated(FeatureCtrlGuestOffloads):
		return d.setOffloads(a)
	}
	return errCommand
}

func (d *Device) negotiated(feature uint64) bool { return d.set.features&feature != 0 }

func (d *Device) setMode(cmd byte, a *arguments) error {
	var on [1]byte
	switch {
	case !a.next(on[:]):
		return errCommand
	case cmd == cmdPromiscuous:
		d.set.promiscuous = on[0] != 0
	case cmd == cmdAllMulticast:
		d.set.allMulticast = on[0] != 0
	default:
		return errCommand
	}
	return d.applyFilter()
}

// setTable takes two lists, each behind its length: unicast addresses, and those of groups.
func (d *Device) setTable(a *arguments) error {
	unicast, manyUnicast, ok := a.addresses()
	if !ok {
		return errCommand
	}
	multicast, manyMulticast, ok := a.addresses()
	if !ok {
		return errCommand
	}
	s := &d.set
	s.unicast, s.manyUnicast, s.multicast, s.manyMulticast = unicast, manyUnicast, multicast, manyMulticast
	return d.applyFilter()
}

// addresses reads one list. One that is too long is not kept.
func (a *arguments) addresses() (list []MAC, many, ok bool) {
	var count [4]byte
	if !a.next(count[:]) {
		return nil, false, false
	}
	n := uint64(binary.LittleEndian.Uint32(count[:]))
	size := uint64(len(MAC{}))
	switch {
	case n > a.left/size:
		return nil, false, false
	case n > maxAddresses:
		a.skip(n * size)
		return nil, true, true
	}
	list = make([]MAC, n)
	for i := range list {
		a.next(list[i][:])
	}
	return list, false, true
}

func (d *Device) setAddress(a *arguments) error {
	var m MAC
	if !a.next(m[:]) || !m.unicast() {
		return errCommand
	}
	d.mu.Lock()
	d.mac = m
	d.mu.Unlock()
	return d.applyFilter()
}

func (d *Device) applyFilter() error {
	if d.filter == nil || !d.negotiated(FeatureCtrlRX) {
		return nil
	}
	s := &d.set
	f := Filter{Promiscuous: s.promiscuous || s.manyUnicast, AllMulticast: s.allMulticast || s.manyMulticast}
	f.Addresses = append(f.Addresses, d.MAC(), Broadcast)
	f.Addresses = append(append(f.Addresses, s.unicast...), s.multicast...)
	return d.filter.SetFilter(f)
}

func (d *Device) setPairs(a *arguments) error {
	var p [2]byte
	if !a.next(p[:]) {
		return errCommand
	}
	n := binary.LittleEndian.Uint16(p[:])
	if n == 0 || int(n) > d.link.Pairs() {
		return errCommand
	}
	d.set.pairs = n
	old := d.pairs.Swap(int32(n))
	for i := int(old); i < int(n) && d.transport != nil; i++ {
		d.transport.Kick(2 * i) // its Serve had nothing to do so far
	}
	return nil
}

func (d *Device) setOffloads(a *arguments) error {
	var p [8]byte
	if !a.next(p[:]) {
		return errCommand
	}
	v := binary.LittleEndian.Uint64(p[:])
	if v&^(d.set.features&guestOffloads) != 0 {
		return errCommand
	}
	if err := d.link.SetOffloads(consistent(v)); err != nil {
		return err
	}
	d.set.offloads = v
	return nil
}
