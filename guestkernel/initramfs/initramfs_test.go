package initramfs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/testhost/need"
)

func archive(t testing.TB, entries []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCpio lets another program read what Write wrote.
func TestCpio(t *testing.T) {
	need.Program(t, "cpio", "cpio")
	entries := append(ForInit([]byte("#!init\n")),
		Dir("etc", 0o755), File("etc/a", 0o640, []byte("1")), File("etc/ab", 0o4755, nil),
		Entry{Name: "etc/link", Mode: Symlink | 0o777, Data: []byte("a")},
		Entry{Name: "pipe", Mode: FIFO | 0o600, UID: 7, GID: 8})
	cmd := exec.Command("cpio", "-t", "-v", "--numeric-uid-gid", "--quiet")
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"}
	cmd.Stdin = bytes.NewReader(archive(t, entries))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	want := []string{
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
		"crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
		"dr-xr-xr-x 2 0 0 0 Jan 1 1970 proc",
		"dr-xr-xr-x 2 0 0 0 Jan 1 1970 sys",
		"-rwxr-xr-x 1 0 0 7 Jan 1 1970 init",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 etc",
		"-rw-r----- 1 0 0 1 Jan 1 1970 etc/a",
		"-rwsr-xr-x 1 0 0 0 Jan 1 1970 etc/ab",
		"lrwxrwxrwx 1 0 0 1 Jan 1 1970 etc/link -> a",
		"prw------- 1 7 8 0 Jan 1 1970 pipe",
	}
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cpio -tv (-want +got):\n%s", d)
	}

	// And takes the contents out again.
	dir := t.TempDir()
	cmd = exec.Command("cpio", "-i", "-d", "--quiet", "--no-absolute-filenames", "init", "etc/a")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t, entries))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio -i: %v\n%s", err, out)
	}
	for name, want := range map[string]string{"init": "#!init\n", "etc/a": "1"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestDeterministic(t *testing.T) {
	a, b := archive(t, ForInit([]byte("x"))), archive(t, ForInit([]byte("x")))
	if !bytes.Equal(a, b) {
		t.Error("two archives of the same entries differ")
	}
	if len(a)%4 != 0 {
		t.Errorf("archive of %d bytes: archives behind it would be misaligned", len(a))
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		want    string
		entries []Entry
	}{
		{"not a clean", []Entry{File("", 0, nil)}},
		{"not a clean", []Entry{File("/init", 0, nil)}},
		{"not a clean", []Entry{File("..", 0, nil)}},
		{"not a clean", []Entry{File("../x", 0, nil)}},
		{"not a clean", []Entry{File("a/", 0, nil)}},
		{"not a clean", []Entry{File("./a", 0, nil)}},
		{"not a clean", []Entry{File("a\x00b", 0, nil)}},
		{"not a clean", []Entry{File("TRAILER!!!", 0, nil)}},
		{"too long", []Entry{File(strings.Repeat("n", maxName), 0, nil)}},
		{"twice", []Entry{File("a", 0, nil), File("a", 0, nil)}},
		{"directory is missing", []Entry{File("a/b", 0, nil)}},
		{"directory is missing", []Entry{File("a", 0, nil), File("a/b", 0, nil)}},
		{"directory is missing", []Entry{File("a/b", 0, nil), Dir("a", 0)}},
		{"unknown file type", []Entry{{Name: "a", Mode: 0o644}}},
		{"unknown mode bits", []Entry{File("a", 1<<20, nil)}},
		{"without contents", []Entry{{Name: "a", Mode: Directory, Data: []byte("x")}}},
		{"symlink target", []Entry{{Name: "a", Mode: Symlink}}},
	} {
		err := Write(new(bytes.Buffer), tt.entries)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: %v, want an error with %q", fmt.Sprint(tt.entries), err, tt.want)
		}
	}
}

// parse reads an archive as the kernel does (init/initramfs.c), and is strict
// where the kernel is lax. It is the oracle of the fuzz target.
func parse(b []byte) ([]Entry, error) {
	var entries []Entry
	for {
		if len(b) < headerSize || string(b[:6]) != "070701" {
			return nil, fmt.Errorf("no header at %.10q", b)
		}
		var f [13]uint32
		for i := range f {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				return nil, err
			}
			f[i] = uint32(n)
		}
		mode, size, nameSize := f[1], int(f[6]), int(f[11])
		dataAt := (headerSize + nameSize + 3) &^ 3
		if len(b) < dataAt+(size+3)&^3 {
			return nil, fmt.Errorf("truncated")
		}
		name := string(b[headerSize : headerSize+nameSize-1])
		if b[headerSize+nameSize-1] != 0 {
			return nil, fmt.Errorf("name is not terminated")
		}
		if name == "TRAILER!!!" {
			if rest := b[dataAt:]; len(rest) != 0 {
				return nil, fmt.Errorf("%d bytes behind the end", len(rest))
			}
			return entries, nil
		}
		e := Entry{Name: name, Mode: mode, UID: f[2], GID: f[3], Major: f[9], Minor: f[10]}
		if size > 0 {
			e.Data = bytes.Clone(b[dataAt : dataAt+size])
		}
		entries = append(entries, e)
		b = b[dataAt+(size+3)&^3:]
	}
}

// FuzzWrite: whatever Write accepts reads back as the same entries.
func FuzzWrite(f *testing.F) {
	f.Add("init", uint32(0o755), uint32(Regular), uint32(0), []byte("program"))
	f.Add("a/b", uint32(0o600), uint32(CharDev), uint32(5), []byte(nil))
	f.Add("link", uint32(0o777), uint32(Symlink), uint32(0), []byte("../target"))
	f.Fuzz(func(t *testing.T, name string, perm, typ, number uint32, data []byte) {
		if len(data) == 0 {
			data = nil
		}
		entries := []Entry{Dir("a", 0o755), {Name: name, Mode: typ | perm, UID: number, GID: perm, Major: number, Minor: typ, Data: data}}
		var b bytes.Buffer
		if Write(&b, entries) != nil {
			return
		}
		got, err := parse(b.Bytes())
		if err != nil {
			t.Fatalf("%+v: %v", entries, err)
		}
		if d := cmp.Diff(entries, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}
