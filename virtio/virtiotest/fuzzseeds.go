package virtiotest

import (
	"encoding/binary"
	"slices"

	"github.com/govmm/govmm/virtio"
)

// fuzzSeeds are sequences of operations that reach what a random one seldom does.
func fuzzSeeds(requests [][]byte) [][]byte {
	chain := func(queue byte, request []byte, room byte) []byte {
		// The request in up to 3 readable buffers, one writable of 16 times room, one of a byte.
		pieces := min(max((len(request)+maxReadable-1)/maxReadable, 1), 3)
		seed := []byte{opGoodChain, queue, 0b1000 | byte(pieces)}
		for range pieces {
			n := min(len(request), maxReadable)
			seed = append(append(seed, byte(n)), request[:n]...)
			request = request[n:]
		}
		return append(seed, room, 0)
	}
	seeds := [][]byte{
		{opSetUp, 0},
		{opSetUp, 1, opReset, opSetUp, 2, opSnapshot},
		{opSetUp, 0, opAvailIdx, 0, 200, opKick, 0},
	}
	for q := range byte(3) {
		for _, r := range append(requests, []byte{}) {
			s := append([]byte{opSetUp, q}, chain(q, r, 32)...)
			s = append(s, opKick, q, opHost, 4, 'a', 'b', 'c', 'd', opKick, q, opSnapshot)
			seeds = append(seeds, append(s, append(chain(q, r, 255), opKick, q)...))
		}
	}
	for i, r := range append(requests, []byte{}) {
		// In an indirect table, the first one with all that may be odd about that; then a new start without a chain.
		oddities := []byte{0}
		if i == 0 {
			oddities = []byte{0, 1, 4, 8, 0x10}
		}
		for _, odd := range oddities {
			s := append([]byte{opSetUp, 0, opIndirectChain, 0, odd}, chain(0, r, 32)[2:]...)
			seeds = append(seeds, append(s, opKick, 0, opSetUp, 0, opKick, 0))
		}
	}
	return slices.Concat(seeds, hostileSeeds(), floodSeeds(requests), registerSeeds())
}

// hostileSeeds has chains that a device must not follow.
func hostileSeeds() (seeds [][]byte) {
	const near, farAddr, farLen, farNext = 3 << 5, 0 << 5, 1 << 5, 2 << 5 // what rawDescriptor makes of the fields
	raw := func(i byte, addr uint32, n uint16, flags, next byte) []byte {
		p := binary.LittleEndian.AppendUint32([]byte{opRawDescriptor, 0, i}, addr)
		return append(binary.LittleEndian.AppendUint32(p, uint32(n)), flags, next)
	}
	for _, descs := range [][]byte{
		raw(0, fuzzBuffers, 0, near|DescNext, 0), // a loop of nothing
		raw(0, fuzzBuffers, 1, near|DescNext, 0),
		slices.Concat(raw(0, fuzzBuffers, 0, near|DescNext, 1), raw(1, fuzzBuffers, 0, near|DescNext, 0)),
		raw(0, fuzzBuffers, 1, near|DescNext, fuzzQueueSize),
		raw(0, fuzzBuffers, 1, farNext|DescNext, 1),
		raw(0, 7, 16, farAddr, 0),
		raw(0, fuzzBuffers, 1, farLen, 0),
		raw(0, fuzzRAM-1, 2, near|DescWrite, 0),
		slices.Concat(raw(0, fuzzBuffers, 1, near|DescWrite|DescNext, 1), raw(1, fuzzBuffers+1, 1, near, 0)),
		raw(0, 0, 16, near|DescIndirect, 0), // the table itself
		raw(0, fuzzBuffers, 8, near|DescIndirect, 0),
		raw(0, fuzzBuffers, 0, near|DescIndirect, 0),
		raw(0, 0, fuzzRAM-1, near|DescIndirect, 0),
		// A table whose descriptor says that there is another one after it: two, the second of nothing.
		slices.Concat(raw(0, 16, 16, near|DescIndirect, 0), raw(1, fuzzBuffers, 1, near|DescNext, 1)),
	} {
		for mode := range byte(2) {
			s := append([]byte{opSetUp, 2 * mode}, descs...)
			seeds = append(seeds, append(s, opPublish, 0, 0, 0, opKick, 0, opKick, 0, opSnapshot))
		}
	}
	return append(seeds,
		[]byte{opSetUp, 0, opPublish, 0, fuzzQueueSize, 0, opKick, 0},
		[]byte{opSetUp, 0, opPublish, 0, 0xff, 1, opKick, 0},
		// A good chain, in each entry of the ring, and an index far ahead of it.
		[]byte{opSetUp, 0, opGoodChain, 0, 0b101, 1, 'x', 1, opAvailIdx, 0, 200, opKick, 0})
}

// floodSeeds has more of the first request and of the last than any bound of a device allows for what it causes, on each
// queue, while the other queues have no buffers.
func floodSeeds(requests [][]byte) (seeds [][]byte) {
	if len(requests) == 0 {
		return nil
	}
	for q := range byte(3) {
		for _, r := range [][]byte{requests[0], requests[len(requests)-1]} {
			r = r[:min(len(r), maxReadable)]
			seed := []byte{opSetUp, 0}
			for range (fuzzMaxOps - 1) / 2 {
				seed = append(append(append(seed, opGoodChain, q, 1, byte(len(r))), r...), opKick, q)
			}
			seeds = append(seeds, seed)
		}
	}
	return seeds
}

// registerSeeds touches what chains do not: every register, and the configuration space.
func registerSeeds() [][]byte {
	read, write, config := []byte{opSetUp, 0}, []byte{opSetUp, 0}, []byte{opSetUp, 0}
	for reg := range 64 {
		off := byte(4 * reg)
		read = append(read, opReadRegister, off, off>>2&1, 4)
		write = append(write, opWriteRegister, off, 1, 0, 0, 0, off>>2&1)
		config = append(config, opWriteConfig, off, 2, 1, 2, 3, 4)
	}
	return [][]byte{
		read, write, config,
		{opSetUp, 0, opWriteRegister, virtio.RegQueueReady, 0, 0, 0, 0, 0, opKick, 0, opSnapshot}, // a queue stopped
		{opSetUp, 0, opWriteRegister, virtio.RegStatus, virtio.StatusFailed, 0, 0, 0, 0, opKick, 0, opSnapshot},
		// A queue that cannot be made ready: DEVICE_NEEDS_RESET during set-up.
		{
			opReset, opWriteRegister, virtio.RegStatus, 1, 0, 0, 0, 0, opWriteRegister, virtio.RegStatus, 3, 0, 0, 0, 0,
			opWriteRegister, virtio.RegDriverFeaturesSel, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegDriverFeatures, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegStatus, 11, 0, 0, 0, 0, opWriteRegister, virtio.RegQueueReady, 1, 0, 0, 0, 0,
			opWriteRegister, virtio.RegStatus, 15, 0, 0, 0, 0, opKick, 0, opSnapshot,
		},
		// An interrupt that the driver does not want: used_event far away.
		{
			opSetUp, 0, opPoke, 0x94, 0, 0, 0, 2, 0xff, 0x7f, opGoodChain, 0, 0b1001, 1, 'x', 1, 0, opKick, 0, opSnapshot,
			opSetUp, 1, opPoke, 0x80, 0, 0, 0, 2, 1, 0, opGoodChain, 0, 0b1001, 1, 'x', 1, 0, opKick, 0, opSnapshot,
		},
	}
}
