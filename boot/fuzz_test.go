package boot

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/govmm/govmm/guestmem"
)

// countingReader counts what is read of an image.
type countingReader struct {
	io.ReaderAt
	n int64
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	r.n += int64(len(p))
	return r.ReaderAt.ReadAt(p, off)
}

const fuzzMemory = 4 << 20

// FuzzLoad gives Load arbitrary kernels. Its oracles: no panic; an error or an entry, not both; nothing read beyond what
// memory and headers can hold; after success the entry lies in RAM above 1 MiB, the kernel wrote nowhere below it, and
// the tables that the entry state names are whole.
func FuzzLoad(f *testing.F) {
	f.Add(testELF(), int64(0), "console=ttyS0", uint16(6), uint8(0))
	f.Add(testELF(), int64(0), "", uint16(5000), uint8(PVH))
	f.Add(goodBz().build(), int64(0), "quiet", uint16(1), uint8(4))
	f.Add(buildELF(0x10, load(0x20_0000, "text"), pvhNotes(0x20_0000)), int64(1<<40), "", uint16(0), uint8(0))
	ram := make([]byte, fuzzMemory)
	f.Fuzz(func(t *testing.T, kernel []byte, claim int64, cmdline string, initrd uint16, how uint8) {
		clear(ram)
		mem := guestmem.FromBytes(0, ram)
		size := int64(len(kernel))
		if claim > size {
			size = claim // a file that shrinks while it is read
		}
		reader := &countingReader{ReaderAt: bytes.NewReader(kernel)}
		cfg := Config{
			Kernel: reader, KernelSize: size, Cmdline: cmdline, CPUs: 1 + int(how>>3),
			Protocol: Protocol(how & 3 % 3), Firmware: Firmware(how >> 2 & 1), RNGSeed: []byte("seed"),
			Initrd: bytes.NewReader(bytes.Repeat([]byte{0x55}, int(initrd))), InitrdSize: int64(initrd),
			Devices: testDevices(int(how>>3) % MaxDevices),
		}
		e, err := Load(mem, cfg)
		if (e == nil) == (err == nil) {
			t.Fatalf("entry %v and error %v", e, err)
		}
		if limit := int64(headSize + maxProgs*(maxNoteSize+elfProgSize) + fuzzMemory); reader.n > limit {
			t.Fatalf("read %d bytes of the image", reader.n)
		}
		if err == nil {
			checkLoaded(t, mem, e, kernel, cfg)
		}
	})
}

func checkLoaded(t *testing.T, mem *guestmem.Memory, e *Entry, kernel []byte, cfg Config) {
	t.Helper()
	if e.RIP < uint64(highRAM) || e.RIP >= fuzzMemory {
		t.Fatalf("entry at %#x", e.RIP)
	}
	for _, gap := range [][2]guestmem.Addr{{0, gdtAddr}, {0x600, startInfoAddr}, {0x8000, pml4Addr}, {pdAddr + 4*4096, cmdlineAddr},
		{setupDataEnd, ebdaAddr}, {lowRAMEnd, biosAddr}} {
		for i, b := range readMem(t, mem, gap[0], int(gap[1]-gap[0])) {
			if b != 0 {
				t.Fatalf("%#x at %#x, where nothing should be", b, uint64(gap[0])+uint64(i))
			}
		}
	}
	if got := binary.LittleEndian.Uint64(readMem(t, mem, guestmem.Addr(e.GDT.Base)+selTSS, 8)); got != descriptor(e.TR) {
		t.Fatalf("the TSS descriptor is %#x", got)
	}
	if got := readMem(t, mem, cmdlineAddr, len(cfg.Cmdline)+1); string(got) != cfg.Cmdline+"\x00" {
		t.Fatalf("command line %q", got)
	}
	if e.Protocol == PVH {
		return
	}
	if a, ok := translate(t, mem, guestmem.Addr(e.RIP)); !ok || a != guestmem.Addr(e.RIP) {
		t.Fatalf("the entry %#x is not mapped to itself", e.RIP)
	}
	at := binary.LittleEndian.Uint32(readMem(t, mem, zeroPageAddr+hdrRamdiskImage, 4))
	if got := readMem(t, mem, guestmem.Addr(at), int(cfg.InitrdSize)); len(bytes.Trim(got, "\x55")) != 0 {
		t.Fatal("the initrd was overwritten")
	}
}
