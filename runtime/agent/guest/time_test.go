package guest_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// TestTimeOffsets shifts the clock since boot of a process, of its hook and of a further process by eleven days.
func TestTimeOffsets(t *testing.T) {
	f := start(t)
	const days = 11 * 86400
	now, err := os.ReadFile("/proc/uptime")
	must(t, err)
	base := uptime(t, string(now))
	m := f.spec("sh", "-c", "cat /proc/uptime /proc/self/timens_offsets; exec sleep 1000")
	m.Process.TimeOffsets = []agent.TimeOffset{{Clock: "monotonic", Seconds: 5, Nanoseconds: 7}, {Clock: "boottime", Seconds: days}}
	m.Hooks = []agent.Hook{hook("/bin/cat /proc/uptime >/tmp/hook")}
	if old := oldKernel(t); old != "" {
		_, err := f.create(m, stdio{})
		wantError(t, err, agent.Failed, "make a time namespace: execve enters one from Linux 6.3 on, the guest's kernel is "+old)
		return
	}
	r, w := io.Pipe()
	p, err := f.create(m, stdio{stdout: w})
	must(t, err)
	must(t, f.Start("c"))
	out := make([]byte, 4096)
	n, err := io.ReadAtLeast(r, out, 1)
	must(t, err)
	for strings.Count(string(out[:n]), "\n") < 3 {
		more, err := r.Read(out[n:])
		must(t, err)
		n += more
	}
	lines := strings.Split(string(out[:n]), "\n")
	if strings.Join(strings.Fields(lines[1]+" "+lines[2]), " ") != "monotonic 5 7 boottime 950400 0" {
		t.Errorf("offsets %q", lines[1:])
	}
	fromHook, err := os.ReadFile(filepath.Join(f.root, "tmp/hook"))
	must(t, err)
	var fromExec bytes.Buffer
	further := f.process("cat", "/proc/uptime")
	further.TimeOffsets = m.Process.TimeOffsets
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: further}, stdio{stdout: &fromExec})
	must(t, err)
	_, err = e.Wait(f.ctx)
	must(t, err)
	e.out.Wait()
	for what, text := range map[string]string{"process": lines[0], "hook": string(fromHook), "exec": fromExec.String()} {
		if up := uptime(t, text); up < base+days || up > base+days+60 {
			t.Errorf("%s: up for %v s, want some more than %v", what, up, base+days)
		}
	}
	must(t, p.signal(9))
	_, err = p.Wait(f.ctx)
	must(t, err)
	must(t, f.Delete("c"))
	m.Process.TimeOffsets = []agent.TimeOffset{{Clock: "boottime", Seconds: -1 << 40}}
	_, err = f.create(m, stdio{})
	if err == nil || !strings.Contains(err.Error(), "make a time namespace: write /proc/") || !strings.Contains(err.Error(), "numerical result out of range") {
		t.Errorf("a clock before its beginning: %v", err)
	}
}

// oldKernel is this kernel's release if it is older than 6.3, where execve does not enter a new time namespace.
func oldKernel(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major > 6 || major == 6 && minor >= 3 {
		return ""
	}
	return release
}

func uptime(t *testing.T, text string) float64 {
	t.Helper()
	first, _, _ := strings.Cut(text, " ")
	up, err := strconv.ParseFloat(first, 64)
	must(t, err)
	return up
}
