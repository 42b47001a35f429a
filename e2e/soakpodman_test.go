package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSoakPodman treats podman's containers badly: conmons, monitors and podmans are killed. In the end podman has removed every
// container, and what was written and closed is whole. Nothing is left but what podman forgets: where a conmon or a podman was killed, it
// never calls the runtime's delete, under runc neither. Once that is called by hand, nothing is left at all. GOVMM_SOAK_PODMAN says how many;
// GOVMM_SOAK_RUNTIME=runc shows what podman makes of another runtime.
func TestSoakPodman(t *testing.T) {
	needVM(t)
	needPrograms(t, "podman", "conmon", "runc", "busybox")
	dir := scratch(t)
	n, seed := soakSize(t, "GOVMM_SOAK_PODMAN", 3), soakSeed(t)
	bin := localCopies(t, dir, "podman", "conmon", "runc", binary(t, "govmm-run"))
	runtime, root := "govmm-run", "/run/govmm"
	if os.Getenv("GOVMM_SOAK_RUNTIME") == "runc" {
		runtime, root = "runc", "/run/runc"
	}
	e := newPodman(t, dir, bin, runtime, busyboxImage(t, dir))
	r := &rt{t: t, binary: filepath.Join(bin, runtime), root: root, dir: e.dir}
	e.must(t, "podman run --rm bb true") // what podman makes once and keeps
	check := r.leftovers(t)
	var orderly sync.Map
	workers(t, n, func(t *testing.T, i int) {
		p := &podSoaked{engine: e, name: fmt.Sprintf("soak%d", i)}
		p.soaked = soaked{rt: &rt{t: t}, rng: rand.New(rand.NewPCG(seed, uint64(i))), id: p.name, volume: filepath.Join(e.dir, p.name), written: map[string]int{}}
		t.Cleanup(func() { t.Logf("%s: %s", p.name, strings.Join(p.story, ", ")) })
		p.begin()
		p.live()
		p.end()
		p.checkFiles()
		if !p.disturbed {
			orderly.Store(p.cid, p.name)
		}
	})
	if out := e.must(t, "podman ps -aq --external"); out != "status 0\n" {
		t.Errorf("podman has in the end:\n%s", out)
	}
	e.must(t, "wait_for sh -c '! pidof podman'") // some clean up in the background
	for _, id := range strings.Fields(r.run("list", "-q").out) {
		if name, ok := orderly.Load(id); ok {
			t.Errorf("list has %v in the end, whose podman and conmon lived", name)
		}
		r.run("delete", "--force", id).want(t, 0, "", "")
	}
	check()
}

// must runs a script that has to succeed.
func (e *engine) must(t *testing.T, script string) string {
	t.Helper()
	out, err := e.run(script)
	if err != nil || !strings.HasSuffix(out, "status 0\n") {
		t.Fatalf("%s\n%s%v", script, out, err)
	}
	return out
}

// podSoaked is a container of podman's.
type podSoaked struct {
	soaked
	engine    *engine
	name, cid string
	disturbed bool // its podman or its conmon was killed
}

// cut runs a script's program and kills it after a time: the script is one command.
func (p *podSoaked) cut(after time.Duration, command string) {
	p.t.Helper()
	after = max(after, time.Millisecond) // timeout takes 0 for no limit
	out, err := p.engine.run(fmt.Sprintf("timeout -s KILL %.3f %s >/dev/null 2>&1; true", after.Seconds(), command))
	if err != nil {
		p.t.Errorf("%s: %s%v", command, out, err)
	}
	p.tell("%.20s... killed after %v", command, after)
	p.disturbed = true
}

// status is podman's.
func (p *podSoaked) status() string {
	p.t.Helper()
	out, err := p.engine.run("podman inspect --format '{{.State.Status}} {{.Id}}' " + p.name + " 2>/dev/null | tr ' ' '\\n'")
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(out)
	if len(f) < 2 || f[0] == "status" || f[0] == "[]" {
		return ""
	}
	p.tell("is %s", f[0])
	p.cid = f[1]
	return f[0]
}

func (p *podSoaked) begin() {
	p.t.Helper()
	p.engine.must(p.t, "mkdir "+p.name)
	run := "podman run -d --name " + p.name + " -v $PWD/" + p.name + `:/v bb sh -c 'trap "exit 3" TERM; i=0
while :; do i=$((i+1)); seq $i $((i+2000)) >/v/t; [ $((i%2)) = 0 ] || sync; mv /v/t /v/n$((i%16)); sleep 0.3; done'`
	if p.chance(20) {
		p.cut(upTo(p.rng, 12*time.Second), run)
		return
	}
	p.tell("run %.12s", p.engine.must(p.t, run))
}

func (p *podSoaked) live() {
	p.t.Helper()
	for n := p.rng.IntN(3); n > 0 && p.status() == "running"; n-- {
		if p.chance(40) {
			p.cut(upTo(p.rng, 4*time.Second), "podman exec "+p.name+" sh -c 'seq 7 40000 >/v/e; mv /v/e /v/m7; sleep 4711'")
			continue
		}
		name, first := fmt.Sprintf("f%d", len(p.written)), 1+p.rng.IntN(50000)
		p.tell("write %s", name)
		p.engine.must(p.t, fmt.Sprintf("podman exec %s sh -c 'seq %d %d >/v/%s'", p.name, first, first+fileLength, name))
		p.written[name] = first
	}
}

func (p *podSoaked) end() {
	p.t.Helper()
	kill := func(what string) string {
		p.disturbed = p.disturbed || what == "ConmonPid"
		return ": kill " + what + "; pid=$(podman inspect --format '{{.State." + what + "}}' " + p.name + "); [ $pid = 0 ] || kill -9 $pid"
	}
	script := ""
	switch status := p.status(); {
	case status != "running":
	case p.chance(25):
		script = kill("ConmonPid")
	case p.chance(33):
		script = kill("Pid")
	case p.chance(25):
		script = kill("ConmonPid") + "; " + kill("Pid")
	case p.chance(33):
		script = "podman kill " + p.name
	case p.chance(50):
		script = "podman stop -t 2 " + p.name
	}
	if script != "" {
		what, _, _ := strings.Cut(script, ";")
		p.tell("%s: %q", what, p.engine.must(p.t, script))
	}
	if p.chance(20) {
		p.cut(upTo(p.rng, 4*time.Second), "podman rm -f -t 0 "+p.name)
	}
	// Podman does not always manage at once where it finds a conmon dead.
	p.tell("rm: %q", p.engine.must(p.t, "for i in 1 2 3; do podman rm -f -i -t 0 "+p.name+" && break; done"))
	if status := p.status(); status != "" {
		p.t.Errorf("removed, it is %q", status)
	}
}
