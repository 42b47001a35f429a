// Package console is the virtio console with one port (virtio 1.2 §5.3). Two bounded buffers stand between the guest
// and the host's streams: a host that does not read cannot stop the guest, and one that writes a lot waits.
package console

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/govmm/govmm/virtio"
)

// Feature bits (virtio 1.2 §5.3.3).
const (
	FeatureSize      uint64 = 1 << 0
	FeatureEmergency uint64 = 1 << 2
)

// The queues of port 0 (virtio 1.2 §5.3.2).
const (
	receiveQueue  = 0
	transmitQueue = 1
	queueSize     = 64
)

// Layout of the configuration space (virtio 1.2 §5.3.4).
const (
	configSize      = 12
	configEmergency = 8
)

const stateVersion = 1

// Sizes of the buffers in bytes; what RunOutput has in hand comes on top.
const (
	inputBuffer  = 16 << 10
	outputBuffer = 256 << 10
	// stallLimit is how long the guest waits for a host stream that takes nothing at all, before output is dropped.
	// Linux spins, with a lock held, until the device has taken its output.
	stallLimit = time.Second
)

// Config is what a console needs from its machine.
type Config struct {
	// In is the guest's input, Out takes its output; nil is no input, and output into nothing.
	In  io.Reader
	Out io.Writer
	// Cols and Rows are the size of the terminal in characters; 0 when there is none.
	Cols, Rows uint16
	// Logger gets trouble with the streams. nil discards.
	Logger *slog.Logger
}

// Device is a console. RunInput and RunOutput move the bytes between it and the host's streams.
type Device struct {
	in        io.Reader
	out       io.Writer
	log       *slog.Logger
	limiter   virtio.Limiter
	transport virtio.Transport

	mu         sync.Mutex
	cols, rows uint16
	input      []byte // read from in, not yet taken by the guest
	output     []byte // written by the guest, not yet taken by out
	stalled    bool   // out took nothing for stallLimit
	dropped    int    // bytes of output since then
	taken      uint64 // bytes that the host took, ever
	// Each has a place for one wake-up: of RunInput, of RunOutput, of the guest's output.
	inputRoom, outputReady, outputRoom chan struct{}
}

// New returns a console. Nothing moves before RunInput and RunOutput.
func New(cfg Config) *Device {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Device{
		in: cfg.In, out: cfg.Out, log: cfg.Logger, cols: cfg.Cols, rows: cfg.Rows,
		inputRoom: make(chan struct{}, 1), outputReady: make(chan struct{}, 1), outputRoom: make(chan struct{}, 1),
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDConsole }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return FeatureSize | FeatureEmergency }

// Queues implements virtio.Device: receiveq and transmitq of port 0.
func (d *Device) Queues() []uint16 { return []uint16{queueSize, queueSize} }

// Config implements virtio.Device.
func (d *Device) Config() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := make([]byte, configSize)
	binary.LittleEndian.PutUint16(p, d.cols)
	binary.LittleEndian.PutUint16(p[2:], d.rows)
	binary.LittleEndian.PutUint32(p[4:], 1)
	return p
}

// WriteConfig implements virtio.ConfigWriter: a character written to emerg_wr is output that needs no queue
// (virtio 1.2 §5.3.5.1).
func (d *Device) WriteConfig(off uint32, p []byte) {
	if off == configEmergency && len(p) > 0 {
		d.put([][]byte{p[:1]})
	}
}

// Attach implements virtio.Attacher.
func (d *Device) Attach(t virtio.Transport) { d.transport = t }

// Reset implements virtio.Device. What the host typed stays: the next driver reads it.
func (d *Device) Reset() {}

// MarshalState implements virtio.StateSaver: input that the guest has not taken. The rest is the host's.
func (d *Device) MarshalState() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte{stateVersion}, d.input...), nil
}

