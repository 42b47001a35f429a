package boot

import (
	"encoding/binary"
)

// struct hvm_start_info and what it points to (Xen, public/arch-x86/hvm/start_info.h).
const (
	startInfoMagic   = 0x336ec578
	startInfoVersion = 1 // with a memory map
	startInfoSize    = 56
	moduleSize       = 32
	memMapEntrySize  = 24
	modulesAddr      = startInfoAddr + 0x40
	memMapAddr       = startInfoAddr + 0x80
	maxMemMap        = uint32(zeroPageAddr-memMapAddr) / memMapEntrySize
)

// enterPVH enters the kernel in 32-bit protected mode without paging, start_info in EBX.
func (l *loader) enterPVH() (*Entry, error) {
	e := newEntry(PVH, l.image.entry)
	e.RBX = uint64(startInfoAddr)
	if err := l.writeStartInfo(); err != nil {
		return nil, err
	}
	return e, l.writeGDT(e)
}

func (l *loader) writeStartInfo() error {
	entries := MemoryMap(l.mem.Regions())
	entries = entries[:min(len(entries), int(maxMemMap))]
	le := binary.LittleEndian
	info := make([]byte, startInfoSize)
	le.PutUint32(info, startInfoMagic)
	le.PutUint32(info[4:], startInfoVersion)
	if l.initrd.Size > 0 {
		le.PutUint32(info[12:], 1)
		le.PutUint64(info[16:], uint64(modulesAddr))
		if err := l.writeModule(); err != nil {
			return err
		}
	}
	le.PutUint64(info[24:], uint64(cmdlineAddr))
	le.PutUint64(info[32:], uint64(l.rsdp))
	le.PutUint64(info[40:], uint64(memMapAddr))
	le.PutUint32(info[48:], uint32(len(entries)))
	if err := l.mem.WriteAt(info, startInfoAddr); err != nil {
		return err
	}
	m := make([]byte, memMapEntrySize*len(entries))
	for i, e := range entries {
		b := m[i*memMapEntrySize:]
		le.PutUint64(b, uint64(e.Addr))
		le.PutUint64(b[8:], e.Size)
		le.PutUint32(b[16:], uint32(e.Type))
	}
	return l.mem.WriteAt(m, memMapAddr)
}

func (l *loader) writeModule() error {
	m := make([]byte, moduleSize)
	binary.LittleEndian.PutUint64(m, uint64(l.initrd.Base))
	binary.LittleEndian.PutUint64(m[8:], l.initrd.Size)
	return l.mem.WriteAt(m, modulesAddr)
}
