package boot

import "github.com/govmm/govmm/guestmem"

// E820Type is the kind of a range in the memory map (ACPI 6.5 §15).
type E820Type uint32

// The kinds in use.
const (
	E820RAM      E820Type = 1
	E820Reserved E820Type = 2
)

// E820Entry is one range of the memory map; Size is in bytes.
type E820Entry struct {
	Addr guestmem.Addr
	Size uint64
	Type E820Type
}

// MemoryMap returns what the guest is told of memory with the given regions: sorted, without overlaps. Low memory
// loses the ranges in which a PC's firmware keeps its tables; the hole is not mentioned but for KVM's own pages.
func MemoryMap(regions []guestmem.Region) []E820Entry {
	var below, above []E820Entry
	for _, r := range regions {
		switch {
		case r.Base == 0 && r.End() > highRAM:
			below = append(below,
				e820(0, ebdaAddr, E820RAM),
				e820(ebdaAddr, lowRAMEnd, E820Reserved),
				e820(biosAddr, highRAM, E820Reserved),
				e820(highRAM, r.End(), E820RAM))
		case r.Base < HoleEnd:
			below = append(below, e820(r.Base, r.End(), E820RAM))
		default:
			above = append(above, e820(r.Base, r.End(), E820RAM))
		}
	}
	below = append(below, e820(kvmPagesStart, HoleEnd, E820Reserved))
	return append(below, above...)
}

func e820(start, end guestmem.Addr, t E820Type) E820Entry {
	return E820Entry{Addr: start, Size: uint64(end - start), Type: t}
}
