package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

func patch64(off int, v uint64) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint64(b[off:], v) }
}

// patched returns a copy of b, changed by f.
func patched(b []byte, f func([]byte)) []byte {
	b = append([]byte(nil), b...)
	f(b)
	return b
}

func withProg(p testProg, f func([]byte)) []byte {
	p.patched = f
	return buildELF(0x20_0000, p)
}

// Every kind of damage gives an error that names it.
func TestHostileELF(t *testing.T) {
	text := load(0x20_0000, "text")
	bigNotes := pvhNotes(0)
	bigNotes.data = make([]byte, maxNoteSize+1)
	for _, c := range []struct {
		name     string
		kernel   []byte
		protocol Protocol
		want     string
	}{
		{"empty", nil, Auto, "the file is empty"},
		{"only magic", []byte(elfMagic), Auto, "truncated"},
		{"32-bit", patched(testELF(), func(b []byte) { b[4] = 1 }), Auto, "a kernel for x86-64 is needed"},
		{"arm64", patched(testELF(), func(b []byte) { b[18] = 183 }), Auto, "a kernel for x86-64 is needed"},
		{"object file", patched(testELF(), func(b []byte) { b[16] = 1 }), Auto, "not executable"},
		{"odd program headers", patched(testELF(), func(b []byte) { b[54] = 1 }), Auto, "program headers of 1 bytes"},
		{"no program headers", patched(testELF(), func(b []byte) { b[56] = 0 }), Auto, "0 ELF program headers"},
		{"65535 program headers", patched(testELF(), func(b []byte) { b[56], b[57] = 255, 255 }), Auto, "65535 ELF program headers"},
		{"program headers far away", patched(testELF(), patch64(32, 1<<63)), Auto, "beyond the end of the file"},
		{"program headers wrap", patched(testELF(), patch64(32, ^uint64(0))), Auto, "beyond the end of the file"},
		{"nothing to load", buildELF(0, pvhNotes(0)), Auto, "no segment to load"},
		{"truncated", testELF()[:250], Auto, "is it truncated?"},
		{"offset far away", withProg(text, patch64(8, 1<<62)), Auto, "is it truncated?"},
		{"offset wraps", withProg(text, patch64(8, ^uint64(0)-1)), Auto, "is it truncated?"},
		{"file size above memory size", withProg(text, patch64(40, 1)), Auto, "in the file but 1 in memory"},
		{"memory size wraps", withProg(text, patch64(40, ^uint64(0))), Auto, "are not between"},
		{"below 1 MiB", withProg(text, patch64(24, uint64(zeroPageAddr))), Auto, "are not between"},
		{"in the hole", withProg(text, patch64(24, uint64(HoleStart)-1)), Auto, "are not between"},
		{"huge BSS", withProg(text, patch64(40, 64<<20)), Auto, "give it at least 66 MiB"},
		{"overlap", buildELF(0x20_0000, text, load(0x20_0003, "t")), Auto, "overlaps loaded segment 0"},
		{"entry elsewhere, no note", buildELF(0x10, text), Auto, "no PVH entry"},
		{"entry elsewhere", buildELF(0x10, text, pvhNotes(0x20_0000)), Linux64, "no 64-bit entry"},
		{"entry behind the file's bytes", buildELF(0x20_0004, text), Auto, "no PVH entry"},
		{"PVH wanted, no note", buildELF(0x20_0000, text), PVH, "no PVH entry"},
		{"PVH entry elsewhere", buildELF(0x20_0000, text, pvhNotes(5)), PVH, "PVH entry 0x5 lies in no segment"},
		{"notes too long", buildELF(0, text, bigNotes), PVH, "ELF notes of 65537 bytes"},
		{"notes behind the end", patched(buildELF(0, text, pvhNotes(0x20_0000)), patch64(elfHeaderSize+elfProgSize+8, 1<<40)), PVH, "ELF notes: "},
	} {
		cfg := testConfig(c.kernel)
		cfg.Protocol = c.protocol
		checkError(t, c.name, cfg, 4, c.want)
	}
}

