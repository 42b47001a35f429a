package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/govmm/govmm/testhost/need"
)

// step is one thing that users do with an engine: a shell script that is run with runc as the engine's runtime and then
// with govmm-run. Statuses and outputs must agree.
type step struct {
	name, script string
	// full keeps the step for GOVMM_FULL=1: each call of an engine takes seconds where everything is emulated.
	full bool
	// newer keeps it for where testhost/engines has built what it needs, a registry.
	newer bool
	// differs says why the outputs cannot agree; then that of govmm-run must match the regular expression want.
	differs, want string
}

// engine is a container engine, set up twice over: once for each runtime, with nothing in common.
type engine struct {
	runtime string // "runc" or "govmm-run"
	dir     string
	env     []string
	enter   []string // a command that runs others where the engine is, if that is not here
	prelude string   // shell functions for the scripts
}

// stepTime is how long a step may take where everything is emulated.
const stepTime = 3 * time.Minute

// helpers are for every script. A container's output and end are waited for, never slept for.
const helpers = `
wait_for() { i=0; until "$@" >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 300 ] || { echo "not in time: $*"; return 1; }; sleep 0.1; done; }
`

// needPrograms skips the test but where the engines are promised, in CI and by scripts/engines: a program that is missing fails it there.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	need.Promised(t, need.Engines, "`make engines` installs them")
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			need.Lacking(t, need.Engines, "%s: %v", name, err)
		}
	}
}

// localCopies puts programs next to each other in a new directory on the local disk, and returns it. The test host reads this machine's
// files through a FUSE mount, page by page: an engine of 50 MB starts five times as quickly from its own disk.
func localCopies(t *testing.T, dir string, programs ...string) string {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, filepath.Base(name)), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// run runs a step's script, with standard error going where standard output goes.
func (e *engine) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	argv := append(e.enter[:len(e.enter):len(e.enter)], "/bin/bash", "-c", helpers+e.prelude+"\n"+script)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = e.dir, append(os.Environ(), e.env...)
	// Containers outlive the script and hold its output: a pipe would not end.
	out, err := os.CreateTemp(e.dir, "output-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// An engine hands SIGTERM on to a container and waits: the whole group is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		witness := exec.Command("timeout", "-s", "KILL", "30", "sh", "-c", whatRuns)
		witness.Stdout, witness.Stderr = out, out
		_ = witness.Run()
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	err = cmd.Run()
	b, wrong := io.ReadAll(io.NewSectionReader(out, 0, 1<<20))
	if wrong != nil {
		return "", wrong
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return "", fmt.Errorf("%w (%v), after: %s", err, ctx.Err(), b)
	}
	return fmt.Sprintf("%sstatus %d\n", bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), cmd.ProcessState.ExitCode()), nil
}

// whatRuns shows, when a step has run out of time, every process, where the threads of those that engines start wait in the kernel, and who
// holds locks of files: it may be one of a step before.
const whatRuns = `echo "out of time; what runs:"; ps axfww -o pid,ppid,stat,wchan:24,etimes,args | grep -v '\]$'
for t in /proc/[0-9]*/task/*; do
	case $(tr '\0' ' ' <$t/cmdline) in *nerdctl*|*cni*|*netavark*|*iptables*|*govmm*|*runc*) echo "$t: $(cat $t/comm): $(grep -o '[a-z_0-9]*+' $t/stack | tr '\n' ' ')" ;; esac
done 2>/dev/null
cat /proc/locks`

// outcome is what a step did under one runtime.
type outcome struct {
	text  string
	err   error
	taken time.Duration
}

// full says whether everything is to be run, be it for an hour.
func full() bool { return os.Getenv("GOVMM_FULL") != "" }

// chosen leaves out what is not for every day, or what GOVMM_STEPS does not match.
func chosen(steps []step) []step {
	if !need.Required(need.Newer) {
		steps = slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.newer })
	}
	if wanted := os.Getenv("GOVMM_STEPS"); wanted != "" {
		re := regexp.MustCompile(wanted)
		return slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return !re.MatchString(s.name) })
	}
	if full() {
		return steps
	}
	return slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.full })
}

