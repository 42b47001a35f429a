package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// live does a few things to a container that lives.
func (c *soaked) live() {
	c.t.Helper()
	for n := c.rng.IntN(5); n > 0; n-- {
		if status := c.status(); status != "running" && status != "created" {
			return
		}
		switch p := c.rng.IntN(100); {
		case p < 45:
			c.write()
		case p < 60:
			c.killed(upTo(c.rng, time.Second), "exec", c.id, "/bin/sh", "-c", "seq 7 40000 >/v/e; /bin/busybox mv /v/e /v/m7; sleep 4711")
		case p < 75:
			c.killProxy()
		case p < 85:
			if out := c.run("list", "-q").out; !slices.Contains(strings.Fields(out), c.id) {
				c.t.Errorf("list does not have %s:\n%s", c.id, out)
			}
		default:
			c.killed(upTo(c.rng, 200*time.Millisecond), "pause", c.id)
			c.run("state", c.id).want(c.t, 0, "", "")
			if c.status() == "paused" {
				c.tell("resume")
				c.run("resume", c.id).want(c.t, 0, "", "")
			}
		}
	}
	if c.chance(10) && c.status() == "running" {
		c.tell("pause")
		c.run("pause", c.id).want(c.t, 0, "", "")
	}
}

// write has an exec write a file, and notes it when the exec says that it is closed.
func (c *soaked) write() {
	c.t.Helper()
	name, first := fmt.Sprintf("f%d", len(c.written)), 1+c.rng.IntN(50000)
	sync := ""
	if c.chance(50) {
		sync = " conv=fsync"
	}
	c.tell("write %s%s", name, sync)
	c.run("exec", c.id, "/bin/sh", "-c", fmt.Sprintf("seq %d %d | dd of=/v/%s bs=3000%s 2>/dev/null", first, first+fileLength, name, sync)).want(c.t, 0, "", "")
	c.written[name] = first
}

// fileLength is how many further numbers such a file has.
const fileLength = 30000

// killProxy kills the host's process of an exec.
func (c *soaked) killProxy() {
	c.t.Helper()
	file := filepath.Join(c.bundle, "exec")
	c.run("exec", "--detach", "--pid-file", file, c.id, "/bin/sleep", "4711").want(c.t, 0, "", "")
	after := upTo(c.rng, 300*time.Millisecond)
	time.Sleep(after)
	c.tell("proxy killed after %v", after)
	if err := syscall.Kill(readPID(c.t, file), syscall.SIGKILL); err != nil {
		c.t.Errorf("kill the proxy: %v", err)
	}
}

// end ends the container in one of many ways. It reports whether a dead container is left for list to show.
func (c *soaked) end() (left bool) {
	c.t.Helper()
	switch status := c.settled(); {
	case status == "":
		return false
	case status == "stopped":
	case c.chance(40):
		c.remove()
		return false
	default:
		c.stop(status)
		c.waitStatus(c.id, "stopped")
		if c.chance(20) {
			c.tell("left")
			return true
		}
	}
	c.run("delete", c.id).want(c.t, 0, "", "")
	c.gone()
	return false
}

// stop has the container stop.
func (c *soaked) stop(status string) {
	c.t.Helper()
	switch p := c.rng.IntN(100); {
	case p < 40:
		c.killMonitor()
	case p < 60:
		var both sync.WaitGroup
		both.Go(func() {
			// It may have been quicker, or slower.
			c.run("exec", c.id, "/bin/sh", "-c", "seq 9 40000 >/v/e2; /bin/busybox mv /v/e2 /v/m9")
		})
		time.Sleep(upTo(c.rng, time.Second))
		c.killMonitor()
		both.Wait()
	case p < 80 && status == "running":
		c.tell("kill TERM")
		// A PID 1 that has set no handler yet takes no notice.
		c.run("exec", c.id, "/bin/sh", "-c", "until [ -e /v/n1 ]; do sleep 0.1; done").want(c.t, 0, "", "")
		c.run("kill", c.id, "TERM").want(c.t, 0, "", "")
	default:
		c.tell("kill")
		c.run("kill", c.id, "KILL").want(c.t, 0, "", "")
	}
}

// remove deletes the container while it lives.
func (c *soaked) remove() {
	c.t.Helper()
	switch c.rng.IntN(4) {
	case 0:
		c.killed(upTo(c.rng, 300*time.Millisecond), "kill", c.id, "KILL")
	case 1:
		c.killed(upTo(c.rng, 300*time.Millisecond), "delete", "--force", c.id)
	case 2:
		c.tell("delete twice")
		var other sync.WaitGroup
		other.Go(c.forceDelete)
		defer other.Wait()
	}
	c.forceDelete()
}

