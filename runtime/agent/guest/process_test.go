package guest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

func TestHundredMegabytes(t *testing.T) {
	f := start(t)
	const size = 100 << 20
	var seed [32]byte
	want := sha256.New()
	source := io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), size), want)
	got := sha256.New()
	p, err := f.create(f.spec("cat"), stdio{stdin: source, stdout: got})
	must(t, err)
	must(t, f.Start("c"))
	e, err := p.Wait(f.ctx)
	must(t, err)
	p.out.Wait()
	if e.Status != 0 || e.StdoutBytes != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("status %d, %d bytes, sums %s and %s", e.Status, e.StdoutBytes, hex.EncodeToString(got.Sum(nil)), hex.EncodeToString(want.Sum(nil)))
	}
}

func TestSignals(t *testing.T) {
	f := start(t)
	for _, tt := range []struct {
		script string
		send   uint8
		status uint8
		signal uint8
	}{
		{"echo ready; exec sleep 1000", 9, 137, 9},
		{"trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done", 15, 5, 0},
		{"trap 'echo caught; exit 6' 37; echo ready; while :; do sleep 0.05; done", 37, 6, 0},
		{"sleep 1000 & echo ready; wait", 9, 137, 9},
	} {
		r, w := io.Pipe()
		p, err := f.create(f.spec("sh", "-c", tt.script), stdio{stdout: w})
		must(t, err)
		must(t, f.Start("c"))
		_, _ = io.ReadFull(r, make([]byte, len("ready\n")))
		go func() { _, _ = io.Copy(io.Discard, r) }()
		must(t, p.signal(tt.send))
		if e, err := p.Wait(f.ctx); err != nil || e.Status != tt.status || e.Signal != tt.signal {
			t.Errorf("%s: got %+v, %v, want status %d, signal %d", tt.script, e, err, tt.status, tt.signal)
		}
		wantError(t, p.signal(15), agent.NotRunning, "process already finished")
		must(t, f.Delete("c"))
	}
}

func TestSignalBeforeStart(t *testing.T) {
	f := start(t)
	p, err := f.create(f.spec("true"), stdio{})
	must(t, err)
	must(t, p.signal(17)) // SIGCHLD ends nothing
	must(t, p.signal(15))
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 143 || e.Signal != 15 {
		t.Errorf("got %+v, %v, want 143", e, err)
	}
	wantError(t, f.Start("c"), agent.NotRunning, "cannot start a container that has stopped")
}

func TestLifecycleErrors(t *testing.T) {
	f := start(t)
	wantError(t, f.Start("c"), agent.NotFound, "container does not exist")
	p, err := f.create(f.spec("cat"), stdio{stdin: neverEnds{}})
	must(t, err)
	_, err = f.create(f.spec("cat"), stdio{})
	wantError(t, err, agent.Exists, "container with given ID already exists")
	must(t, f.Start("c"))
	wantError(t, f.Start("c"), agent.NotRunning, "cannot start an already running container")
	wantError(t, f.Delete("c"), agent.Invalid, "container is running")
	must(t, p.signal(9))
	_, err = p.Wait(f.ctx)
	must(t, err)
	_, err = f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process("true")}, stdio{})
	wantError(t, err, agent.NotRunning, "cannot exec in a stopped container")
	must(t, f.Delete("c"))
	m := f.spec("true")
	m.ID = "../c"
	_, err = f.create(m, stdio{})
	wantError(t, err, agent.Invalid, "invalid container id")
}

// neverEnds is an input that does not come.
type neverEnds struct{}

func (neverEnds) Read([]byte) (int, error) { select {} }