// runSteps runs the steps under one engine, in order.
func (e *engine) runSteps(t *testing.T, steps []step) []outcome {
	out := make([]outcome, len(steps))
	for i, s := range steps {
		begin := time.Now()
		out[i].text, out[i].err = e.run(s.script)
		out[i].taken = time.Since(begin)
		out[i].text = e.normalize(out[i].text)
		t.Logf("%s: %s: %.1fs", e.runtime, s.name, out[i].taken.Seconds())
		if out[i].err != nil {
			t.Logf("%s: %s: %v", e.runtime, s.name, out[i].err)
		}
	}
	return out
}

var (
	hexID = regexp.MustCompile(`\b([0-9a-f]{64}|[0-9a-f]{12})\b`)
	clock = regexp.MustCompile(`time="[^"]*"`)
	// stage is what runc has put before its words about a program since version 1.2.
	stage = regexp.MustCompile(`(unable to start container process: )error during container init: `)
	// race is what nerdctl says when a signal of its own, which it forwards, meets the container's end, and docker when it learns that a
	// container never ran before it has asked to wait for it.
	race = regexp.MustCompile(`time= level=error msg="(forward signal|error waiting for container: context canceled)[^\n]*\n`)
)

// normalize takes out what differs by chance: ids, times, directories, and the runtime's name.
func (e *engine) normalize(s string) string {
	s = strings.ReplaceAll(s, e.dir, "DIR")
	s = strings.ReplaceAll(s, "^@", "") // script's own end of input, which the terminal echoes until it is raw
	s = clock.ReplaceAllString(s, "time=")
	s = hexID.ReplaceAllString(s, "ID")
	s = race.ReplaceAllString(stage.ReplaceAllString(s, "$1"), "")
	return strings.ReplaceAll(s, e.runtime, "RUNTIME")
}

// compareSteps runs the steps under both engines at the same time and compares them, a subtest each.
func compareSteps(t *testing.T, reference, ours *engine, steps []step) {
	t.Helper()
	steps = chosen(steps)
	var want, got []outcome
	var both sync.WaitGroup
	both.Go(func() { want = reference.runSteps(t, steps) })
	both.Go(func() { got = ours.runSteps(t, steps) })
	both.Wait()
	compareOutcomes(t, steps, want, got)
}

// complaints are what programs print in place of an answer.
var complaints = regexp.MustCompile(`(?m)^(not in time|curl|docker|Error|Error response from daemon|nslookup|wget|ping): .*`)

// compareInTurn runs them under one engine after the other: what they use there is only one of, ports of the host and its packet filter.
// All of these steps succeed: one that fails under both has compared nothing.
func compareInTurn(t *testing.T, reference, ours *engine, steps []step) {
	t.Helper()
	steps = chosen(steps)
	want := reference.runSteps(t, steps)
	for i, s := range steps {
		if wrong := complaints.FindString(want[i].text); wrong != "" || want[i].err == nil && !strings.HasSuffix(want[i].text, "status 0\n") {
			t.Errorf("%s: failed under runc: %s\n%s", s.name, wrong, want[i].text)
		}
	}
	compareOutcomes(t, steps, want, ours.runSteps(t, steps))
}

func compareOutcomes(t *testing.T, steps []step, want, got []outcome) {
	t.Helper()
	for i, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			if got[i].err != nil {
				t.Fatalf("%s\n%v", s.script, got[i].err)
			}
			t.Logf("%s", got[i].text) // a step that fails under both would go unnoticed
			if s.differs != "" {
				if !regexp.MustCompile(s.want).MatchString(got[i].text) {
					t.Errorf("%s\n%swant a match of %q (under runc %s; %s)", s.script, got[i].text, s.want, s.differs, want[i].text)
				}
				return
			}
			if want[i].err != nil {
				t.Fatalf("%s\nunder runc: %v", s.script, want[i].err)
			}
			if got[i].text != want[i].text {
				t.Errorf("%s\n--- under runc:\n%s--- under govmm-run:\n%s", s.script, want[i].text, got[i].text)
			}
		})
	}
}
