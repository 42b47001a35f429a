package fs

import (
	"bytes"
	"encoding/binary"
	"io"
	"log"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/virtiotest"
)

var le = binary.LittleEndian

// guest is a driver that makes FUSE requests.
type guest struct {
	*virtiotest.Driver
	dev    *Device
	fs     *memFS
	unique uint64
}

func newDevice(t testing.TB, m *memFS, change ...func(*Config)) *Device {
	t.Helper()
	cfg := Config{Tag: "root", Server: fuse.NewProtocolServer(m, m.options())}
	for _, c := range change {
		c(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func newGuest(t testing.TB, change ...func(*Config)) *guest {
	t.Helper()
	m := newMemFS("a", "b")
	d := newDevice(t, m, change...)
	g := &guest{Driver: virtiotest.New(t, d, virtiotest.Options{RAM: 16 << 20}), dev: d, fs: m, unique: 100}
	g.init(0)
	return g
}

// message is struct fuse_in_header, then args: unsigned integers and strings, the latter with their zero.
func message(opcode uint32, unique, node uint64, args ...any) []byte {
	p := make([]byte, headerSize)
	le.PutUint32(p[4:], opcode)
	le.PutUint64(p[8:], unique)
	le.PutUint64(p[16:], node)
	for _, a := range args {
		switch a := a.(type) {
		case uint32:
			p = le.AppendUint32(p, a)
		case uint64:
			p = le.AppendUint64(p, a)
		case string:
			p = append(append(p, a...), 0)
		case []byte:
			p = append(p, a...)
		default:
			panic(a)
		}
	}
	le.PutUint32(p, uint32(len(p)))
	return p
}

func zeros(n int) []byte { return make([]byte, n) }

// add makes a request available on the first request queue, as Linux does: header and arguments in buffers of their own.
func (g *guest) add(room int, opcode uint32, node uint64, args ...any) *virtiotest.Request {
	g.unique += 2
	m := message(opcode, g.unique, node, args...)
	return g.raw(1, room, m)
}

func (g *guest) raw(queue, room int, m []byte) *virtiotest.Request {
	in := [][]byte{m[:min(len(m), headerSize)]}
	if len(m) > headerSize {
		in = append(in, m[headerSize:])
	}
	var out []int
	if room > 0 {
		out = append(out, min(room, replySize))
	}
	if room > replySize {
		out = append(out, room-replySize)
	}
	r := g.Queue(queue).Add(in, out...)
	g.Queue(queue).Kick()
	return r
}

// do carries a request out and returns its error and the rest of the reply.
func (g *guest) do(room int, opcode uint32, node uint64, args ...any) (syscall.Errno, []byte) {
	g.T.Helper()
	return g.wait(g.add(room, opcode, node, args...))
}

func (g *guest) wait(r *virtiotest.Request) (syscall.Errno, []byte) {
	g.T.Helper()
	g.Queue(1).Wait(r)
	return g.reply(r)
}

func (g *guest) reply(r *virtiotest.Request) (syscall.Errno, []byte) {
	g.T.Helper()
	p := r.Bytes()
	if len(p) < replySize || le.Uint32(p) != uint32(len(p)) {
		g.T.Fatalf("a reply of %d bytes: % x", len(p), p)
	}
	return syscall.Errno(-int32(le.Uint32(p[4:]))), p[replySize:]
}

func (g *guest) init(flags uint32) {
	g.T.Helper()
	errno, out := g.do(512, opInit, 0, uint32(7), uint32(38), uint32(128<<10), flags, zeros(48))
	if errno != 0 || len(out) != 64 {
		g.T.Fatalf("INIT: %v, %d bytes", errno, len(out))
	}
}

func (g *guest) expect(what string, want syscall.Errno, got syscall.Errno) {
	g.T.Helper()
	if got != want {
		g.T.Errorf("%s: %v (%d), want %v", what, got, got, want)
	}
}

func readArgs(fh, offset uint64, size uint32) []any {
	return []any{fh, offset, size, zeros(20)}
}

func lockArgs(owner uint64, typ uint32) []any {
	return []any{uint64(2), owner, uint64(0), ^uint64(0) >> 1, typ, uint32(1), zeros(8)}
}

func TestConfig(t *testing.T) {
	m := newMemFS()
	for _, cfg := range []Config{{}, {Tag: strings.Repeat("x", 37)}, {Tag: "x", RequestQueues: -1}, {Tag: "x", RequestQueues: 65}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	// Two devices in one machine.
	for _, tag := range []string{"one", strings.Repeat("t", 36)} {
		d := virtiotest.New(t, newDevice(t, m, func(c *Config) { c.Tag, c.RequestQueues = tag, 2 }), virtiotest.Options{})
		want := append(append([]byte(tag), zeros(36-len(tag))...), 2, 0, 0, 0)
		if got := d.ReadConfig(0, 40); !bytes.Equal(got, want) {
			t.Errorf("config %q", got)
		}
		if len(d.Queues) != 3 {
			t.Errorf("%d queues", len(d.Queues))
		}
	}
}

// TestSizes compares the table with go-fuse's structs, which the server checks requests against.
func TestSizes(t *testing.T) {
	for opcode, v := range map[uint32]any{
		2: fuse.ForgetIn{}, 3: fuse.GetAttrIn{}, 4: fuse.SetAttrIn{}, 8: fuse.MknodIn{}, 9: fuse.MkdirIn{},
		13: fuse.LinkIn{}, 14: fuse.OpenIn{}, 15: fuse.ReadIn{}, 16: fuse.WriteIn{}, 18: fuse.ReleaseIn{},
		20: fuse.FsyncIn{}, 22: fuse.GetXAttrIn{}, 23: fuse.GetXAttrIn{}, 25: fuse.FlushIn{}, 27: fuse.OpenIn{},
		28: fuse.ReadIn{}, 29: fuse.ReleaseIn{}, 30: fuse.FsyncIn{}, 31: fuse.LkIn{}, 32: fuse.LkIn{}, 33: fuse.LkIn{},
		34: fuse.AccessIn{}, 35: fuse.CreateIn{}, 36: fuse.InterruptIn{}, 43: fuse.FallocateIn{}, 44: fuse.ReadIn{},
		45: fuse.RenameIn{}, 46: fuse.LseekIn{}, 47: fuse.CopyFileRangeIn{}, 51: fuse.CreateIn{}, 52: fuse.StatxIn{},
	} {
		if got, want := headerSize+operations[opcode].in, int(reflect.TypeOf(v).Size()); got != want {
			t.Errorf("opcode %d: %d bytes, go-fuse wants %d", opcode, got, want)
		}
	}
}

// TestNoWindow: the device has no shared memory region, in which a DAX window would lie (virtio 1.2 §5.11.6.6). Contract: M2.
func TestNoWindow(t *testing.T) {
	g := newGuest(t)
	for id := range uint32(3) {
		g.Write32(virtio.RegSHMSel, id)
		if low, high := g.Read32(virtio.RegSHMLenLow), g.Read32(virtio.RegSHMLenHigh); low&high != ^uint32(0) {
			t.Errorf("region %d has %#x%08x bytes", id, high, low)
		}
	}
}

func TestFiles(t *testing.T) {
	g := newGuest(t)
	errno, out := g.do(144, opLookup, 1, "b")
	g.expect("LOOKUP", 0, errno)
	if node := le.Uint64(out); node != 3 {
		t.Errorf("node %d", node)
	}
	errno, _ = g.do(144, opLookup, 1, "c")
	g.expect("LOOKUP of nothing", syscall.ENOENT, errno)

	for _, size := range []int{5, 4096, 64 << 10, 1 << 20} { // in the queue's goroutine and out of it
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 / 3)
		}
		errno, out = g.do(24, opWrite, 3, uint64(3), uint64(10), uint32(size), zeros(20), data)
		g.expect("WRITE", 0, errno)
		if n := le.Uint32(out); int(n) != size {
			t.Errorf("wrote %d of %d bytes", n, size)
		}
		errno, out = g.do(16+size, opRead, 3, readArgs(3, 10, uint32(size))...)
		g.expect("READ", 0, errno)
		if !bytes.Equal(out, data) {
			t.Errorf("READ of %d bytes returns %d others", size, len(out))
		}
	}
	errno, out = g.do(4096, opRead, 3, readArgs(3, 1<<20, 1000)...)
	if g.expect("READ at the end", 0, errno); len(out) != 10 {
		t.Errorf("%d bytes", len(out))
	}
	errno, _ = g.do(4096, opRead, 99, readArgs(99, 0, 1000)...)
	g.expect("READ of a bad handle", syscall.EBADF, errno)
}

// TestScattered: requests in odd pieces, data over many buffers.
func TestScattered(t *testing.T) {
	g := newGuest(t)
	data := bytes.Repeat([]byte("0123456789"), 1000)
	m := message(opWrite, 7, 2, uint64(2), uint64(0), uint32(len(data)), zeros(20), data)
	var in [][]byte
	for p := m; len(p) > 0; {
		n := min(len(p), 33)
		in = append(in, p[:n])
		p = p[n:]
	}
	r := g.Queue(1).Add(in, 3, 5, 100)
	g.Queue(1).Kick()
	errno, _ := g.wait(r)
	g.expect("WRITE", 0, errno)
	r = g.Queue(1).Add([][]byte{message(opRead, 9, 2, readArgs(2, 0, 10000)...)}, 7, 13, 1000, 1, 8999)
	g.Queue(1).Kick()
	errno, out := g.wait(r)
	if g.expect("READ", 0, errno); !bytes.Equal(out, data) {
		t.Errorf("got %d bytes", len(out))
	}
}

func TestDirectories(t *testing.T) {
	g := newGuest(t)
	for _, opcode := range []uint32{opReadDir, opReadDirPlus} {
		errno, out := g.do(16+4096, opcode, 1, readArgs(1, 0, 4096)...)
		g.expect("READDIR", 0, errno)
		var names []string
		if opcode == opReadDir {
			list, err := fuse.ParseDirEntries(out)
			if err != nil {
				t.Error(err)
			}
			for _, e := range list {
				names = append(names, e.Name)
			}
		} else {
			list, outs, err := fuse.ParseDirLookupEntries(out)
			if err != nil || len(outs) != 2 || outs[1].NodeId != 3 {
				t.Errorf("%+v, %v", outs, err)
			}
			for _, e := range list {
				names = append(names, e.Name)
			}
		}
		if strings.Join(names, " ") != "a b" {
			t.Errorf("opcode %d: %q", opcode, names)
		}
	}
}

func TestXAttrs(t *testing.T) {
	for _, flags := range []uint32{0, flagSetXAttrExt} {
		g := newGuest(t)
		g.Init()
		g.init(flags)
		set := func(size uint32, name string, value string) syscall.Errno {
			args := []any{size, uint32(0)}
			if flags != 0 {
				args = append(args, uint64(0))
			}
			errno, _ := g.do(16, opSetXAttr, 2, append(args, name, []byte(value))...)
			return errno
		}
		g.expect("SETXATTR", 0, set(5, "user.x/y", "value"))
		g.expect("SETXATTR with a wrong size", syscall.EINVAL, set(6, "user.x/y", "value"))
		g.expect("SETXATTR with a huge size", syscall.EINVAL, set(^uint32(0), "user.x/y", "value"))
		g.expect("SETXATTR without a name", syscall.EINVAL, set(5, "", "value"))
		errno, out := g.do(16+100, opGetXAttr, 2, uint32(100), uint32(0), "user.x/y")
		if g.expect("GETXATTR", 0, errno); string(out) != "value" {
			t.Errorf("value %q", out)
		}
		errno, out = g.do(24, opGetXAttr, 2, uint32(0), uint32(0), "user.x/y")
		if g.expect("GETXATTR of the size", 0, errno); le.Uint32(out) != 5 {
			t.Errorf("size % x", out)
		}
		errno, _ = g.do(16+4, opGetXAttr, 2, uint32(4), uint32(0), "user.x/y")
		g.expect("GETXATTR with too little room", syscall.ERANGE, errno)
		big := strings.Repeat("v", 64<<10)
		g.expect("SETXATTR of 64 KiB", 0, set(64<<10, "user.big", big))
		errno, out = g.do(16+64<<10, opGetXAttr, 2, uint32(64<<10), uint32(0), "user.big")
		if g.expect("GETXATTR of 64 KiB", 0, errno); string(out) != big {
			t.Errorf("%d bytes", len(out))
		}
	}
}

// TestRefused sends what a driver should not. None of it may reach the server, or the standard logger, on which go-fuse
// complains. Contract: E2, R4.
func TestRefused(t *testing.T) {
	var std bytes.Buffer
	log.SetOutput(&std)
	defer log.SetOutput(io.Discard)
	with := func(m []byte, change func(m []byte)) []byte {
		change(m)
		return m
	}
	ext := func(n uint16) func(m []byte) { return func(m []byte) { le.PutUint16(m[36:], n) } }
	for _, tt := range []struct {
		name string
		m    []byte
		room int
		want syscall.Errno
	}{
		{"length too small", with(message(3, 1, 2, zeros(16)), func(m []byte) { le.PutUint32(m, 55) }), 200, syscall.EIO},
		{"length too large", with(message(3, 1, 2, zeros(16)), func(m []byte) { le.PutUint32(m, 57) }), 200, syscall.EIO},
		{"without arguments", message(3, 1, 2), 200, syscall.EIO},
		{"opcode 0", message(0, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"IOCTL", message(39, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"POLL", message(40, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"NOTIFY_REPLY", message(41, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"BMAP", message(37, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"SETUPMAPPING", message(48, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"an opcode of go-fuse's own", message(100, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"opcode -1", message(^uint32(0), 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"CUSE_INIT", message(4096, 1, 2, zeros(100)), 200, syscall.ENOSYS},
		{"a name without an end", message(opLookup, 1, 1, []byte("a")), 200, syscall.EINVAL},
		{"no name", message(opLookup, 1, 1), 200, syscall.EINVAL},
		{"an empty name", message(opLookup, 1, 1, ""), 200, syscall.EINVAL},
		{"two names", message(opLookup, 1, 1, "a", "b"), 200, syscall.EINVAL},
		{"a path", message(opLookup, 1, 1, "a/b"), 200, syscall.EINVAL},
		{"RENAME of a path", message(45, 1, 1, zeros(16), "a", "../b"), 200, syscall.EINVAL},
		{"RENAME with one name", message(45, 1, 1, zeros(16), "a"), 200, syscall.EINVAL},
		{"go-fuse's own name", message(opLookup, 1, 1, pollHackName), 200, syscall.ENOENT},
		{"RENAME to go-fuse's own name", message(45, 1, 1, zeros(16), "a", pollHackName), 200, syscall.ENOENT},
		{"go-fuse's own node", message(3, 1, pollHackNode, zeros(16)), 200, syscall.ESTALE},
		{"extensions that are not there", with(message(9, 1, 1, zeros(8), "d"), ext(1)), 200, syscall.EIO},
		{"extensions of a LOOKUP", with(message(opLookup, 1, 1, "a", zeros(8)), ext(1)), 200, syscall.EIO},
		{"extensions of a WRITE", with(message(opWrite, 1, 2, uint64(2), uint64(0), uint32(8), zeros(28)), ext(1)), 200, syscall.EINVAL},
		{"a bad extension", with(message(9, 1, 1, zeros(8), "d", uint32(7), uint32(32)), ext(1)), 200, syscall.EIO},
		{"WRITE of more than there is", message(opWrite, 1, 2, uint64(2), uint64(0), uint32(6), zeros(20), zeros(5)), 200, syscall.EINVAL},
		{"WRITE of less than there is", message(opWrite, 1, 2, uint64(2), uint64(0), uint32(4), zeros(20), zeros(5)), 200, syscall.EINVAL},
		{"WRITE of more than negotiated", message(opWrite, 1, 2, uint64(2), uint64(0), uint32(1<<20+1), zeros(20), zeros(1<<20+1)), 200, syscall.EINVAL},
		{"READ of more than the room", message(opRead, 1, 2, readArgs(2, 0, 4097)...), 16 + 4096, syscall.EINVAL},
		{"READ of 4 GiB", message(opRead, 1, 2, readArgs(2, 0, ^uint32(0))...), 16 + 4096, syscall.EINVAL},
		{"READDIR of more than the room", message(opReadDir, 1, 1, readArgs(1, 0, 4097)...), 16 + 4096, syscall.EINVAL},
		{"LISTXATTR of more than the room", message(opListXAttr, 1, 1, uint32(1<<20), uint32(0)), 16 + 4096, syscall.EINVAL},
		{"room for the header only", message(opLookup, 1, 1, "a"), 16, syscall.EIO},
		{"a link that is longer than the room", message(opReadlink, 1, 4000), 16 + 100, syscall.EIO},
		{"too long", message(opLookup, 1, 1, strings.Repeat("a", maxArguments)), 200, syscall.E2BIG},
		{"a second INIT", message(opInit, 1, 0, uint32(7), uint32(38), zeros(56)), 200, syscall.EIO},
		{"INIT of a major version", message(opInit, 1, 0, uint32(8), uint32(1), zeros(56)), 200, syscall.EIO},
		{"INIT of an old version", message(opInit, 1, 0, uint32(7), uint32(11), zeros(56)), 200, syscall.EIO},
		{"BATCH_FORGET of too many", message(opBatchForget, 1, 0, uint32(3), uint32(0), zeros(32)), 0, 0},
		{"BATCH_FORGET of 4 GiB", message(opBatchForget, 1, 0, ^uint32(0), uint32(0), zeros(32)), 0, 0},
		{"FORGET without arguments", message(opForget, 1, 2), 0, 0},
		{"half a header", message(opForget, 1, 2)[:20], 200, 0},
		{"no room for a reply", message(opLookup, 1, 1, "a"), 15, 0},
		{"no room", message(opLookup, 1, 1, "a"), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t)
			r := g.raw(1, tt.room, tt.m)
			g.Queue(1).Wait(r)
			if tt.want == 0 {
				if r.Written != 0 {
					t.Errorf("a reply of %d bytes", r.Written)
				}
			} else if errno, _ := g.reply(r); errno != tt.want {
				t.Errorf("%v (%d), want %v", errno, errno, tt.want)
			} else if r.Written != replySize || le.Uint64(r.Bytes()[8:]) != 1 {
				t.Errorf("reply % x", r.Bytes())
			}
			if g.fs.forgets != 0 {
				t.Error("something was forgotten")
			}
			errno, _ := g.do(144, opLookup, 1, "a")
			g.expect("LOOKUP afterwards", 0, errno)
		})
	}
	if std.Len() > 0 {
		t.Errorf("on the standard logger: %s", std.String())
	}
}

func TestForget(t *testing.T) {
	g := newGuest(t)
	g.Queue(0).Wait(g.raw(0, 0, message(opForget, 2, 2, uint64(3))))
	r := g.raw(0, 0, message(opBatchForget, 4, 0, uint32(2), uint32(0), uint64(2), uint64(4), uint64(3), uint64(5)))
	if g.Queue(0).Wait(r); r.Written != 0 || g.fs.forgets != 12 {
		t.Errorf("reply of %d bytes, %d forgotten", r.Written, g.fs.forgets)
	}
}

func seeds() [][]byte {
	var all [][]byte
	for opcode := uint32(0); opcode < uint32(len(operations))+2; opcode++ {
		op := lookup(opcode)
		args := []any{zeros(op.in)}
		switch opcode {
		case opInit:
			continue // comes first, below
		case opRead, opReadDir, opReadDirPlus:
			args = readArgs(2, 0, 64)
		case opWrite:
			args = []any{uint64(2), uint64(0), uint32(4), zeros(20), []byte("data")}
		case opSetXAttr:
			args = []any{uint32(5), uint32(0), "user.x", []byte("value")}
		case opBatchForget:
			args = append([]any{uint32(1), uint32(0)}, zeros(16))
		case 31, 32, opSetLkW:
			args = lockArgs(1, 1)
		}
		for i := range op.names {
			args = append(args, string(rune('a'+i)))
		}
		node := uint64(2)
		if op.paths || opcode == opReadDir || opcode == opReadDirPlus {
			node = 1
		}
		all = append(all, message(opcode, uint64(2*opcode), node, args...))
	}
	return all
}

// FuzzDevice is the fuzzer that all devices have.
func FuzzDevice(f *testing.F) {
	init := message(opInit, 2, 0, uint32(7), uint32(38), zeros(56))
	virtiotest.FuzzDevice(f, func(t testing.TB) virtio.Device {
		return newDevice(t, newMemFS("a", "b"))
	}, virtiotest.FuzzOptions{Requests: append([][]byte{init}, seeds()...), Settle: settle})
}

// settle ends waits, so that nothing writes to guest memory any more.
func settle(dev virtio.Device) { dev.(*Device).interruptAll() }
