package tap

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/virtiotest"
)

// counted counts the calls that are a system call each.
type counted struct {
	*TAP
	reads, writes  int
	idle, counting func() // the device's, and ours
}

func (c *counted) Receive(ctx context.Context, pair int, buffers [][]byte, idle func()) (int, error) {
	c.idle = idle
	if c.counting == nil {
		c.counting = func() { c.reads++; c.idle() } // EAGAIN
	}
	c.reads++
	return c.TAP.Receive(ctx, pair, buffers, c.counting)
}

func (c *counted) Send(ctx context.Context, pair int, buffers [][]byte) error {
	c.writes++
	return c.TAP.Send(ctx, pair, buffers)
}

// BenchmarkTransmit is what the guest's kicks cost the host: frames that its kernel drops at once, since they are to no one.
func BenchmarkTransmit(b *testing.B) {
	for _, batch := range []int{1, 16, 64} {
		for _, size := range []int{60, 65226} {
			b.Run(fmt.Sprintf("%d bytes, batch of %d", size, batch), func(b *testing.B) { benchmarkTransmit(b, size, batch) })
		}
	}
}

func benchmarkTransmit(b *testing.B, size, batch int) {
	ns := newNamespace(b)
	link := &counted{TAP: ns.tap(b, Config{Name: "gv%d"})}
	ns.ip(b, "link set gv0 up")
	dev, err := net.New(net.Config{Link: link, MAC: net.MAC{2}})
	if err != nil {
		b.Fatal(err)
	}
	d := virtiotest.New(b, dev, virtiotest.Options{Manual: true, QueueSize: driverQueue})
	frame := append(make([]byte, net.HeaderSize), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xb5)
	const at = 2 << 20
	copy(d.RAM[at:], frame)
	q := d.Queue(1)
	for i := range uint16(driverQueue) {
		q.SetDescriptor(i, virtiotest.Descriptor{Addr: uint64(virtiotest.RAMBase) + at, Len: uint32(net.HeaderSize + size)})
	}
	var head uint16
	interrupts := d.Interrupts()
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		for range batch {
			q.Publish(head % driverQueue)
			head++
		}
		q.SetUsedEvent(head - 1) // the last of the batch
		if err := d.MMIO.Serve(context.Background(), 1); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(link.writes)/float64(b.N), "writev/op")
	b.ReportMetric(float64(d.Interrupts()-interrupts)/float64(b.N), "irq/op")
	if st := dev.Stats(); st.TX.Drops > 0 || st.TX.Frames < uint64(b.N) {
		b.Errorf("%+v", st)
	}
}

// BenchmarkReceive is what a frame from the host costs, one at a time and in batches that wait in the TAP.
func BenchmarkReceive(b *testing.B) {
	for _, batch := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("60 bytes, batch of %d", batch), func(b *testing.B) { benchmarkReceive(b, batch) })
	}
}

func benchmarkReceive(b *testing.B, batch int) {
	ns := newNamespace(b)
	link := &counted{TAP: ns.tap(b, Config{Name: "gv%d"})}
	ns.ip(b, "link set gv0 addrgenmode none")
	ns.ip(b, "link set gv0 up")
	socket := ns.packetSocket(b, "gv0")
	dev, err := net.New(net.Config{Link: link, MAC: net.MAC{2}})
	if err != nil {
		b.Fatal(err)
	}
	d := virtiotest.New(b, dev, virtiotest.Options{QueueSize: driverQueue})
	const at, size = 2 << 20, 1536
	q := d.Queue(0)
	for i := range uint16(driverQueue) {
		q.SetDescriptor(i, virtiotest.Descriptor{
			Addr: uint64(virtiotest.RAMBase) + at + uint64(i)*size, Len: size, Flags: virtiotest.DescWrite,
		})
		q.Publish(i)
	}
	q.ForceKick()
	frame := append([]byte{2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	var used uint16
	interrupts := d.Interrupts()
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		q.SetUsedEvent(used + uint16(batch) - 1)
		for range batch {
			if _, err := unix.Write(socket, frame); err != nil {
				b.Fatal(err)
			}
		}
		for end := used + uint16(batch); used != end; {
			if used == q.UsedIdx() {
				runtime.Gosched()
				continue
			}
			q.Publish(used % driverQueue)
			used++
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(link.reads)/float64(b.N), "readv/op")
	b.ReportMetric(float64(d.Interrupts()-interrupts)/float64(b.N), "irq/op")
	if st := dev.Stats(); st.RX.Drops > 0 || st.RX.Frames < uint64(b.N) {
		b.Errorf("%+v", st)
	}
}