func checkError(t *testing.T, name string, cfg Config, mibs int, want string) {
	t.Helper()
	e, err := Load(testMemory(mibs), cfg)
	if err == nil || e != nil || !strings.HasPrefix(err.Error(), "boot: ") || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want one with %q", name, err, want)
	}
}

func TestHostileNotes(t *testing.T) {
	le := binary.LittleEndian
	good := note("Xen\x00", xenPhys32Entry, le.AppendUint32(nil, 0x20_0000), 4)
	for _, c := range []struct {
		name  string
		notes []byte
		found bool
	}{
		{"good", good, true},
		{"behind another", append(note("GNU\x00", 1, nil, 4), good...), true},
		{"behind an odd name", append(note("Linux\x00", 1, []byte("x"), 4), good...), true},
		{"truncated header", good[:11], false},
		{"truncated name", good[:14], false},
		{"truncated contents", good[:18], false},
		{"huge name", patched(good, func(b []byte) { le.PutUint32(b, ^uint32(0)) }), false},
		{"huge contents", patched(good, func(b []byte) { le.PutUint32(b[4:], ^uint32(0)) }), false},
		{"other name", patched(good, func(b []byte) { b[12] = 'Y' }), false},
		{"other type", patched(good, func(b []byte) { b[8]++ }), false},
		{"odd size", patched(good, func(b []byte) { b[4] = 3 }), false},
		{"none", nil, false},
	} {
		entry, ok := pvhNote(c.notes, 4)
		if ok != c.found || ok && entry != 0x20_0000 {
			t.Errorf("%s: %#x, %v; want found: %v", c.name, uint64(entry), ok, c.found)
		}
	}
}

func TestHostileBzImage(t *testing.T) {
	change := func(f func(z *testBz)) []byte {
		z := goodBz()
		f(&z)
		return z.build()
	}
	for _, c := range []struct {
		name   string
		kernel []byte
		want   string
	}{
		{"old protocol", change(func(z *testBz) { z.version = 0x020b }), "boot protocol 2.11: 2.12 or later is needed"},
		{"32-bit", change(func(z *testBz) { z.xload = 0 }), "no 64-bit entry"},
		{"zImage", change(func(z *testBz) { z.load = 0 }), "zImage"},
		{"truncated code", change(func(z *testBz) { z.cut = 16 }), "is it truncated?"},
		{"only the setup", change(func(z *testBz) { z.code = nil }), "is it truncated?"},
		{"code shorter than its entry", change(func(z *testBz) { z.code = z.code[:0x100] }), "is it truncated?"},
		{"more setup than file", change(func(z *testBz) { z.patched = func(b []byte) { b[hdrSetupSects] = 255 } }), "is it truncated?"},
		{"huge syssize", change(func(z *testBz) {
			z.patched = func(b []byte) { binary.LittleEndian.PutUint32(b[hdrSysSize:], ^uint32(0)) }
		}), "is it truncated?"},
		{"no alignment", change(func(z *testBz) { z.alignment = 0 }), "not a power of two"},
		{"odd alignment", change(func(z *testBz) { z.alignment = 0x1001 }), "not a power of two"},
		{"alignment of 2 GiB", change(func(z *testBz) { z.alignment = 1 << 31 }), "not a power of two"},
		{"preferred address at the end of the world", change(func(z *testBz) { z.preferred = ^uint64(0) }), "but RAM ends at"},
		{"preferred address in the hole", change(func(z *testBz) { z.preferred = uint64(HoleStart) - 0x1000 }), "RAM ends at 0xc0000000 in every VM"},
		{"init_size of 4 GiB", change(func(z *testBz) { z.initSize = ^uint32(0) }), "but RAM ends at"},
		{"not relocatable, low", change(func(z *testBz) { z.relocatable, z.preferred = 0, 0x7000 }), "below 1 MiB"},
		{"aligned out of memory", change(func(z *testBz) { z.preferred, z.alignment = 0, 1<<30 }), "give it at least 1025 MiB"},
		{"memory too small", change(func(z *testBz) { z.initSize = 64 << 20 }), "it needs the memory up to 66 MiB, the VM has 4 MiB: give it at least 66 MiB"},
	} {
		checkError(t, c.name, testConfig(c.kernel), 4, c.want)
	}
	cfg := testConfig(goodBz().build())
	cfg.Protocol = PVH
	checkError(t, "PVH wanted", cfg, 4, "take the vmlinux")
}

