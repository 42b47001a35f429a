package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// soakWorkers work on containers of their own at the same time.
const soakWorkers = 3

// soakSize is how many containers a soak has: name's value in the environment, or few.
func soakSize(t *testing.T, name string, few int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of containers", name, text)
	}
	return n
}

// soakSeed returns GOVMM_SOAK_SEED, or a new one, and says which it is: it decides everything but what takes how long.
func soakSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("GOVMM_SOAK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("GOVMM_SOAK_SEED: %v", err)
		}
	}
	t.Logf("GOVMM_SOAK_SEED=%d", seed)
	return seed
}

// workers has three goroutines call one for each number below n, as a subtest each.
func workers(t *testing.T, n int, one func(t *testing.T, i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range soakWorkers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				t.Run(strconv.Itoa(i), func(t *testing.T) { one(t, i) })
			}
		})
	}
	all.Wait()
}

// TestSoak treats many containers as badly as it can: programs are killed wherever they happen to be. In the end nothing is left of any of
// them, list has told the truth all the time, and what they had written and closed is whole. GOVMM_SOAK says how many.
func TestSoak(t *testing.T) {
	r := newRuntime(t)
	r.binary = filepath.Join(localCopies(t, r.dir, r.binary), "govmm-run")
	n, seed := soakSize(t, "GOVMM_SOAK", 12), soakSeed(t)
	base := r.soakBase()
	check := r.leftovers(t)
	by := newBystander(r)
	var corpses sync.Map
	workers(t, n, func(t *testing.T, i int) {
		rt := *r
		rt.t = t
		c := newSoaked(&rt, base, i, rand.New(rand.NewPCG(seed, uint64(i))))
		by.bother(t, c.rng)
		c.begin()
		c.live()
		if c.end() {
			corpses.Store(c.id, true)
		}
		c.checkFiles()
	})
	by.check()
	corpses.Store(by.id, true)
	_ = syscall.Kill(by.monitor, syscall.SIGKILL)
	r.waitStatus(by.id, "stopped")
	r.bury(&corpses)
	r.run("list", "-q").want(t, 0, "", "")
	if out := r.run("list", "-q").out; out != "" {
		t.Errorf("list has in the end:\n%s", out)
	}
	check()
}

