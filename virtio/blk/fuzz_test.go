package blk

import (
	"bytes"
	"testing"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// fuzzSectors is the size of the fuzzers' disk.
const fuzzSectors = 8

// fuzzRequests has every type of request, within the disk and beyond it, with one segment and with several.
func fuzzRequests() [][]byte {
	var all [][]byte
	add := func(kind uint32, sector uint64, data []byte) {
		all = append(all, append(header(kind, sector), data...))
	}
	for _, sector := range []uint64{0, fuzzSectors - 1, fuzzSectors, 1 << 55, ^uint64(0)} {
		add(typeIn, sector, nil)
		add(typeOut, sector, pattern(SectorSize))
	}
	add(typeOut, 1, pattern(SectorSize-1))
	add(typeFlush, 0, nil)
	add(typeGetID, 0, nil)
	for _, kind := range []uint32{typeDiscard, typeWriteZeroes} {
		add(kind, 0, segments(1, 2, 0))
		add(kind, 0, segments(1, 2, flagUnmap, 7, 1, 0, 0, 0, 0))
		add(kind, 0, segments(fuzzSectors-1, 2, 0))
		add(kind, 0, segments(^uint64(0), 1, 2))
		add(kind, 0, segments(0, 1<<32-1, 0)[:15])
		add(kind, 0, bytes.Repeat(segments(1, 1, 0), maxSegments))
		add(kind, 0, bytes.Repeat(segments(1, 1, 0), maxSegments+1))
		add(kind, 0, nil)
	}
	add(99, 0, nil)
	return all
}

// FuzzDevice has a disk with all that can be offered and several queues. Besides the oracles of the harness, the storage
// is asked for nothing outside of it.
func FuzzDevice(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		return newDevice(t, Config{Storage: vector{newMemory(t, fuzzSectors)}, Queues: 3, Serial: "fuzz"})
	}, virtiotest.FuzzOptions{Requests: fuzzRequests()})
}

// FuzzReadOnly has a disk that fails the test when it is written to.
func FuzzReadOnly(f *testing.F) {
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		m := newMemory(t, fuzzSectors)
		m.readOnly = true
		return newDevice(t, Config{Storage: m, ReadOnly: true})
	}, virtiotest.FuzzOptions{Requests: fuzzRequests()})
}