func TestNotAKernel(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"\x1f\x8b\x08 and so on", "gzip data: decompress it first"},
		{"\x28\xb5\x2f\xfd and so on", "zstd data"},
		{"070701 and so on", "this is an initrd"},
		{"MZ" + strings.Repeat("\x00", 1000), "EFI program"},
		{"#!/bin/sh", "a script"},
		{"\x01\x02", "it starts with 01 02"},
	} {
		checkError(t, fmt.Sprintf("%.8q", c.data), testConfig([]byte(c.data)), 4, c.want)
	}
}

func TestBadConfig(t *testing.T) {
	good := func(f func(c *Config)) Config {
		c := testConfig(testELF())
		f(&c)
		return c
	}
	for _, c := range []struct {
		name string
		cfg  Config
		mibs int
		want string
	}{
		{"no kernel", good(func(c *Config) { c.Kernel = nil }), 4, "kernel: the file is empty"},
		{"no CPU", good(func(c *Config) { c.CPUs = 0 }), 4, "0 CPUs"},
		{"too many CPUs", good(func(c *Config) { c.CPUs = 255 }), 4, "255 CPUs"},
		{"negative initrd", good(func(c *Config) { c.InitrdSize = -1 }), 4, "initrd: bad size"},
		{"long seed", good(func(c *Config) { c.RNGSeed = make([]byte, 5000) }), 4, "random seed of 5000 bytes"},
		{"firmware", good(func(c *Config) { c.Firmware = 9 }), 4, "unknown firmware(9)"},
		{"protocol", good(func(c *Config) { c.Protocol = 9 }), 4, "unknown protocol(9)"},
		{"tiny memory", good(func(*Config) {}), 1, "1024 KiB of RAM from address 0: at least 2048 are needed"},
		{"memory below the kernel", good(func(*Config) {}), 2, "the VM has 2 MiB: give it at least 3 MiB"},
		{"too many devices", good(func(c *Config) { c.Devices = make([]MMIODevice, MaxDevices+1) }), 4, "20 devices: at most 19"},
		{"device in RAM", good(func(c *Config) { c.Devices = []MMIODevice{{0x1000, 0x1000, 5}} }), 4, "window 0x1000+0x1000"},
		{"device wraps", good(func(c *Config) { c.Devices = []MMIODevice{{MMIOBase, ^uint64(0), 5}} }), 4, "window"},
		{"interrupt", good(func(c *Config) { c.Devices = []MMIODevice{{MMIOBase, 0x1000, 24}} }), 4, "interrupt 24"},
	} {
		checkError(t, c.name, c.cfg, c.mibs, c.want)
	}
}

// An initrd that does not fit says how much memory would do, and with that much it does.
func TestInitrdDoesNotFit(t *testing.T) {
	initrd := bytes.Repeat([]byte{1}, 3<<20)
	cfg := withInitrd(testConfig(testELF()), initrd)
	checkError(t, "initrd", cfg, 4, "give the VM at least 6 MiB")
	if _, err := Load(testMemory(6), cfg); err != nil {
		t.Errorf("with 6 MiB: %v", err)
	}
	z := goodBz()
	z.initrdMax = 0x40_0fff
	if _, err := Load(testMemory(16), withInitrd(testConfig(z.build()), initrd)); err == nil {
		t.Error("an initrd above initrd_addr_max was accepted")
	}
	mem := testMemory(16)
	if _, err := Load(mem, withInitrd(testConfig(z.build()), initrd[:0x1000])); err != nil {
		t.Fatal(err)
	}
	at := binary.LittleEndian.Uint32(readMem(t, mem, zeroPageAddr+hdrRamdiskImage, 4))
	if at != 0x40_0000 {
		t.Errorf("initrd at %#x, want it to end at initrd_addr_max", at)
	}
}
