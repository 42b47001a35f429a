// Package boot: STOP-GAP by the lead so that vmm can be brought up; its owner deletes this file when the real package lands.
package boot

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/govmm/govmm/guestmem"
)

const (
	MMIOBase        = guestmem.Addr(0xd0000000)
	MMIOSlotSize    = 0x1000
	FirstGSI        = 5
	MaxDevices      = 19
	COM1Port        = 0x3f8
	COM1GSI         = 4
	I8042Port       = 0x60
	PhasePort       = 0x3f0
	IdentityMapAddr = 0xfffbc000
	TSSAddr         = 0xfffbd000
)

type Protocol int
type Firmware int

const (
	MPTable Firmware = iota
	ACPI
)

const (
	ProtocolAuto Protocol = iota
	ProtocolLinux64
	ProtocolPVH
)

func ParseProtocol(s string) (Protocol, error) { return ProtocolAuto, nil }

type MMIODevice struct {
	Base guestmem.Addr
	Size uint64
	GSI  uint32
}

type Config struct {
	Kernel     io.ReaderAt
	KernelSize int64
	Initrd     io.ReaderAt
	InitrdSize int64
	Cmdline    string
	CPUs       int
	Devices    []MMIODevice
	RNGSeed    []byte
	Firmware   Firmware
	Protocol   Protocol
}

type Segment struct {
	Base                                       uint64
	Limit                                      uint32
	Selector                                   uint16
	Type, Present, DPL, DB, S, L, G, AVL, Unus uint8
}

type Entry struct {
	RIP, RSP, RSI, RBX  uint64
	CR0, CR3, CR4, EFER uint64
	CS, DS, TR          Segment
	GDTBase             uint64
	GDTLimit            uint16
}

func Layout(size uint64) []guestmem.Region {
	const hole = 3 << 30
	if size <= hole {
		return []guestmem.Region{{Base: 0, Size: size}}
	}
	return []guestmem.Region{{Base: 0, Size: hole}, {Base: 4 << 30, Size: size - hole}}
}

func MMIOCmdline(devs []MMIODevice) string {
	var out []string
	for _, d := range devs {
		out = append(out, fmt.Sprintf("virtio_mmio.device=4K@%#x:%d", uint64(d.Base), d.GSI))
	}
	return strings.Join(out, " ")
}

