package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// QEMU (7.2 to 10.0, and its newest sources) delivers an interrupt that VMRUN injects (EVENTINJ, AMD64 APM volume 2, 15.20) at once, but
// leaves its vector in exception_index. When the CPU is asked to return to QEMU's main loop just then, with no interrupt of its
// own pending, the loop takes what it finds there for an exception and delivers it: the guest gets the interrupt a second time,
// with interrupts disabled, and waits for a spin lock that it holds, or panics. Another CPU's thread asks often, icount's budget in
// one of some ten starts of a container.
//
// strayVector is the instruction that stores the vector, before those that store exception_is_int (0) and exception_next_eip (-1):
// mov %esi,disp(%rbx); movl $0,disp(%rbx); movq $-1,disp(%rbx). A negative number stands for any byte.
var strayVector = []int{
	0x89, 0xb3, anyByte, anyByte, 0xff, 0xff,
	0xc7, 0x83, anyByte, anyByte, 0, 0, 0, 0, 0, 0,
	0x48, 0xc7, 0x83, anyByte, anyByte, 0, 0, 0xff, 0xff, 0xff, 0xff,
}

const anyByte = -1

// nop6 is one instruction of six bytes that does nothing.
var nop6 = []byte{0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00}

// mendEmulator returns a copy of the emulator in the cache directory without the stray store, or the emulator itself if it is one
// in which the store is not found.
func mendEmulator(cache, path string, log io.Writer) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "mended", fmt.Sprintf("%d-%d", st.Size(), st.ModTime().Unix()))
	mended := filepath.Join(dir, filepath.Base(path))
	if _, err := os.Stat(mended); err == nil {
		return mended, nil
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if !removeStrayVector(program) {
		fmt.Fprintf(log, "testhost: %s is not one whose double delivery of interrupts can be mended: guests may hang or crash\n", path)
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unfinished := mended + ".new"
	if err := os.WriteFile(unfinished, program, 0o755); err != nil {
		return "", err
	}
	return mended, os.Rename(unfinished, mended)
}

// removeStrayVector changes the program unless it has no, or more than one, place that looks like the stray store.
func removeStrayVector(program []byte) bool {
	place := -1
	for i := range program[:max(0, len(program)-len(strayVector)+1)] {
		if !matches(program[i:], strayVector) {
			continue
		}
		if place >= 0 {
			return false
		}
		place = i
	}
	if place < 0 {
		return false
	}
	copy(program[place:], nop6)
	return true
}

func matches(b []byte, pattern []int) bool {
	for i, want := range pattern {
		if want != anyByte && int(b[i]) != want {
			return false
		}
	}
	return true
}
