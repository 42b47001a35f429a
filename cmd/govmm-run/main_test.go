package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/container"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/testhost/need"
)

// TestMain makes the test binary govmm-run itself when it is called so.
func TestMain(m *testing.M) {
	if os.Args[0] == "govmm-run" {
		main()
	}
	os.Exit(m.Run())
}

// cli is a state root and the program.
type cli struct {
	t    *testing.T
	root string
}

type result struct {
	out, err string
	status   int
}

func (c cli) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"govmm-run", "--root", c.root}, args...)
	return cmd
}

func (c cli) run(args ...string) result {
	c.t.Helper()
	cmd := c.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	_ = cmd.Wait()
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

func newCLI(t *testing.T) cli { return cli{t, filepath.Join(t.TempDir(), "state")} }

// record writes the state of a container that was created on 23 November 2026; its monitor is a process that does nothing.
func (c cli) record(id string, edit func(*container.State)) int {
	c.t.Helper()
	monitor := exec.Command("sleep", "1000")
	if err := monitor.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = monitor.Process.Kill()
		_ = monitor.Wait()
	})
	store, err := container.NewStore(c.root)
	if err != nil {
		c.t.Fatal(err)
	}
	con, err := store.Create(id)
	if err != nil {
		c.t.Fatal(err)
	}
	defer con.Unlock()
	s := &con.State
	s.OCIVersion, s.Bundle, s.Rootfs, s.Owner = "1.3.0", "/srv/b1", "/srv/b1/rootfs", "root"
	s.Created = time.Date(2026, 11, 23, 18, 9, 55, 567158039, time.UTC)
	s.PID = monitor.Process.Pid
	if s.StartTime, err = container.StartTime(s.PID); err != nil {
		c.t.Fatal(err)
	}
	edit(s)
	if err := con.Save(); err != nil {
		c.t.Fatal(err)
	}
	return monitor.Process.Pid
}

