package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var process = Process{
	Args: []string{"sh", "-c", ""}, Env: []string{"A=ü"}, Cwd: "/", UID: 1, GID: math.MaxUint32, Groups: []uint32{0, 7},
	Umask: 0o22, Capabilities: Capabilities{1, 2, 3, 4, math.MaxUint64}, Rlimits: []Rlimit{{-1, 5, math.MaxUint64}},
	NoNewPrivileges: true, SetOOMScoreAdj: true, OOMScoreAdj: -998, Terminal: true, Rows: 24, Cols: 80,
	Seccomp: Seccomp{1, []Instruction{{6, 1, 2, 0x7fff0000}}}, Scheduler: Scheduler{true, 6, 1, -20, 99, 1 << 40, 2, 3},
	IOPriority: 2<<13 | 7, Personality: 8, CPUs: 1 << 63, TimeOffsets: []TimeOffset{{"boottime", -7, 5}}, Stdin: 1, Stdout: 2, Stderr: 3, Console: 4,
}

// messages has one of each kind, with every field set.
var messages = map[Side][]Message{
	Host: {
		&Configure{-1, []byte{1, 2, 3}, "guest", 1 << 40},
		&CreateContainer{
			ID: "c", Rootfs: Rootfs{"/c/0", true, 1 << 18},
			Mounts:  []Mount{{true, true, true, "/c/1", "/vol", "bind", 1, 2, 3, 4, 5, "mode=755", Socket{DatagramSocket, 7, 0o640, 1, 2}}, {Target: "/proc", Type: "proc"}},
			Devices: []Device{{"/dev/x", 0o20666, 1, 2, 3, 4, "disk"}}, Hostname: "h", Domainname: "d",
			DeviceRules: []DeviceRule{{true, 0o60000, 8, -1, DeviceAll, "disk"}, {}},
			Sysctls:     []Sysctl{{"a.b", "1"}}, MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/r", "/s"},
			Resources: Resources{true, 1, -1, 3, math.MinInt64, []File{{"memory.high", "max"}}}, Process: process,
			Hooks: []Hook{{"/hook", []string{"zero"}, []string{"A=b"}, 1 << 40}, {Path: "/next"}}, HookState: "{}",
		},
		&StartContainer{"c"}, &DeleteContainer{"c"}, &Exec{"c", "e", "sub", process}, &Signal{"c", "e", 37, true},
		&Resize{"c", "e", 1, 65535}, &CloseStdin{"c", "e"}, &SetTime{1}, &Plug{}, &Unplug{-7}, &Network{[]NetworkStep{{12, "\x00r", Sysctl{"a", "b"}}}}, &Update{"c", Resources{false, 1, 2, 3, 4, nil}},
		&ListProcesses{"c"}, &SyncFS{}, &Shutdown{}, &Stats{"c"},
		&Listen{true, "\x7f\x00\x00\x0b", 7}, &Connect{true, "\x7f\x00\x00\x01", 80, 8},
	},
	Guest: {
		&Hello{"6.12", Phases{1, 2, 3}, [SecretSize]byte{1, 31: 2}},
		&Reply{NoProgram, "text", 12, []ProcessInfo{{1, 2, 3, 4, 5, 6, 7, 'S', "sh", -1}, {}}, []File{{"memory.max", "1\n"}}, []Answer{{17, "data"}, {}}, 53},
		&Exited{"c", "e", 137, 9, true, 1 << 40, 2}, &MemoryLow{},
	},
}

