package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// negotiated is what this layer has to know of the answer to INIT.
type negotiated struct {
	flags    uint32
	maxWrite uint32
}

const flagSetXAttrExt = 1 << 29

// Offsets in struct fuse_init_out.
const (
	initOutFlags    = 12
	initOutMaxWrite = 20
	initOutMin      = 24
)

// carryOut has the server answer the request, unless this layer does. A fault of the server's fails the request, not the
// VM.
func (d *Device) carryOut(r *request) {
	defer r.done.Store(true)
	defer func() {
		if p := recover(); p != nil {
			r.refuse(errIO, fmt.Sprintf("the server panicked: %v", p))
		}
	}()
	switch {
	case r.errno != 0:
		return
	case r.opcode == opInit:
		d.begin(r)
		return
	}
	d.session.RLock()
	defer d.session.RUnlock()
	switch {
	case d.initReq == nil || d.ended.Load():
		r.refuse(errIO, "a request outside a session")
		return
	case r.cancelled.Load():
		r.refuse(errInterrupted, "")
		return
	case r.opcode == opInterrupt:
		d.interrupt(r)
		return
	case r.opcode == opSyncFS:
		d.syncFS(r)
		return
	case r.opcode == opSetXAttr && d.negotiated.flags&flagSetXAttrExt != 0:
		r.checkXAttr(16)
	case r.opcode == opSetXAttr:
		r.checkXAttr(8)
	}
	limit := uint64(max(d.negotiated.maxWrite, minTransfer))
	if r.opcode == opWrite && r.transfer() > limit {
		r.refuse(errInvalid, "a WRITE of more than was negotiated")
	}
	if r.errno == 0 {
		r.prepareOutput(limit)
	}
	if r.errno == 0 {
		d.handle(r)
	}
	if r.opcode == opDestroy && r.errno == 0 {
		d.ended.Store(true)
	}
}

// handle calls the server.
func (d *Device) handle(r *request) {
	n, status := d.server.HandleRequest(r.in, r.out)
	if r.reply = n; status != fuse.OK {
		r.refuse(errIO, "")
	}
}

func (d *Device) syncFS(r *request) {
	if d.cfg.SyncFS == nil {
		r.refuse(errUnknown, "")
		return
	}
	if status := d.cfg.SyncFS(r.node); status != fuse.OK {
		r.refuse(syscall.Errno(status), "")
		return
	}
	le := binary.LittleEndian
	le.PutUint32(r.output, replySize)
	le.PutUint32(r.output[4:], 0)
	le.PutUint64(r.output[8:], r.unique)
	r.reply = replySize
}

// begin carries out INIT, when nothing else is under way: the server keeps what it negotiates without a lock.
func (d *Device) begin(r *request) {
	if !d.session.TryLock() {
		r.refuse(syscall.EBUSY, "INIT while requests are under way")
		return
	}
	defer d.session.Unlock()
	switch {
	case d.ended.Load():
		d.renew()
	case d.initReq != nil:
		r.refuse(errIO, "INIT in a session")
		return
	}
	if r.prepareOutput(0); r.errno == 0 {
		d.handle(r)
	}
	if r.errno == 0 {
		d.note(r)
	}
}

// endSession renews the server when DESTROY has ended the session and its last request has left, so that what the guest held does
// not stay until it mounts again. Whoever still is in the session tries again when leaving.
func (d *Device) endSession() {
	if !d.ended.Load() || !d.session.TryLock() {
		return
	}
	defer d.session.Unlock()
	if d.ended.Load() {
		d.renew()
	}
}

// note begins the session if the server's answer to INIT says so. The caller holds d.session.
func (d *Device) note(r *request) {
	le := binary.LittleEndian
	if r.reply < replySize+initOutMin || le.Uint32(r.output[4:]) != 0 {
		return
	}
	d.initReq = slices.Clone(r.input)
	d.negotiated = negotiated{
		flags:    le.Uint32(r.output[replySize+initOutFlags:]),
		maxWrite: le.Uint32(r.output[replySize+initOutMaxWrite:]),
	}
}

// interrupt carries out the guest's INTERRUPT. The server does not know of a request that was not handed to it yet: a
// goroutine tells it again until it does.
func (d *Device) interrupt(r *request) {
	target := binary.LittleEndian.Uint64(r.input[headerSize:])
	d.mu.Lock()
	victim := d.inflight[target]
	if victim != nil && !victim.interrupting {
		victim.interrupting = true
		d.group.Go(func() { d.tellServer(d.server, victim) })
	}
	d.mu.Unlock()
	if victim == nil {
		r.prepareOutput(0)
		d.handle(r)
	}
}

