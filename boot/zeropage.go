package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/govmm/govmm/guestmem"
)

// Offsets in struct boot_params, the zero page, outside of the setup header (Linux,
// Documentation/arch/x86/zero-page.rst).
const (
	zpRSDP         = 0x070
	zpExtRamImage  = 0x0c0
	zpExtRamSize   = 0x0c4
	zpExtCmdLine   = 0x0c8
	zpE820Entries  = 0x1e8
	zpE820Table    = 0x2d0
	zeroPageSize   = 4096
	e820EntrySize  = 20
	maxE820Entries = 128
)

// writeZeroPage fills boot_params. For an ELF kernel, which has no setup header, it makes up a minimal one.
func (l *loader) writeZeroPage() error {
	zp, err := l.mem.Slice(zeroPageAddr, zeroPageSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	if l.image.header != nil {
		copy(zp[hdrSetupSects:hdrEnd], l.image.header)
		le.PutUint32(zp[hdrCode32Start:], uint32(l.image.segments[0].addr))
	} else {
		le.PutUint16(zp[hdrBootFlag:], bootFlag)
		copy(zp[hdrMagic:], setupMagic)
		le.PutUint16(zp[hdrVersion:], 0x020f)
		zp[hdrLoadFlags] = loadedHigh
		le.PutUint32(zp[hdrCmdlineSize:], defaultCmdlineMax)
	}
	zp[hdrTypeOfLoader] = loaderOther
	zp[hdrLoadFlags] &^= canUseHeap // there is no real-mode heap
	le.PutUint32(zp[hdrCmdLinePtr:], uint32(cmdlineAddr))
	le.PutUint32(zp[hdrRamdiskImage:], uint32(l.initrd.Base))
	le.PutUint32(zp[zpExtRamImage:], uint32(l.initrd.Base>>32))
	le.PutUint32(zp[hdrRamdiskSize:], uint32(l.initrd.Size))
	le.PutUint32(zp[zpExtRamSize:], uint32(l.initrd.Size>>32))
	le.PutUint64(zp[zpRSDP:], uint64(l.rsdp))

	seed, err := l.writeSetupData()
	if err != nil {
		return err
	}
	le.PutUint64(zp[hdrSetupData:], uint64(seed))
	return putE820(zp, MemoryMap(l.mem.Regions()))
}

func putE820(zp []byte, entries []E820Entry) error {
	if len(entries) > maxE820Entries {
		return fmt.Errorf("boot: memory map of %d ranges: the zero page holds %d", len(entries), maxE820Entries)
	}
	le := binary.LittleEndian
	zp[zpE820Entries] = byte(len(entries))
	for i, e := range entries {
		b := zp[zpE820Table+i*e820EntrySize:]
		le.PutUint64(b, uint64(e.Addr))
		le.PutUint64(b[8:], e.Size)
		le.PutUint32(b[16:], uint32(e.Type))
	}
	return nil
}

// setupRNGSeed is SETUP_RNG_SEED of struct setup_data.
const (
	setupRNGSeed    = 9
	setupDataHeader = 16
)

// writeSetupData writes the list of setup_data and returns its head: at most one element, the random seed.
func (l *loader) writeSetupData() (guestmem.Addr, error) {
	seed := l.cfg.RNGSeed
	if len(seed) == 0 {
		return 0, nil
	}
	b, err := l.mem.Slice(setupDataAddr, uint32(setupDataHeader+len(seed)))
	if err != nil {
		return 0, err
	}
	binary.LittleEndian.PutUint32(b[8:], setupRNGSeed)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(seed)))
	copy(b[setupDataHeader:], seed)
	return setupDataAddr, nil
}