func TestExec(t *testing.T) {
	f := start(t)
	init, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	for _, tt := range []struct {
		name   string
		change func(*agent.Process)
		script string
		status uint8
		stdout string
	}{
		{"status", nil, "exit 5", 5, ""},
		{"namespaces", nil, "hostname; readlink /proc/1/exe; [ $(readlink /proc/self/ns/ipc) = $(readlink /proc/1/ns/ipc) ] && echo same", 0, "box\n/bin/busybox\nsame\n"},
		{"user", func(p *agent.Process) { p.UID, p.GID, p.Groups = 1000, 1000, []uint32{7} }, "id -u; id -G; echo $HOME", 0, "1000\n1000 7\n/home/joe\n"},
		{"cwd and env", func(p *agent.Process) { p.Cwd = "/tmp"; p.Env = append(p.Env, "A=1", "A=2") }, "pwd; echo $A", 0, "/tmp\n2\n"},
		{"killed", nil, "kill -9 $$", 137, ""},
		{"stdin", nil, "cat", 0, "input"},
	} {
		p := f.process("sh", "-c", tt.script)
		if tt.change != nil {
			tt.change(&p)
		}
		var out bytes.Buffer
		e, err := f.exec(&agent.Exec{ID: "c", ExecID: tt.name, Process: p}, stdio{stdin: strings.NewReader("input"), stdout: &out, stderr: io.Discard})
		must(t, err)
		got, err := e.Wait(f.ctx)
		must(t, err)
		e.out.Wait()
		if got.Status != tt.status || out.String() != tt.stdout {
			t.Errorf("%s: status %d, output %q, want %d, %q", tt.name, got.Status, out.String(), tt.status, tt.stdout)
		}
	}
	for _, tt := range errText {
		_, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process(tt.args...)}, stdio{})
		wantError(t, err, tt.code, tt.text)
	}
	p := f.process("true")
	p.Cwd = "/nodir"
	_, err = f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: p}, stdio{})
	wantError(t, err, agent.Failed, `chdir to cwd ("/nodir") set in config.json failed: no such file or directory`)

	// An exec ends with its container.
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process("sleep", "1000")}, stdio{})
	must(t, err)
	must(t, init.signal(9))
	if got, err := e.Wait(f.ctx); err != nil || got.Status != 137 {
		t.Errorf("exec of a killed container: %+v, %v", got, err)
	}
	if got, err := init.Wait(f.ctx); err != nil || got.Status != 137 {
		t.Errorf("killed container: %+v, %v", got, err)
	}
}

// A child that holds the output open must not hold up the exec's end, and none of the exec's own output may be lost.
func TestExecLeavesChild(t *testing.T) {
	f := start(t)
	init, err := f.create(f.spec("sleep", "1000"), stdio{})
	must(t, err)
	must(t, f.Start("c"))
	r, w := io.Pipe()
	e, err := f.exec(&agent.Exec{ID: "c", ExecID: "e", Process: f.process("sh", "-c", "(sleep 1; echo late) & head -c 100000 /dev/zero; exit 4")}, stdio{stdout: w})
	must(t, err)
	all := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, r)
		all <- int(n)
	}()
	begin := time.Now()
	got, err := e.Wait(f.ctx)
	must(t, err)
	if got.Status != 4 || got.StdoutBytes != 100000 || time.Since(begin) > 900*time.Millisecond {
		t.Errorf("%+v after %v", got, time.Since(begin))
	}
	e.out.Wait()
	w.Close()
	if n := <-all; n != 100000+len("late\n") {
		t.Errorf("%d bytes in all", n)
	}
	must(t, init.signal(9))
}