func Load(mem *guestmem.Memory, cfg Config) (*Entry, error) {
	f, err := elf.NewFile(cfg.Kernel)
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Filesz == 0 {
			continue
		}
		b, err := mem.Slice(guestmem.Addr(p.Paddr), uint32(p.Filesz))
		if err != nil {
			return nil, err
		}
		if _, err := cfg.Kernel.ReadAt(b, int64(p.Off)); err != nil {
			return nil, err
		}
	}
	const zp, cl, pml4, gdt = 0x7000, 0x20000, 0x9000, 0x500
	z := make([]byte, 4096)
	le := binary.LittleEndian
	z[0x210] = 0xff
	le.PutUint16(z[0x1fe:], 0xaa55)
	le.PutUint32(z[0x202-0:], 0x53726448)
	copy(z[0x202:], "HdrS")
	le.PutUint16(z[0x206:], 0x20f)
	z[0x211] = 1
	le.PutUint32(z[0x228:], cl)
	le.PutUint32(z[0x230:], 0x1000000)
	top := mem.Regions()[0].Size
	if cfg.InitrdSize > 0 {
		at := (top - uint64(cfg.InitrdSize)) &^ 0xfff
		b, err := mem.Slice(guestmem.Addr(at), uint32(cfg.InitrdSize))
		if err != nil {
			return nil, err
		}
		if _, err := cfg.Initrd.ReadAt(b, 0); err != nil {
			return nil, err
		}
		le.PutUint32(z[0x218:], uint32(at))
		le.PutUint32(z[0x21c:], uint32(cfg.InitrdSize))
	}
	n := 0
	e820 := func(a, s uint64, t uint32) {
		o := 0x2d0 + 20*n
		le.PutUint64(z[o:], a)
		le.PutUint64(z[o+8:], s)
		le.PutUint32(z[o+16:], t)
		n++
	}
	e820(0, 0x9fc00, 1)
	e820(0x9fc00, 0x60400, 2)
	e820(0x100000, top-0x100000, 1)
	for _, r := range mem.Regions()[1:] {
		e820(uint64(r.Base), r.Size, 1)
	}
	z[0x1e8] = byte(n)
	if err := mem.WriteAt(z, zp); err != nil {
		return nil, err
	}
	if err := mem.WriteAt(append([]byte(cfg.Cmdline), 0), cl); err != nil {
		return nil, err
	}
	pt := make([]byte, 0x6000)
	le.PutUint64(pt, pml4+0x1000|3)
	for i := range 4 {
		le.PutUint64(pt[0x1000+8*i:], uint64(pml4+0x2000+0x1000*i)|3)
		for j := range 512 {
			le.PutUint64(pt[0x2000+0x1000*i+8*j:], uint64(i)<<30|uint64(j)<<21|0x83)
		}
	}
	if err := mem.WriteAt(pt, pml4); err != nil {
		return nil, err
	}
	g := make([]byte, 40)
	le.PutUint64(g[16:], 0x00af9b000000ffff)
	le.PutUint64(g[24:], 0x00cf93000000ffff)
	if err := mem.WriteAt(g, gdt); err != nil {
		return nil, err
	}
	mptable(mem, cfg)
	return &Entry{
		RIP: f.Entry, RSI: zp, RSP: 0x8ff0,
		CR0: 0x80000001 | 0x10, CR3: pml4, CR4: 0x20, EFER: 0x500,
		CS:      Segment{Limit: 0xffffffff, Selector: 0x10, Type: 11, Present: 1, S: 1, L: 1, G: 1},
		DS:      Segment{Limit: 0xffffffff, Selector: 0x18, Type: 3, Present: 1, S: 1, DB: 1, G: 1},
		TR:      Segment{Limit: 0x67, Selector: 0x20, Type: 11, Present: 1},
		GDTBase: gdt, GDTLimit: 39,
	}, nil
}

func mptable(mem *guestmem.Memory, cfg Config) {
	le := binary.LittleEndian
	var e []byte
	n := 0
	for i := range cfg.CPUs {
		p := make([]byte, 20)
		p[1], p[2], p[3] = byte(i), 0x14, 1
		if i == 0 {
			p[3] = 3
		}
		le.PutUint32(p[4:], 0x600)
		le.PutUint32(p[8:], 0x201)
		e = append(e, p...)
		n++
	}
	e = append(e, 1, 0, 'I', 'S', 'A', ' ', ' ', ' ')
	n++
	io := make([]byte, 8)
	io[0], io[1], io[2], io[3] = 2, byte(cfg.CPUs), 0x14, 1
	le.PutUint32(io[4:], 0xfec00000)
	e = append(e, io...)
	n++
	for i := range 24 {
		e = append(e, 3, 0, 0, 0, 0, byte(i), byte(cfg.CPUs), byte(i))
		n++
	}
	e = append(e, 4, 3, 0, 0, 0, 0, 0, 0)
	e = append(e, 4, 1, 0, 0, 0, 0, 0xff, 1)
	n += 2
	h := make([]byte, 44)
	copy(h, "PCMP")
	le.PutUint16(h[4:], uint16(44+len(e)))
	h[6] = 4
	copy(h[8:], "GOVMM   000000000000")
	le.PutUint16(h[34:], uint16(n))
	le.PutUint32(h[36:], 0xfee00000)
	all := append(h, e...)
	sum := byte(0)
	for _, b := range all {
		sum += b
	}
	all[7] = -sum
	fp := make([]byte, 16)
	copy(fp, "_MP_")
	le.PutUint32(fp[4:], 0x9fc10)
	fp[8], fp[9] = 1, 4
	sum = 0
	for _, b := range fp {
		sum += b
	}
	fp[10] = -sum
	_ = mem.WriteAt(append(fp, all...), 0x9fc00)
}
