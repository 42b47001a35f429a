package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/testhost/need"
)

func TestParseShowDepends(t *testing.T) {
	got, err := parseShowDepends("insmod /m/virtio_ring.ko \ninsmod /m/virtio.ko opt=1\nbuiltin ext4\n\ninsmod /m/virtio_ring.ko \ninsmod /m/fuse.ko \n")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/m/virtio_ring.ko", "/m/virtio.ko", "/m/fuse.ko"}, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"install /bin/true", "insmod", "modprobe: not found"} {
		if got, err := parseShowDepends(bad); err == nil {
			t.Errorf("%q: got %q, want an error", bad, got)
		}
	}
}

// TestCPIO asks cpio what is in the archive.
func TestCPIO(t *testing.T) {
	tool := need.Program(t, "cpio", "cpio")
	var buf bytes.Buffer
	c := &cpio{w: &buf}
	c.dir("/dev")
	c.file("/init", []byte("abc"))
	c.file("/dev/four", []byte("four"))
	c.file("/empty", nil)
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%4 != 0 {
		t.Errorf("length %d is not a multiple of 4", buf.Len())
	}
	dir := t.TempDir()
	cmd := exec.Command(tool, "--extract", "--quiet", "--no-preserve-owner")
	cmd.Dir, cmd.Stdin = dir, &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	for name, want := range map[string]string{"init": "abc", "dev/four": "four", "empty": ""} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestCPIOKeepsFirstError(t *testing.T) {
	c := &cpio{w: iotestErrWriter{}}
	c.file("/a", []byte("x"))
	if err := c.end(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("err = %v", err)
	}
}

type iotestErrWriter struct{}

func (iotestErrWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestMissingPackages(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	got := missingPackages([]tool{
		{[]string{"/no/1", there}, "present"}, {[]string{"/no/2"}, "absent"}, {[]string{"/no/3"}, "absent"},
	})
	if d := cmp.Diff([]string{"absent"}, got); d != "" {
		t.Error(d)
	}
}

func TestKernelVersion(t *testing.T) {
	root := t.TempDir()
	if _, err := kernelVersion(root); err == nil {
		t.Error("empty directory: no error")
	}
	if err := os.MkdirAll(root+"/boot", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/boot/vmlinuz-6.1.0-1-cloud-amd64", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if v, err := kernelVersion(root); err != nil || v != "6.1.0-1-cloud-amd64" {
		t.Errorf("got %q, %v", v, err)
	}
}

func TestConsole(t *testing.T) {
	var log bytes.Buffer
	var in strings.Builder
	for range 100 {
		in.WriteString("before\r\n")
	}
	in.WriteString("[ 1.0] Kernel panic - not syncing: softlockup: hung tasks\r\n")
	in.WriteString(strings.Repeat("trace\r\n", 100) + "end without newline")
	c := follow(strings.NewReader(in.String()), &log)
	<-c.done
	if got := c.panicReason(); got != "softlockup: hung tasks" || !isLockup(got) {
		t.Errorf("reason %q", got)
	}
	tail := c.tail()
	if n := strings.Count(tail, "\n") + 1; n != consoleLines || !strings.HasPrefix(tail, "before") || !strings.Contains(tail, "Kernel panic") {
		t.Errorf("%d lines: %s", n, tail)
	}
	if !strings.HasSuffix(log.String(), "end without newline\n") {
		t.Error("the log lacks the last line")
	}
	if isLockup("sysrq triggered crash") {
		t.Error("a crash counts as a lockup")
	}
}

func TestReadAnswer(t *testing.T) {
	const answers = `{"QMP": {"version": {}}}
{"timestamp": {}, "event": "RTC_CHANGE"}
{"return": {}}
{"return": "CPU#0\r\nRAX=0"}
`
	if got, err := readAnswer(json.NewDecoder(strings.NewReader(answers))); err != nil || !strings.HasPrefix(got, "CPU#0") {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{`{"error": {"desc": "no"}}`, `{"return": {}}`, ""} {
		if _, err := readAnswer(json.NewDecoder(strings.NewReader(bad))); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestInputReplay: two readers, one after the other, get the same bytes.
func TestInputReplay(t *testing.T) {
	read := func(in *input) string {
		var b strings.Builder
		buf := make([]byte, 3)
		for off := int64(0); ; {
			n, err := in.readAt(off, buf)
			b.Write(buf[:n])
			off += int64(n)
			if err != nil {
				return b.String()
			}
		}
	}
	in := &input{r: iotest.OneByteReader(strings.NewReader("hello, world"))}
	for range 2 {
		if got := read(in); got != "hello, world" {
			t.Errorf("got %q", got)
		}
	}
	if !in.replayable() {
		t.Error("not replayable")
	}
}

func TestInputLimit(t *testing.T) {
	in := &input{r: io.LimitReader(zeros{}, replayLimit+10)}
	buf := make([]byte, 64<<10)
	var off int64
	for {
		n, err := in.readAt(off, buf)
		off += int64(n)
		if err != nil {
			break
		}
	}
	if off != replayLimit+10 || in.replayable() {
		t.Errorf("read %d bytes, replayable %v", off, in.replayable())
	}
	if _, err := in.readAt(0, buf); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("reading what was dropped: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRunDirect(t *testing.T) {
	for cmd, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
		o := &options{argv: []string{"/bin/sh", "-c", cmd}, dir: "/"}
		if got, err := runDirect(o); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", cmd, got, err, want)
		}
	}
	if got, err := runDirect(&options{argv: []string{"/no/such"}}); err == nil || got != statusFailure {
		t.Errorf("no such program: %d, %v", got, err)
	}
}
