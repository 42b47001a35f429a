package main

import (
	"bytes"
	"testing"
)

// TestRemoveStrayVector changes the one instruction, and nothing where it is not clear which one it is.
func TestRemoveStrayVector(t *testing.T) {
	code := []byte{
		0x89, 0xb3, 0x10, 0xd7, 0xff, 0xff,
		0xc7, 0x83, 0xe4, 0x33, 0, 0, 0, 0, 0, 0,
		0x48, 0xc7, 0x83, 0xe8, 0x33, 0, 0, 0xff, 0xff, 0xff, 0xff,
	}
	program := append(append([]byte("\x89\xb3before"), code...), 0x90)
	want := append([]byte("\x89\xb3before"), nop6...)
	want = append(append(want, code[6:]...), 0x90)
	if !removeStrayVector(program) || !bytes.Equal(program, want) {
		t.Errorf("became % x, want % x", program, want)
	}
	for name, program := range map[string][]byte{
		"none": []byte("\x7fELF"), "two": append(bytes.Clone(code), code...), "cut off": code[:len(code)-1], "mended before": want,
	} {
		before := bytes.Clone(program)
		if removeStrayVector(program) || !bytes.Equal(program, before) {
			t.Errorf("%s: became % x", name, program)
		}
	}
}