// interruptPause is the time between two attempts.
const interruptPause = 200 * time.Microsecond

// tellServer interrupts a request until the server has heard of it or has answered it.
func (d *Device) tellServer(server Handler, r *request) {
	r.cancelled.Store(true)
	for !r.done.Load() && !interruptOne(server, r.unique) {
		time.Sleep(interruptPause)
	}
}

// interruptOne returns whether the server knew the request. It replies to an INTERRUPT only when it did not.
func interruptOne(server Handler, unique uint64) bool {
	in := make([]byte, headerSize+8)
	binary.LittleEndian.PutUint32(in, uint32(len(in)))
	binary.LittleEndian.PutUint32(in[4:], opInterrupt)
	binary.LittleEndian.PutUint64(in[8:], unique|1)
	binary.LittleEndian.PutUint64(in[headerSize:], unique)
	n, status := server.HandleRequest([][]byte{in}, [][]byte{make([]byte, replyRoom)})
	return n == 0 && status == fuse.OK
}

// interruptAll interrupts all requests under way, over and over, until there are none. No Serve runs meanwhile.
func (d *Device) interruptAll() {
	if len(d.underWay()) == 0 {
		d.group.Wait()
		return
	}
	finished := make(chan struct{})
	go func() {
		d.group.Wait()
		close(finished)
	}()
	for {
		d.session.RLock()
		server := d.server
		d.session.RUnlock()
		for _, r := range d.underWay() {
			r.cancelled.Store(true)
			interruptOne(server, r.unique)
		}
		select {
		case <-finished:
			return
		case <-time.After(interruptPause):
		}
	}
}

// underWay returns the requests in goroutines of their own. Their memory is not reused from now on.
func (d *Device) underWay() []*request {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*request
	for _, r := range d.inflight {
		r.interrupting = true
		all = append(all, r)
	}
	return all
}

const (
	stateVersion = 1
	// stateWait is how long a snapshot waits for requests under way.
	stateWait = 2 * time.Second
)

// MarshalState implements virtio.StateSaver: the tag, and the INIT that began the session. What the server knows, nodes
// and open files, is the server's to save.
func (d *Device) MarshalState() ([]byte, error) {
	for end := time.Now().Add(stateWait); d.busy.Load() > 0; time.Sleep(interruptPause) {
		if time.Now().After(end) {
			return nil, errors.New("virtio-fs: requests are under way, such as waits for locks")
		}
	}
	d.session.RLock()
	defer d.session.RUnlock()
	p := append([]byte{stateVersion}, make([]byte, tagSize)...)
	copy(p[1:], d.cfg.Tag)
	if d.initReq == nil || d.ended.Load() {
		return p, nil
	}
	return append(p, d.initReq...), nil
}

// UnmarshalState implements virtio.StateSaver: the server, a fresh one, gets the saved INIT.
func (d *Device) UnmarshalState(p []byte) error {
	tag := make([]byte, tagSize)
	copy(tag, d.cfg.Tag)
	switch {
	case len(p) < 1+tagSize || p[0] != stateVersion:
		return errors.New("virtio-fs: not a state of this version")
	case !slices.Equal(p[1:1+tagSize], tag):
		return fmt.Errorf("virtio-fs: the state is of tag %.36q, the device of %q", p[1:1+tagSize], d.cfg.Tag)
	case len(p) == 1+tagSize:
		return nil
	}
	in := p[1+tagSize:]
	if len(in) < headerSize+operations[opInit].in || len(in) > headerSize+initInSize {
		return fmt.Errorf("virtio-fs: a saved INIT of %d bytes", len(in))
	}
	r := requests.New().(*request)
	r.input = slices.Clone(in)
	r.opcode, r.op, r.in = opInit, operations[opInit], [][]byte{r.input}
	if r.checkInit(); binary.LittleEndian.Uint32(in[4:]) != opInit {
		return errors.New("virtio-fs: the saved request is no INIT")
	}
	if r.errno == 0 {
		d.begin(r)
	}
	if r.errno != 0 || d.initReq == nil {
		return errors.New("virtio-fs: the server refuses the saved INIT")
	}
	return nil
}