func TestKilledWithFullPipe(t *testing.T) {
	f := start(t)
	r, w := io.Pipe() // nobody reads
	defer r.Close()
	p, err := f.create(f.spec("sh", "-c", "head -c 10000000 /dev/zero"), stdio{stdout: w})
	must(t, err)
	must(t, f.Start("c"))
	time.Sleep(200 * time.Millisecond)
	must(t, p.signal(9))
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 137 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestProcesses(t *testing.T) {
	f := start(t)
	p, err := f.create(f.spec("sh", "-c", "sleep 1000 & echo ready; wait"), stdio{stdout: io.Discard})
	must(t, err)
	must(t, f.Start("c"))
	var list []agent.ProcessInfo
	for range 100 {
		if list, err = f.Processes("c"); err != nil || len(list) == 2 && list[1].Command == "sleep 1000" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	must(t, err)
	if len(list) != 2 || list[0].NSPID != 1 || list[0].Command != "sh -c sleep 1000 & echo ready; wait" || list[1].PPID != list[0].PID || list[1].Command != "sleep 1000" {
		t.Fatalf("got %+v", list)
	}
	if now := time.Now().Unix(); list[0].BootTimeSeconds+int64(list[0].StartTime/100) < now-10 || list[0].BootTimeSeconds > now {
		t.Errorf("started at %d, now is %d", list[0].BootTimeSeconds+int64(list[0].StartTime/100), now)
	}
	must(t, f.Signal(&agent.Signal{ID: "c", Signal: 9, All: true}))
	_, err = p.Wait(f.ctx)
	must(t, err)
}

func TestCredentials(t *testing.T) {
	f := start(t)
	all := allCaps(t)
	caps := uint64(1<<0 | 1<<5 | 1<<10) // chown, kill, net_bind_service
	for _, tt := range []struct {
		name   string
		change func(*agent.Process)
		want   []string
	}{
		{"root with three", func(p *agent.Process) {
			p.Capabilities = agent.Capabilities{Bounding: caps, Effective: caps, Permitted: caps}
		}, []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000421", "CapEff:\t0000000000000421", "CapBnd:\t0000000000000421", "CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Uid:\t0\t0\t0\t0"}},
		{"user with none", func(p *agent.Process) {
			p.UID, p.GID, p.Groups, p.NoNewPrivileges = 1000, 1001, []uint32{1002, 1003}, true
			p.Capabilities = agent.Capabilities{Bounding: caps, Effective: caps, Permitted: caps}
		}, []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000421", "NoNewPrivs:\t1", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001", "Groups:\t1002 1003 "}},
		{"user with ambient", func(p *agent.Process) {
			p.UID = 1000
			p.Capabilities = agent.Capabilities{Bounding: all, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: 1 << 10}
		}, []string{"CapInh:\t0000000000000421", "CapPrm:\t0000000000000400", "CapEff:\t0000000000000400", "CapAmb:\t0000000000000400"}},
		{"signals as after boot", nil, []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "Groups:\t ", "Umask:\t0022"}},
		{"umask", func(p *agent.Process) { p.Umask = 0o77 }, []string{"Umask:\t0077"}},
	} {
		m := f.spec("cat", "/proc/self/status")
		if tt.change != nil {
			tt.change(&m.Process)
		}
		got := f.run(m, nil)
		for _, line := range tt.want {
			if !strings.Contains(got.stdout, line+"\n") {
				t.Errorf("%s: no line %q in %s%s", tt.name, line, got.stdout, got.stderr)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	f := start(t)
	m := f.spec("sh", "-c", "cat /proc/self/limits /proc/self/oom_score_adj; ls /proc/self/fd | wc -l")
	m.Process.Rlimits = []agent.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}}
	m.Process.SetOOMScoreAdj, m.Process.OOMScoreAdj = true, 500
	got := f.run(m, nil)
	fields := strings.Join(strings.Fields(got.stdout), " ")
	// ls has the directory itself open besides the three.
	if !strings.Contains(fields, "Max open files 100 200 files") || !strings.Contains(fields, "Max core file size 0 0 bytes") || !strings.HasSuffix(fields, " 500 4") {
		t.Errorf("got %s%s", got.stdout, got.stderr)
	}
}

// A process of the guest that finds the agent's port must reach neither side.
func TestStranger(t *testing.T) {
	f := start(t)
	p, err := f.create(f.spec("cat"), stdio{stdin: strings.NewReader("x"), stdout: io.Discard})
	must(t, err)
	for _, first := range []string{"", "gvmC", "gvmS", "gvmS" + strings.Repeat("\x00", agent.SecretSize+4), "GET / HTTP/1.0\r\n\r\n"} {
		c, err := net.Dial("unix", filepath.Join(f.dir, "sock"))
		must(t, err)
		_, _ = io.WriteString(c, first)
		if first == "" || first == "gvmS" {
			_ = c.(*net.UnixConn).CloseWrite()
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
			t.Errorf("%q: read %d, %v, want the end", first, n, err)
		}
		c.Close()
	}
	must(t, f.Start("c"))
	if e, err := p.Wait(f.ctx); err != nil || e.Status != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestSeccomp(t *testing.T) {
	f := start(t)
	filter := []agent.Instruction{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, JF: 1, K: unix.SYS_MKDIR},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EXDEV)},
		// A profile from before Linux 5.9.
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, JF: 1, K: unix.SYS_CLOSE_RANGE},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	for _, nnp := range []bool{false, true} {
		m := f.spec("sh", "-c", "grep Seccomp: /proc/self/status; busybox mkdir /tmp/x 2>&1")
		m.Process.UID, m.Process.NoNewPrivileges = 1000, nnp
		m.Process.Seccomp.Filter = filter
		if got := f.run(m, nil); !strings.HasPrefix(got.stdout, "Seccomp:\t2\nmkdir: can't create directory '/tmp/x': Invalid cross-device link\n") {
			t.Errorf("no_new_privs %v: got %+v", nnp, got)
		}
	}
}
