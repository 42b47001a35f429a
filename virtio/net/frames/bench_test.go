package frames

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkVector is one system call's list of buffers, as this package makes it and as package unix does.
func BenchmarkVector(b *testing.B) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		b.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for _, n := range []int{2, 43} {
		buffers := make([][]byte, n)
		for i := range buffers {
			buffers[i] = make([]byte, 1536)
		}
		b.Run(fmt.Sprintf("own/%d", n), func(b *testing.B) {
			var v vector
			b.ReportAllocs()
			for b.Loop() {
				v.set(buffers)
				_, _ = v.read(uintptr(p[0]))
			}
		})
		b.Run(fmt.Sprintf("unix/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = unix.Readv(p[0], buffers)
			}
		})
	}
}