func TestRoundTrip(t *testing.T) {
	for side, list := range messages {
		var stream bytes.Buffer
		for i, m := range list {
			if err := Write(&stream, uint32(i)<<24, m); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range list {
			id, got, err := Read(&stream, side)
			if err != nil || id != uint32(i)<<24 {
				t.Fatalf("%T: id %d, %v", want, id, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%T changed: %s", want, d)
			}
		}
		if _, _, err := Read(&stream, side); err != io.EOF {
			t.Errorf("at the end: %v, want io.EOF", err)
		}
	}
}

func frame(change func(b []byte) []byte) []byte {
	b, err := Append(nil, 1, &Signal{ID: "c", ExecID: "e", Signal: 9})
	if err != nil {
		panic(err)
	}
	return change(b)
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		from Side
		want error
	}{
		{"cut header", frame(func(b []byte) []byte { return b[:5] }), Host, io.ErrUnexpectedEOF},
		{"cut body", frame(func(b []byte) []byte { return b[:len(b)-1] }), Host, io.ErrUnexpectedEOF},
		{"no body", frame(func(b []byte) []byte { return b[:headerSize] }), Host, io.ErrUnexpectedEOF},
		{"other version", frame(func(b []byte) []byte { b[4]++; return b }), Host, ErrVersion},
		{"unknown kind", frame(func(b []byte) []byte { b[5] = 255; return b }), Host, ErrMalformed},
		{"a request from the guest", frame(func(b []byte) []byte { return b }), Guest, ErrMalformed},
		{"length below the header", frame(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, 5); return b }), Host, ErrMalformed},
		{"length 4 GiB", frame(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, math.MaxUint32); return b }), Host, ErrTooLarge},
		{"length just above", frame(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, MaxMessage-3); return b }), Host, ErrTooLarge},
		{"string longer than the rest", frame(func(b []byte) []byte { b[headerSize] = 200; return b }), Host, ErrMalformed},
		{"flag of 2", frame(func(b []byte) []byte { b[len(b)-1] = 2; return b }), Host, ErrMalformed},
		{"a byte more", frame(func(b []byte) []byte { b[0]++; return append(b, 0) }), Host, ErrMalformed},
	} {
		if _, m, err := Read(bytes.NewReader(tt.b), tt.from); !errors.Is(err, tt.want) || m != nil {
			t.Errorf("%s: got %v, %v, want %v", tt.name, m, err, tt.want)
		}
	}
	if err := Write(io.Discard, 1, &StartContainer{strings.Repeat("x", MaxMessage)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a message too large to send: %v", err)
	}
}

func TestStreamHeader(t *testing.T) {
	for _, h := range []StreamHeader{{Control: true}, {Secret: [SecretSize]byte{1, 31: 9}, ID: 0xfedcba98}} {
		var b bytes.Buffer
		if _, err := h.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		b.WriteString("data")
		got, err := ReadStreamHeader(&b)
		if err != nil || got != h || b.String() != "data" {
			t.Errorf("got %+v, %v, left %q; want %+v", got, err, b.String(), h)
		}
	}
	for _, s := range []string{"", "gvm", "gvmX", "gvmS" + strings.Repeat("x", SecretSize+3)} {
		if h, err := ReadStreamHeader(strings.NewReader(s)); err == nil {
			t.Errorf("%q: got %+v, want an error", s, h)
		}
	}
}

// What decodes must encode to the same bytes: one encoding a message, and no field is read that is not written.
func fuzzDecode(f *testing.F, from Side) {
	for _, m := range messages[from] {
		b, err := Append(nil, 7, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, m, err := Read(bytes.NewReader(b), from)
		if err != nil {
			if m != nil {
				t.Errorf("a message besides the error %v", err)
			}
			return
		}
		again, err := Append(nil, id, m)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Errorf("%x decodes and encodes to %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeHost(f *testing.F)  { fuzzDecode(f, Host) }
func FuzzDecodeGuest(f *testing.F) { fuzzDecode(f, Guest) }

// A frame of 1 MiB must not make the reader allocate much more, whatever its counts say.
func TestDecodeAllocates(t *testing.T) {
	b := make([]byte, MaxMessage)
	binary.LittleEndian.PutUint32(b, MaxMessage-4)
	for _, tt := range []struct {
		kind  Kind
		from  Side
		count int // where a list's length stands
	}{{kindReply, Guest, headerSize + 4 + 4 + 4}, {kindConfigure, Host, headerSize + 8}} {
		clear(b[4:])
		b[4], b[5] = Version, uint8(tt.kind)
		binary.LittleEndian.PutUint32(b[tt.count:], MaxMessage/64)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, m, err := Read(bytes.NewReader(b), tt.from)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 16*MaxMessage {
			t.Errorf("kind %d: %d bytes allocated for %T, %v", tt.kind, n, m, err)
		}
	}
}
