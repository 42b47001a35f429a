package net

import (
	"encoding/binary"
	"testing"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// fuzzRequests has frames, good and bad, and every command, good and bad.
func fuzzRequests() [][]byte {
	all := [][]byte{
		append(make([]byte, HeaderSize), frame(60, 1)...),
		make([]byte, minRoom-1),
		append([]byte{1, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, frame(700, 2)...),
	}
	command := func(class, cmd byte, args []byte) {
		all = append(all, append([]byte{class, cmd}, args...))
		if len(args) > 0 {
			all = append(all, append([]byte{class, cmd}, args[:len(args)-1]...))
		}
	}
	command(classRX, cmdPromiscuous, []byte{0})
	command(classRX, cmdAllMulticast, []byte{1})
	command(classRX, 2, []byte{1})
	command(classMAC, cmdTable, table([]MAC{{2, 1}}, []MAC{{1, 1}, {3, 3}}))
	command(classMAC, cmdTable, table(make([]MAC, maxAddresses+1), nil))
	command(classMAC, cmdTable, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	command(classMAC, cmdAddress, testMAC[:])
	command(classMAC, cmdAddress, Broadcast[:])
	command(classAnnounce, cmdAcknowledge, nil)
	for n := range byte(4) {
		command(classPairs, cmdSetPairs, []byte{n, 0})
	}
	command(classGuestOffloads, cmdSetOffloads, binary.LittleEndian.AppendUint64(nil, guestOffloads))
	command(classGuestOffloads, cmdSetOffloads, binary.LittleEndian.AppendUint64(nil, 1<<63))
	return all
}

// act lets the host side do something: a frame arrives, of a size and on a pair that p says, or the link changes.
func act(dev virtio.Device, p []byte) {
	d := dev.(*Device)
	l := d.link.(*fakeLink)
	if len(p) < 2 {
		d.SetLink(len(p) == 0)
		return
	}
	switch p[0] & 7 {
	case 0:
		d.Announce()
	case 1:
		l.recvErr = append(l.recvErr, errTest)
	case 2:
		l.sendErr = errTest
	case 3:
		l.incoming[0] = append(l.incoming[0], p) // no frame
	case 4:
		l.arrive(int(p[0]>>4)%l.Pairs(), make([]byte, int(p[1])<<8+14))
	default:
		l.arrive(int(p[0]>>4)%l.Pairs(), append(make([]byte, 14), p...))
	}
}

// bounded fails when the device holds what it should not.
func bounded(t testing.TB, dev virtio.Device) {
	d := dev.(*Device)
	for i := range d.receivers {
		r := &d.receivers[i]
		if len(r.chains) != 0 || len(r.buffers) != 0 || r.room != 0 || len(r.frame) > MaxFrame {
			t.Fatalf("receive queue %d holds %d chains, a frame of %d bytes", i, len(r.chains), len(r.frame))
		}
	}
	if len(d.set.unicast) > maxAddresses || len(d.set.multicast) > maxAddresses || d.pairs.Load() < 1 || int(d.pairs.Load()) > d.link.Pairs() {
		t.Fatalf("%d and %d addresses, %d pairs", len(d.set.unicast), len(d.set.multicast), d.pairs.Load())
	}
	l := d.link.(*fakeLink)
	for i := range l.sent {
		for _, f := range l.sent[i] {
			if len(f) < minRoom || len(f) > MaxFrame {
				t.Fatalf("a frame of %d bytes was sent", len(f))
			}
		}
		l.sent[i] = nil
	}
}

// FuzzDevice has one pair of queues, so that the harness's seeds reach the control queue, and all offloads.
func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		return newDevice(t, Config{Link: &fakeLink{features: allOffloads}, MTU: 1500})
	}, virtiotest.FuzzOptions{Requests: fuzzRequests(), Host: act, Check: bounded})
}

// FuzzPairs has several pairs, of which the driver takes into use what it likes.
func FuzzPairs(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		return newDevice(t, Config{Link: &fakeLink{features: allOffloads, pairs: 3}})
	}, virtiotest.FuzzOptions{Requests: fuzzRequests(), Host: act, Check: bounded})
}