// UnmarshalState implements virtio.StateSaver.
func (d *Device) UnmarshalState(p []byte) error {
	if len(p) == 0 || p[0] != stateVersion || len(p)-1 > inputBuffer {
		return errors.New("console: not a state of this version")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.input = append(d.input[:0], p[1:]...)
	return nil
}

// Resize tells the guest the new size of the terminal, in characters.
func (d *Device) Resize(cols, rows uint16) {
	d.mu.Lock()
	changed := d.cols != cols || d.rows != rows
	d.cols, d.rows = cols, rows
	d.mu.Unlock()
	if changed && d.transport != nil {
		d.transport.ConfigChanged()
	}
}

// Serve implements virtio.Device.
func (d *Device) Serve(ctx context.Context, i int, q *virtio.Queue) error {
	if i == receiveQueue {
		return d.receive(ctx, q)
	}
	return d.transmit(ctx, q)
}

// receive gives the guest what there is of input. It takes no chain before it has something to put into it.
func (d *Device) receive(ctx context.Context, q *virtio.Queue) error {
	for ctx.Err() == nil && d.buffered() > 0 {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.mu.Lock()
		n := c.Write(d.input)
		d.input = d.input[:copy(d.input, d.input[n:])]
		d.mu.Unlock()
		wake(d.inputRoom)
		if err := q.Push(c, uint32(n)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (d *Device) buffered() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.input)
}

func (d *Device) transmit(ctx context.Context, q *virtio.Queue) error {
	for ctx.Err() == nil {
		c, err := q.Pop()
		if c == nil {
			return err
		}
		d.write(ctx, c.Readable())
		if err := q.Push(c, 0); err != nil {
			return err
		}
		q.Notify() // Linux spins for this
	}
	return ctx.Err()
}

// write puts the buffers into the output, waiting for room as long as the host takes anything at all.
func (d *Device) write(ctx context.Context, buffers [][]byte) {
	buffers = virtio.Skip(buffers, d.put(buffers))
	if len(buffers) == 0 {
		return
	}
	timer := time.NewTimer(stallLimit)
	defer timer.Stop()
	for len(buffers) > 0 {
		seen := d.progress()
		select {
		case <-d.outputRoom:
			timer.Reset(stallLimit)
		case <-timer.C:
			d.giveUp(seen)
		case <-ctx.Done():
			d.giveUp(seen)
		}
		buffers = virtio.Skip(buffers, d.put(buffers))
	}
}

func (d *Device) progress() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken
}

// giveUp has output dropped until the host takes some, unless it did since seen.
func (d *Device) giveUp(seen uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalled = d.stalled || d.taken == seen
}

// put appends to the output what fits, and returns how much that was: all of it when it has to be dropped.
func (d *Device) put(buffers [][]byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, b := range buffers {
		k := 0
		if d.out != nil {
			k = min(len(b), outputBuffer-len(d.output))
			d.output = append(d.output, b[:k]...)
		}
		if d.stalled || d.out == nil {
			d.dropped += len(b) - k
			k = len(b)
		}
		n += k
		if k < len(b) {
			break
		}
	}
	wake(d.outputReady)
	return n
}

// RunInput moves input to the guest until the stream ends, which is no error, or ctx is done. It reads no more than
// the guest takes. A Read that blocks is not ended by ctx: close the stream.
func (d *Device) RunInput(ctx context.Context) error {
	if d.in == nil {
		return nil
	}
	p := make([]byte, 4096)
	for {
		for inputBuffer-d.buffered() < len(p) {
			select {
			case <-d.inputRoom:
			case <-ctx.Done():
				return nil
			}
		}
		n, err := d.in.Read(p)
		if n > 0 {
			d.deliverInput(p[:n])
		}
		switch {
		case err == io.EOF || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// deliverInput adds p, for which RunInput has seen that there is room, to the guest's input.
func (d *Device) deliverInput(p []byte) {
	d.mu.Lock()
	d.input = append(d.input, p...)
	d.mu.Unlock()
	if d.transport != nil {
		d.transport.Kick(receiveQueue)
	}
}

// RunOutput moves the guest's output to the host until ctx is done and all of it is written. After an error of the
// stream output goes into nothing.
func (d *Device) RunOutput(ctx context.Context) {
	for {
		p := d.takeOutput()
		switch {
		case len(p) > 0:
			d.deliver(p)
			continue
		case ctx.Err() != nil:
			return
		}
		select {
		case <-d.outputReady:
		case <-ctx.Done():
		}
	}
}

func (d *Device) takeOutput() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.output
	d.output = nil
	return p
}

// deliver writes p in pieces, so that each that the host takes counts as progress.
func (d *Device) deliver(p []byte) {
	for len(p) > 0 && d.out != nil {
		n, err := d.out.Write(p[:min(len(p), 4096)])
		p = p[n:]
		d.mu.Lock()
		d.taken += uint64(n)
		lost := d.dropped
		if n > 0 {
			d.stalled, d.dropped = false, 0
		}
		d.mu.Unlock()
		wake(d.outputRoom)
		if err != nil {
			d.log.Warn("console: output goes into nothing from now on", "error", err)
			d.mu.Lock()
			d.out = nil
			d.mu.Unlock()
			wake(d.outputRoom)
			return
		}
		if lost > 0 {
			if ok, more := d.limiter.Allow(); ok {
				d.log.Warn("console: the host did not read: output dropped", "bytes", lost, "suppressed", more)
			}
		}
	}
}
