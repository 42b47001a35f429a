package virtiotest

import "slices"

// heap is a first-fit allocator of guest-physical addresses.
type heap struct {
	free []extent // sorted, never adjacent
}

type extent struct{ base, end uint64 }

func (h *heap) reset(base, size uint64) { h.free = []extent{{base, base + size}} }

// alloc returns n bytes at a multiple of 16, or false.
func (h *heap) alloc(n uint64) (uint64, bool) {
	n = max(n+15, 16) &^ 15
	for i := range h.free {
		e := &h.free[i]
		if e.end-e.base >= n {
			a := e.base
			e.base += n
			if e.base == e.end {
				h.free = slices.Delete(h.free, i, i+1)
			}
			return a, true
		}
	}
	return 0, false
}

// release gives back what alloc(n) returned.
func (h *heap) release(a, n uint64) {
	n = max(n+15, 16) &^ 15
	i, _ := slices.BinarySearchFunc(h.free, a, func(e extent, a uint64) int {
		if e.base < a {
			return -1
		}
		return 1
	})
	h.free = slices.Insert(h.free, i, extent{a, a + n})
	if i+1 < len(h.free) && h.free[i].end == h.free[i+1].base {
		h.free[i].end = h.free[i+1].end
		h.free = slices.Delete(h.free, i+1, i+2)
	}
	if i > 0 && h.free[i-1].end == h.free[i].base {
		h.free[i-1].end = h.free[i].end
		h.free = slices.Delete(h.free, i, i+1)
	}
}