// message takes the text out of a line of the log, and insists that it is one line in runc's form.
func message(t *testing.T, line string) string {
	t.Helper()
	m := regexp.MustCompile(`^time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=error msg="(.*)"\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Errorf("standard error is %q", line)
		return ""
	}
	return strings.ReplaceAll(m[1], `\"`, `"`)
}

// TestStateAndList prints what runc prints of a container in the same state, byte for byte.
func TestStateAndList(t *testing.T) {
	c := newCLI(t)
	pid := c.record("t1", func(s *container.State) { s.Started = true })
	state := fmt.Sprintf(`{
  "ociVersion": "1.3.0",
  "id": "t1",
  "pid": %d,
  "status": "running",
  "bundle": "/srv/b1",
  "rootfs": "/srv/b1/rootfs",
  "created": "2026-11-23T18:09:55.567158039Z",
  "owner": ""
}`, pid)
	list := fmt.Sprintf(`[{"ociVersion":"1.3.0","id":"t1","pid":%d,"status":"running","bundle":"/srv/b1","rootfs":"/srv/b1/rootfs",`+
		`"created":"2026-11-23T18:09:55.567158039Z","owner":"root"}]`+"\n", pid)
	table := fmt.Sprintf("%-12s%-12s%-12s%-12s%-33s%s\n%-12s%-12d%-12s%-12s%-33s%s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER",
		"t1", pid, "running", "/srv/b1", "2026-11-23T18:09:55.567158039Z", "root")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"state", "t1"}, state},
		{[]string{"list", "--format", "json"}, list},
		{[]string{"list", "--format=json"}, list},
		{[]string{"list", "-f", "json"}, list},
		{[]string{"list"}, table},
		{[]string{"list", "-q"}, "t1\n"},
		{[]string{"list", "--quiet"}, "t1\n"},
	} {
		if res := c.run(tt.args...); res.out != tt.want || res.err != "" || res.status != 0 {
			t.Errorf("%v: status %d, stderr %q, stdout\n%s\nwant\n%s", tt.args, res.status, res.err, res.out, tt.want)
		}
	}
}

func TestStateOfOthers(t *testing.T) {
	c := newCLI(t)
	stopped := c.record("stopped", func(s *container.State) { s.Started = true; s.StartTime-- })
	c.record("paused", func(s *container.State) { s.Started, s.Paused = true, true })
	c.record("created", func(s *container.State) { s.Annotations = map[string]string{"k": "v"} })
	for id, want := range map[string]string{
		"stopped": "\"pid\": 0,\n  \"status\": \"stopped\"",
		"paused":  `"status": "paused"`,
		"created": "\"annotations\": {\n    \"k\": \"v\"\n  },\n  \"owner\": \"\"",
	} {
		if res := c.run("state", id); res.status != 0 || !strings.Contains(res.out, want) {
			t.Errorf("%s: status %d, %s", id, res.status, res.out)
		}
	}
	if res := c.run("list"); strings.Contains(res.out, fmt.Sprint(stopped)) {
		t.Errorf("list shows the pid of a stopped container: %s", res.out)
	}
	if res := c.run("list", "--format", "json"); strings.Count(res.out, `"id"`) != 3 {
		t.Errorf("list: %s", res.out)
	}
	if res := newCLI(t).run("list", "--format", "json"); res.out != "null\n" {
		t.Errorf("list of nothing: %q", res.out)
	}
}

// TestMessages has what fails without a VM, with its message and status.
func TestMessages(t *testing.T) {
	c := newCLI(t)
	c.record("running", func(s *container.State) { s.Started = true })
	c.record("paused", func(s *container.State) { s.Started, s.Paused = true, true })
	c.record("stopped", func(s *container.State) { s.StartTime-- })
	dir := t.TempDir()
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"state", "none"}, 1, "container does not exist"},
		{[]string{"start", "none"}, 1, "container does not exist"},
		{[]string{"kill", "none", "9"}, 1, "container does not exist"},
		{[]string{"kill", "none", "FOO"}, 1, "container does not exist"},
		{[]string{"delete", "none"}, 1, "container does not exist"},
		{[]string{"pause", "none"}, 1, "container does not exist"},
		{[]string{"ps", "none"}, 1, "container does not exist"},
		{[]string{"exec", "none"}, 255, "exec failed: container does not exist"},
		{[]string{"exec", "none", "true"}, 255, "exec failed: container does not exist"},
		{[]string{"state", "a/b"}, 1, `invalid container ID format: "a/b": use letters, digits, '_', '+', '-' and '.'`},
		{[]string{"start", "running"}, 1, "cannot start an already running container"},
		{[]string{"delete", "running"}, 1, "cannot delete container running that is not stopped: running"},
		{[]string{"kill", "running", "FOO"}, 1, `unknown signal "FOO"`},
		{[]string{"kill", "running", "65"}, 1, `unknown signal "65"`},
		{[]string{"resume", "running"}, 1, "container not paused"},
		{[]string{"ps", "running", "aux"}, 1, `ps options ["aux"] are not supported: the guest's kernel is asked, not its ps; use "govmm-run exec running ps ..."`},
		{[]string{"ps", "--format", "xml", "running"}, 1, `invalid format option "xml": use table or json`},
		{[]string{"exec", "paused", "true"}, 255, "exec failed: cannot exec in a paused container (use --ignore-paused to override)"},
		{[]string{"pause", "paused"}, 1, "container not running"},
		{[]string{"start", "stopped"}, 1, "cannot start a container that has stopped"},
		{[]string{"kill", "stopped", "TERM"}, 1, "container not running"},
		{[]string{"kill", "stopped"}, 1, "container not running"},
		{[]string{"pause", "stopped"}, 1, "container not running"},
		{[]string{"list", "--format", "xml"}, 1, `invalid format option "xml": use table or json`},
		{[]string{"create", "--bundle", "/nope", "x"}, 1, "govmm-run create failed: bundle /nope: no such file or directory"},
		{[]string{"create", "-b", dir, "x"}, 1, "govmm-run create failed: JSON specification file config.json not found"},
		{[]string{"run", "--bundle=" + dir, "x"}, 1, "govmm-run run failed: JSON specification file config.json not found"},
		{[]string{"run", "--preserve-fds", "1", "x"}, 1, "--preserve-fds 1: descriptors cannot be passed into a VM"},
		{[]string{"spec", "--bundle", "/nope"}, 1, "open /nope/config.json: no such file or directory"},
		{[]string{"--log-format", "xml", "list"}, 1, `unknown log-format "xml": use text or json`},
		{[]string{"--cgroup-manager", "x", "list"}, 1, `unknown --cgroup-manager "x": use cgroupfs, systemd or disabled`},
		{[]string{"--rootless", "x", "list"}, 1, `invalid --rootless "x": use true, false or auto`},
		{[]string{"update", "none", "--memory", "1M"}, 1, "container does not exist"},
		{[]string{"update", "--memory", "1M", "stopped"}, 1, "container not running"},
		{[]string{"update", "-r", "/nope", "running"}, 1, "open /nope: no such file or directory"},
		{[]string{"update", "--resources=-", "running"}, 1, "resources: EOF"},
		{[]string{"update", "--cpu-quota", "-2", "running"}, 1, "linux.resources.cpu.quota: -2 is not a number of microseconds; -1 is no limit"},
		{[]string{"update", "--cpu-rt-runtime", "5", "running"}, 1, "config field linux.resources.cpu.realtimeRuntime is not supported yet"},
		{[]string{"update", "--memory", "2M", "--memory-swap", "1M", "running"}, 1, "linux.resources.memory.swap: memory+swap limit 1048576 should be >= memory limit 2097152"},
		{[]string{"events", "none"}, 1, "container does not exist"},
		{[]string{"events", "--stats", "stopped"}, 1, "container with id stopped is not running"},
		{[]string{"events", "--interval", "0s", "running"}, 1, "duration interval must be greater than 0"},
		{[]string{"--kernel", "/nope", "list"}, 1, "--kernel: stat /nope: no such file or directory"},
	} {
		res := c.run(tt.args...)
		if got := message(t, res.err); res.status != tt.status || got != tt.want || res.out != "" {
			t.Errorf("%v: status %d, %q, stdout %q; want %d, %q", tt.args, res.status, got, res.out, tt.status, tt.want)
		}
	}
	for _, id := range []string{"none", "stopped"} {
		if res := c.run("delete", "--force", id); res != (result{}) {
			t.Errorf("delete --force %s: %+v", id, res)
		}
	}
}