func (c *soaked) forceDelete() {
	c.t.Helper()
	c.run("delete", "--force", c.id).want(c.t, 0, "", "")
	c.gone()
}

func (c *soaked) gone() {
	c.t.Helper()
	if status := c.status(); status != "" {
		c.t.Errorf("deleted, it is %q", status)
	}
}

func (c *soaked) killMonitor() {
	c.t.Helper()
	pid := monitorOf(c.id)
	c.tell("monitor %d killed", pid)
	if pid == 0 {
		c.t.Error("it has no monitor")
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// checkFiles reads what the container has written: every file that was closed under its name is whole.
func (c *soaked) checkFiles() {
	c.t.Helper()
	for name, first := range c.written {
		c.whole(name, first, first+fileLength)
	}
	for i := range 16 {
		if name := fmt.Sprintf("n%d", i); exists(filepath.Join(c.volume, name)) {
			first := c.whole(name, 0, 0)
			if first%16 != i {
				c.t.Errorf("%s begins with %d", name, first)
			}
		}
	}
	for _, first := range []int{7, 9} {
		if name := fmt.Sprintf("m%d", first); exists(filepath.Join(c.volume, name)) {
			c.whole(name, first, 40000)
		}
	}
}

// whole checks that a file has the numbers from first to last, a line each, and returns the first. When both are 0 the file's
// own first number decides, with 2000 more.
func (c *soaked) whole(name string, first, last int) int {
	c.t.Helper()
	f, err := os.Open(filepath.Join(c.volume, name))
	if err != nil {
		c.t.Error(err)
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	next := first
	for ; lines.Scan(); next++ {
		if last == 0 {
			first, _ = strconv.Atoi(lines.Text())
			next, last = first, first+2000
		}
		if lines.Text() != strconv.Itoa(next) {
			c.t.Errorf("%s: %q, not %d", name, lines.Text(), next)
			return first
		}
	}
	if next != last+1 {
		c.t.Errorf("%s ends before %d, not after %d", name, next, last)
	}
	return first
}

// bystander is a container that lives as long as the soak and must not suffer from it.
type bystander struct {
	*rt
	id          string
	monitor     int
	descriptors []string
}

func newBystander(r *rt) *bystander {
	r.t.Helper()
	b := &bystander{rt: r, id: "bystander"}
	bundle := r.bundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "/govmm-soak/" + b.id }, "/bin/sleep", "100000")
	r.run("run", "--detach", "--bundle", bundle, b.id).want(r.t, 0, "", "")
	if b.monitor = monitorOf(b.id); b.monitor == 0 {
		r.t.Fatal("no process has the environment of the bystander's monitor")
	}
	r.run("exec", b.id, "/bin/true").want(r.t, 0, "", "")
	// Devices that are plugged in late bring descriptors of their queues along.
	for calm := 0; calm < 10; calm++ {
		time.Sleep(time.Second)
		if now := openFiles(r.t, b.monitor); len(now) != len(b.descriptors) {
			b.descriptors, calm = now, 0
		}
	}
	return b
}

// bother lets an exec end well or badly in it.
func (b *bystander) bother(t *testing.T, rng *rand.Rand) {
	t.Helper()
	c := soaked{rt: &rt{t: t, binary: b.binary, root: b.root, dir: b.dir}, rng: rng, id: b.id, bundle: t.TempDir()}
	switch rng.IntN(3) {
	case 0:
		c.run("exec", b.id, "/bin/sh", "-c", "echo out; exit 5").want(t, 5, "out\n", "")
	case 1:
		c.killed(upTo(rng, 500*time.Millisecond), "exec", b.id, "/bin/sleep", "4711")
	case 2:
		c.killProxy()
	}
}

// check looks whether it is as it was at the beginning.
func (b *bystander) check() {
	b.t.Helper()
	var ps string
	var open []string
	for range 50 {
		ps, open = b.run("ps", b.id).out, openFiles(b.t, b.monitor)
		if !strings.Contains(ps, "4711") && len(open) <= len(b.descriptors) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.t.Errorf("the bystander's processes:\n%s\nits monitor has open %v,\nand had %v", ps, open, b.descriptors)
}

// openFiles lists what a process has open.
func openFiles(t *testing.T, pid int) (names []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && name != dir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