// bury holds list against the containers that were left dead, and deletes them.
func (r *rt) bury(corpses *sync.Map) {
	r.t.Helper()
	var want []string
	corpses.Range(func(id, _ any) bool { want = append(want, id.(string)); return true })
	var listed []struct{ ID, Status string }
	if err := json.Unmarshal([]byte(r.run("list", "--format", "json").out), &listed); err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, l := range listed {
		got = append(got, l.ID)
		if l.Status != "stopped" {
			r.t.Errorf("%s is %s in the end", l.ID, l.Status)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		r.t.Errorf("list has %v; %v were left", got, want)
	}
	slices.Reverse(got) // the bystander at the end: its cgroup's parent is everybody's
	for _, id := range got {
		r.run("delete", id).want(r.t, 0, "", "")
	}
}

// soakBase makes the bundle whose root file system and config all share.
func (r *rt) soakBase() specs.Spec {
	r.t.Helper()
	dir := r.bundle(func(s *specs.Spec) {
		// It writes files, each under its name only when it is closed, and half of them synced.
		s.Process.Args = []string{"/bin/sh", "-c", `trap 'exit 3' TERM; i=0
while :; do i=$((i+1)); seq $i $((i+2000)) >/v/t; [ $((i%2)) = 0 ] || /bin/busybox sync; /bin/busybox mv /v/t /v/n$((i%16)); sleep 0.2; done`}
	})
	var spec specs.Spec
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	spec.Root.Path, spec.Root.Readonly = filepath.Join(dir, "rootfs"), true
	if err := os.Mkdir(filepath.Join(spec.Root.Path, "v"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return spec
}

// soaked is one container of a soak.
type soaked struct {
	*rt
	rng     *rand.Rand
	id      string
	bundle  string
	volume  string
	pidFile string
	written map[string]int // files that an exec has closed, each with the first of its numbers
	story   []string       // what was done to it
}

func newSoaked(r *rt, spec specs.Spec, i int, rng *rand.Rand) *soaked {
	r.t.Helper()
	c := &soaked{rt: r, rng: rng, id: fmt.Sprintf("soak-%d", i), written: map[string]int{}}
	c.bundle = filepath.Join(r.dir, c.id)
	c.volume, c.pidFile = filepath.Join(c.bundle, "v"), filepath.Join(c.bundle, "pid")
	if err := os.MkdirAll(c.volume, 0o755); err != nil {
		r.t.Fatal(err)
	}
	spec.Mounts = append(slices.Clone(spec.Mounts), specs.Mount{Destination: "/v", Type: "bind", Source: c.volume, Options: []string{"bind", "rw"}})
	if c.chance(50) {
		// All have the bystander's parent, which goes with that.
		linux := *spec.Linux
		linux.CgroupsPath = "/govmm-soak/" + c.id
		spec.Linux = &linux
	}
	b, err := json.Marshal(&spec)
	if err != nil {
		r.t.Fatal(err)
	}
	writeFile(r.t, filepath.Join(c.bundle, "config.json"), string(b))
	r.t.Cleanup(func() { r.t.Logf("%s: %s", c.id, strings.Join(c.story, ", ")) })
	return c
}

func (c *soaked) tell(format string, args ...any) {
	c.story = append(c.story, fmt.Sprintf(format, args...))
}

// chance is true p times in a hundred.
func (c *soaked) chance(p int) bool { return c.rng.IntN(100) < p }

// upTo is a time before limit, short ones as likely as long ones.
func upTo(rng *rand.Rand, limit time.Duration) time.Duration {
	f := rng.Float64()
	return time.Duration(float64(limit) * f * f)
}

// killed starts a call and kills the program that was called after a time, if it is still there.
func (c *soaked) killed(after time.Duration, args ...string) {
	c.t.Helper()
	cmd := c.command(args...)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	c.tell("%s killed after %v: %v", args[0], after, cmd.ProcessState)
}

// status is what state says; "" if there is no container.
func (c *soaked) status() string {
	c.t.Helper()
	res := c.run("state", c.id)
	if res.status == 1 && strings.Contains(res.err, "container does not exist") {
		return ""
	}
	var state struct{ Status string }
	if err := json.Unmarshal([]byte(res.out), &state); err != nil || res.status != 0 {
		c.t.Fatalf("state: %+v", res)
	}
	return state.Status
}

// settled waits until nobody is at work on the container, and returns its status.
func (c *soaked) settled() string {
	c.t.Helper()
	for range 300 {
		if status := c.status(); status != "creating" {
			c.tell("is %q", status)
			return status
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatal("it stays creating")
	return ""
}

// begin makes the container in one of many ways, and more than once if somebody was killed too early.
func (c *soaked) begin() {
	c.t.Helper()
	create := []string{"create", "--bundle", c.bundle, "--pid-file", c.pidFile, c.id}
	switch p := c.rng.IntN(100); {
	case p < 15:
		c.killed(upTo(c.rng, 3*time.Second), create...)
	case p < 30:
		c.createWithoutMonitor(create)
	case p < 40:
		c.killed(upTo(c.rng, 6*time.Second), "run", "--bundle", c.bundle, "--pid-file", c.pidFile, c.id)
	case p < 60:
		c.tell("run")
		c.run("run", "--detach", "--bundle", c.bundle, "--pid-file", c.pidFile, c.id).want(c.t, 0, "", "")
		return
	}
	status := c.settled()
	if status == "stopped" && c.chance(50) {
		c.run("delete", c.id).want(c.t, 0, "", "")
		status = c.settled()
	}
	// An id whose create died before there was a monitor is free.
	if status == "" || status == "stopped" && !exists(filepath.Join(c.root, c.id, "state.json")) {
		c.tell("create")
		c.run(create...).want(c.t, 0, "", "")
		status = "created"
	}
	if status != "created" || c.chance(15) {
		return
	}
	if c.chance(20) {
		c.killed(upTo(c.rng, 300*time.Millisecond), "start", c.id)
		// However far it came: once more, and the process runs.
		again := c.run("start", c.id)
		c.tell("start: %d", again.status)
		if again.status != 0 && !strings.Contains(again.err, "cannot start an already running container") {
			c.t.Errorf("start: %+v", again)
		}
		c.run("exec", c.id, "/bin/sh", "-c", "until [ -e /v/n1 ]; do sleep 0.1; done").want(c.t, 0, "", "")
		return
	}
	c.tell("start")
	c.run("start", c.id).want(c.t, 0, "", "")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// createWithoutMonitor kills the monitor under its create.
func (c *soaked) createWithoutMonitor(create []string) {
	c.t.Helper()
	done := make(chan result, 1)
	go func() { done <- finish(c.t, c.command(create...), nil) }()
	pid := 0
	for range 500 {
		if pid = monitorOf(c.id); pid != 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	after := upTo(c.rng, 2*time.Second)
	time.Sleep(after)
	if pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	res := <-done
	c.tell("monitor %d killed %v after its start: %+v", pid, after, res)
	if status := c.settled(); (res.status == 0) != (status != "") {
		c.t.Errorf("create: %+v, but then it is %q", res, status)
	}
	if res.status != 0 && (!strings.Contains(res.err, "the monitor ended") || exists(c.pidFile)) {
		c.t.Errorf("create: %+v; pid file: %v", res, exists(c.pidFile))
	}
}

// monitorOf finds the monitor of a container by its environment.
func monitorOf(id string) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if env, err := os.ReadFile(dir + "/environ"); err == nil && strings.HasPrefix(string(env), "GOVMM_MONITOR="+id+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}