// TestUsage shows how a command is used when it is used wrongly, as runc does.
func TestUsage(t *testing.T) {
	c := newCLI(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"create"}, "create: requires exactly one argument, the container's id"},
		{[]string{"state", "a", "b"}, "state: requires exactly one argument, the container's id"},
		{[]string{"exec"}, "exec: requires the container's id"},
		{[]string{"ps"}, "ps: requires the container's id"},
		{[]string{"delete", "--bogus", "x"}, "unknown flag: --bogus"},
		{[]string{"create", "--pid-file"}, "flag needs an argument: --pid-file"},
		{[]string{"--bogus", "list"}, "unknown flag: --bogus"},
		{[]string{"update", "--cpu-period", "-1", "x"}, `invalid argument "-1" for "--cpu-period" flag: "-1" is not a number that fits`},
		{[]string{"update", "--blkio-weight", "65536", "x"}, `invalid argument "65536" for "--blkio-weight" flag: "65536" is not a number that fits`},
		{[]string{"update", "--memory", "much", "x"}, `invalid argument "much" for "--memory" flag: "much" is not a size: write a number and K, M or G`},
	} {
		res := c.run(tt.args...)
		usage, log, ok := strings.Cut(res.err, "time=")
		if !ok || res.status != 1 || message(t, "time="+log) != tt.want || !strings.HasPrefix(usage, "Usage:\n  govmm-run ") || res.out != "" {
			t.Errorf("%v: %+v", tt.args, res)
		}
	}
	// podman takes success for support.
	if res := c.run("checkpoint", "--help"); res.status != 1 || !strings.Contains(res.err, `unknown command \"checkpoint\"`) {
		t.Errorf("checkpoint: %+v", res)
	}
	if res := c.run("bogus"); res.status != 1 || !strings.Contains(res.err, `unknown command \"bogus\" for \"govmm-run\"`) {
		t.Errorf("unknown command: %+v", res)
	}
}

// TestGlobals takes the flags with which engines call runc and crun.
func TestGlobals(t *testing.T) {
	for _, args := range [][]string{
		{"--systemd-cgroup"}, {"--systemd-cgroup=true"}, {"--cgroup-manager", "disabled"}, {"--cgroup-manager=systemd"}, {"--rootless=true"},
		{"--rootless", "auto"}, {"--criu", "/usr/sbin/criu"}, {"--debug"}, {"--log-format=json"},
	} {
		if res := newCLI(t).run(append(args, "list", "-q")...); res.status != 0 || res.out != "" || res.err != "" && args[0] != "--debug" {
			t.Errorf("%v: %+v", args, res)
		}
	}
}

// TestCompletion has the shells' scripts.
func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete -o default -F __start_govmm-run govmm-run", "zsh": "#compdef govmm-run", "fish": "complete -c govmm-run"} {
		if res := newCLI(t).run("completion", shell); res.status != 0 || !strings.Contains(res.out, want) || res.err != "" {
			t.Errorf("%s: status %d, %q, %d bytes", shell, res.status, res.err, len(res.out))
		}
	}
	c := newCLI(t)
	for _, id := range []string{"web", "db"} {
		c.record(id, func(*container.State) {})
	}
	for args, want := range map[string]string{"kill": "db\nweb\n:4\n", "exec": "db\nweb\n:4\n", "kill web": ":4\n", "create": ":4\n", "list": ":4\n"} {
		res := c.run(append([]string{"__complete"}, append(strings.Fields(args), "")...)...)
		if out := res.out; out != want {
			t.Errorf("%s completes to %q, want %q", args, out, want)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"-v"}, {"version"}} {
		if res := newCLI(t).run(args...); res.status != 0 || !regexp.MustCompile(`^govmm-run version \S+\nspec: 1\.\d+\.\d+\n$`).MatchString(res.out) {
			t.Errorf("%v: %+v", args, res)
		}
	}
}

func TestFeatures(t *testing.T) {
	res := newCLI(t).run("features")
	var f struct{ OCIVersionMin, OCIVersionMax string }
	if err := json.Unmarshal([]byte(res.out), &f); err != nil || f.OCIVersionMin != "1.0.0" || f.OCIVersionMax != specs.Version {
		t.Errorf("%v, %+v", err, res)
	}
}

// TestSpec writes a config once.
func TestSpec(t *testing.T) {
	c, dir := newCLI(t), t.TempDir()
	if res := c.run("spec", "-b", dir); res != (result{}) {
		t.Errorf("%+v", res)
	}
	first, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(first, &spec); err != nil || spec.Process.Args[0] != "sh" {
		t.Errorf("%v, %s", err, first)
	}
	res := c.run("spec", "--bundle="+dir)
	if res.status != 1 || message(t, res.err) != "File config.json exists. Remove it first" {
		t.Errorf("%+v", res)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "config.json")); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the config has changed: %v", err)
	}
}

// TestSpecFullDisk leaves no half of a config.
func TestSpecFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		need.Lacking(t, need.RootUser, "the right to mount: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	res := newCLI(t).run("spec", "-b", dir)
	if res.status != 1 || !strings.Contains(res.err, "no space left on device") {
		t.Errorf("%+v", res)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); !os.IsNotExist(err) {
		t.Errorf("config.json: %v", err)
	}
}

// TestLog pins what containerd and podman read, and what stays on standard error.
func TestLog(t *testing.T) {
	c := newCLI(t)
	path := filepath.Join(t.TempDir(), "log")
	res := c.run("--log", path, "--log-format=json", "state", "none")
	if res.status != 1 || res.err != "container does not exist\n" {
		t.Errorf("%+v", res)
	}
	b, err := os.ReadFile(path)
	if err != nil || !regexp.MustCompile(`^\{"level":"error","msg":"container does not exist","time":"[^"]+Z"\}\n$`).Match(b) {
		t.Errorf("log %q, %v", b, err)
	}
	res = c.run("--log=/nope/log", "state", "none")
	if res.status != 1 || res.err != "--log: open /nope/log: no such file or directory\n" {
		t.Errorf("%+v", res)
	}
	if res := c.run("--log", path, "list"); res.status != 0 {
		t.Errorf("%+v", res)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(b, after) {
		t.Errorf("a call without an error changed the log: %q, %v", after, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if res := c.run("--log", empty, "list"); res.status != 0 {
		t.Errorf("%+v", res)
	}
	if b, err := os.ReadFile(empty); err != nil || len(b) != 0 {
		t.Errorf("the log of a call without an error: %q, %v", b, err)
	}
}

// TestDebug has what --debug says on standard error, or else in the log, in its form.
func TestDebug(t *testing.T) {
	c := newCLI(t)
	if res := c.run("--debug", "list", "-q"); res.status != 0 || res.out != "" || !strings.Contains(res.err, " level=debug msg=\"govmm-run list\" ") {
		t.Errorf("%+v", res)
	}
	for format, want := range map[string]string{
		"text": `^time=\S+ level=debug msg="govmm-run state" .*\ntime=\S+ level=error msg="container does not exist"\n$`,
		"json": `^\{"time":"[^"]+","level":"debug","msg":"govmm-run state",.*\}\n\{"level":"error",.*\}\n$`,
	} {
		path := filepath.Join(t.TempDir(), "log")
		if res := c.run("--debug", "--log", path, "--log-format", format, "state", "none"); res.status != 1 || res.err != "container does not exist\n" {
			t.Errorf("%s: %+v", format, res)
		}
		if b, err := os.ReadFile(path); err != nil || !regexp.MustCompile(want).Match(b) {
			t.Errorf("%s: log %q, %v", format, b, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]int{
		"9": 9, "KILL": 9, "SIGKILL": 9, "kill": 9, "sigterm": 15, "0": 0, "64": 64, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "RTMAX": 64,
	} {
		if got, err := parseSignal(text); err != nil || int(got) != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "65", "SIG", "RTMIN+31", "RTMAX-31", "RTMIN+-1", "1x", "SIGSIGKILL"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// TestPSTable pins runc's columns, and keeps a guest's escape sequences from the terminal.
func TestPSTable(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 10, 0, 0, time.Local)
	var out bytes.Buffer
	err := psTable(&out, []control.Process{
		{PID: 1, Started: now.Unix() - 50, CPU: 25, Command: "sh -c x"},
		{PID: 7, PPID: 1, UID: 1000, TTY: "pts/0", Started: now.Unix(), CPU: 3723, Command: "evil \x1b[2J\n"},
	}, now)
	want := `UID  PID PPID C  STIME TTY   TIME     CMD
root 1   0    50 18:09 ?     00:00:25 sh -c x
1000 7   1    99 18:10 pts/0 01:02:03 evil \x1b[2J\n
`
	if err != nil || out.String() != want {
		t.Errorf("%v, got\n%swant\n%s", err, out.String(), want)
	}
}

// TestCheck tells, for this machine as it is and for devices that are no KVM.
func TestCheck(t *testing.T) {
	for device, want := range map[string]string{
		"/nope":     "/nope       NO  open /nope: no such file or directory",
		"/dev/null": "/dev/null   NO  /dev/null: KVM_GET_API_VERSION: inappropriate ioctl for device",
	} {
		var out bytes.Buffer
		if err := check(&out, device); err == nil || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "What to do: ") {
			t.Errorf("%s: %v, %s", device, err, out.String())
		}
	}
	res := newCLI(t).run("check")
	switch {
	case res.status == 0 && strings.HasSuffix(res.out, "This host can run micro-VMs.\n"):
	case res.status == 1 && strings.Contains(res.out, "What to do: ") && message(t, res.err) == "this host cannot run micro-VMs":
	default:
		t.Errorf("%+v", res)
	}
}
