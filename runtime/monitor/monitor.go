package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/hostfs"
	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/runtime/agent/host"
	"github.com/govmm/govmm/runtime/control"
	"github.com/govmm/govmm/runtime/network"
	"github.com/govmm/govmm/runtime/oci"
	"github.com/govmm/govmm/runtime/sandbox"
	"github.com/govmm/govmm/runtime/terminal"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/fs"
	"github.com/govmm/govmm/virtio/net/user"
	"github.com/govmm/govmm/virtio/vsock"
	"github.com/govmm/govmm/vmm"
)

// guestCID is the guest's vsock address; it means something only between this monitor and its guest.
const guestCID = 3

// bootTime is how long a guest may take to its first words, on slow emulated hosts too.
const bootTime = 2 * time.Minute

// monitor is one container's VM and what serves it.
type monitor struct {
	cfg      *Config
	log      *slog.Logger
	phases   *phases
	sync     *control.Conn
	listener *net.UnixListener
	held     *os.File   // locked until start lets the container's process go
	starting sync.Mutex // of one start after the other

	network   *network.Manager // nil before the first start; guarded by starting, as connected is
	connected bool             // the guest has its network

	tree    *sandbox.Tree
	tun     *os.File          // the node of TAPs, nil where there is none
	user    *user.Link        // the network in user mode, nil without
	sockets []*sandbox.Socket // one a mount, nil where it is none
	notify  *sandbox.Socket   // NOTIFY_SOCKET in a bound directory, nil where there is none
	files   *hostfs.FS
	disks   map[string]bool // the serial numbers of those that the VM has
	socket  *vsock.Device
	last    *lastWords
	vm      *vmm.VM
	ended   chan error // what vm.Run returned
	guest   *host.Client
	init    *process
	signals chan os.Signal
	ending  atomic.Bool // the container's process has ended
	started atomic.Bool // the container's process was let go
	paused  atomic.Bool
	limits  limits
	attach  sync.Once // the devices for memory
	// attached is why they could not be; it is set within attach.
	attached error
	doom     *doom
	ready    readiness

	execs     execTable
	answering atomic.Int32  // calls, but for execs
	hooksRun  chan struct{} // closed when create has run the hooks that are its part
	goOn      chan struct{} // closed when create has recorded the container
}

// Main is the whole life of a monitor; it returns the exit status, which is the container's.
func Main() int {
	sync, err := control.FromFile(os.NewFile(SyncFD, "sync"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "govmm-monitor: started by hand: use govmm-run create or run")
		return 1
	}
	_ = os.WriteFile("/proc/self/comm", []byte(comm), 0)
	unix.Umask(0o022) // of the mount points that are made in the container's root, whatever the caller's is
	unix.CloseOnExec(HeldFD)
	m := &monitor{sync: sync, held: os.NewFile(HeldFD, "held"), last: &lastWords{}, ended: make(chan error, 1), signals: make(chan os.Signal, 64), hooksRun: make(chan struct{}), goOn: make(chan struct{})}
	if err := m.create(); err != nil {
		_ = sync.Send(control.Reply{Error: err.Error()})
		return 1
	}
	if err := m.handOver(); err != nil {
		return 1
	}
	return m.serve()
}

// watchCreate ends this process, at whatever it is, when create dies before it has recorded the container: nobody would
// know of it. create gives the word to go on at each of steps.
func (m *monitor) watchCreate(steps ...chan struct{}) {
	for _, step := range steps {
		var goOn control.Request
		if err := m.sync.Receive(&goOn); err != nil {
			os.Exit(1)
		}
		close(step)
	}
}

// create brings the container to the state created: everything is made, the process is held ready.
func (m *monitor) create() error {
	cfg := &Config{}
	if err := m.sync.Receive(cfg); err != nil {
		return err
	}
	// Before all else, as a VM takes its time; not before the message, which comes when this process is in its cgroup: KVM's
	// kernel thread is put where its maker is, and would keep the caller's cgroup from being removed.
	host, hostErr := vmm.OpenHost("")
	m.cfg = cfg
	steps := []chan struct{}{m.goOn}
	if hasRuntimeHooks(cfg.Spec.Hooks) {
		steps = []chan struct{}{m.hooksRun, m.goOn}
	}
	go m.watchCreate(steps...)
	m.phases = newPhases(cfg.Phases, cfg.Begin)
	m.phases.end(phaseCLI)
	m.log = newLogger(cfg.Debug)
	if hostErr != nil {
		return hostErr
	}
	images, err := openImages(cfg, host)
	if err != nil {
		return err
	}
	if m.listener, err = inheritedListener(); err != nil {
		return err
	}
	m.doom = openDoom(cfg.Cgroup)
	// A terminal's size may change from here on, when it is read, and not only once the container runs.
	signal.Notify(m.signals, unix.SIGWINCH)
	stdio, err := openStdio(cfg)
	if err != nil {
		return err
	}
	if err := m.startUserNetwork(); err != nil {
		return err
	}
	if err := m.enterSandbox(); err != nil {
		return err
	}
	m.phases.end(phaseSandbox)
	if err := m.startVM(images); err != nil {
		return err
	}
	return m.createContainer(stdio)
}

func newLogger(debug bool) *slog.Logger {
	level := slog.LevelError
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func inheritedListener() (*net.UnixListener, error) {
	f := os.NewFile(ListenFD, "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("control socket: not a Unix socket")
	}
	return u, nil
}

// enterSandbox makes the two trees and serves the one that the guest may see.
func (m *monitor) enterSandbox() error {
	spec := m.cfg.Spec
	setHostname(spec)
	if adj := spec.Process.OOMScoreAdj; adj != nil {
		// Lowering it takes a capability that not every host gives; the guest's processes have it in any case.
		_ = os.WriteFile("/proc/self/oom_score_adj", strconv.AppendInt(nil, int64(*adj), 10), 0)
	}
	steps, err := oci.Steps(spec.Mounts)
	if err != nil {
		return err
	}
	if m.tree, err = sandbox.Enter(spec.Root.Path, steps, m.beforePivot); err != nil {
		return err
	}
	if err := m.openSockets(steps); err != nil {
		return err
	}
	exports := []hostfs.Export{{Name: oci.ExportName(m.cfg.ID, 0), Dir: m.tree.Root, ReadOnly: spec.Root.Readonly, Main: true}}
	for i, f := range m.tree.Sources {
		if f != nil && m.sockets[i] == nil {
			exports = append(exports, hostfs.Export{Name: oci.ExportName(m.cfg.ID, i+1), Dir: f, ReadOnly: steps[i].ReadOnly})
		}
	}
	m.files, err = hostfs.New(hostfs.Config{Exports: exports, Logger: m.log, ProcSelfFD: m.tree.ProcSelfFD})
	return err
}

// setHostname gives the monitor's own UTS namespace the container's name: engines look at it.
func setHostname(spec *specs.Spec) {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UTSNamespace && spec.Hostname != "" {
			_ = unix.Sethostname([]byte(spec.Hostname))
		}
	}
}

// startVM makes the VM, lets it run and takes the agent's control stream.
func (m *monitor) startVM(i *images) error {
	var err error
	if m.socket, err = vsock.New(vsock.Config{GuestCID: guestCID, Logger: m.log}); err != nil {
		return err
	}
	listener, err := m.socket.Listen(agent.Port)
	if err != nil {
		return err
	}
	share, err := fs.New(fs.Config{
		Tag: agent.Tag, Server: m.files.NewSession(), Renew: func() fs.Handler { return m.files.NewSession() }, SyncFS: m.syncFS,
		Logger: m.log,
	})
	if err != nil {
		return err
	}
	if m.cfg.Debug {
		m.last.mirror = os.Stderr
	}
	disks, err := m.openDisks()
	if err != nil {
		return err
	}
	if m.vm, err = newVM(m.cfg, i, m.last, append([]virtio.Device{m.socket, share}, disks...)...); err != nil {
		return err
	}
	m.phases.end(phaseVM)
	go func() { m.ended <- m.vm.Run(context.Background()) }()
	return m.acceptAgent(listener)
}

// acceptAgent waits for PID 1, unless the VM ends before.
func (m *monitor) acceptAgent(l net.Listener) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	accepted := make(chan error, 1)
	go func() {
		var err error
		m.guest, err = host.Accept(ctx, l)
		accepted <- err
	}()
	select {
	case err := <-accepted:
		if err != nil {
			return fmt.Errorf("guest: %w", err)
		}
		m.phases.endBoot(m.guest.Hello.Phases)
		go m.hangUp()
		return nil
	case err := <-m.ended:
		m.ended <- err
		return m.whyEnded(err)
	}
}

// hangUp closes the agent's streams when the VM has ended: nobody in it is left to do so, and calls would wait for ever.
func (m *monitor) hangUp() {
	err := <-m.ended
	m.ended <- err
	_ = m.guest.Close()
}

// whyEnded explains a VM that ended by itself.
func (m *monitor) whyEnded(err error) error {
	if errors.Is(err, vmm.ErrReset) {
		return errors.New(m.last.reason())
	}
	return err
}

// createContainer has the guest make the container.
func (m *monitor) createContainer(stdio *stdio) error {
	message, err := oci.Guest(m.cfg.ID, m.cfg.Spec)
	if err != nil {
		return err
	}
	if err := oci.AddHooks(message, m.cfg.Spec.Hooks, m.cfg.State); err != nil {
		return err
	}
	m.dropMissingDisks(message.Devices)
	most := m.maxMemory()
	if most > 0 {
		go m.serveMemory(most)
	}
	time.AfterFunc(attachTime, func() { _ = m.attachMemory() })
	configure := &agent.Configure{RealtimeNS: time.Now().UnixNano(), Hostname: m.cfg.Spec.Hostname, MaxMemory: most}
	if err := m.guest.Configure(configure); err != nil {
		return err
	}
	message.Mounts = m.relaySockets(message.Mounts)
	m.init = m.newProcess("", stdio)
	m.init.assignStreams(&message.Process)
	if err := m.guest.Create(message); err != nil {
		return m.explain(err)
	}
	m.init.attach()
	m.phases.end(phaseContainer)
	return nil
}

// explain prefers the reason of a VM that ended over the broken stream that shows it.
func (m *monitor) explain(err error) error {
	select {
	case ended := <-m.ended:
		m.ended <- ended
		return m.whyEnded(ended)
	case <-time.After(50 * time.Millisecond):
		return err
	}
}

// handOver reports that the container is created and waits until its state is recorded.
func (m *monitor) handOver() error {
	if err := m.sync.Send(control.Reply{}); err != nil {
		return err
	}
	<-m.goOn
	return m.sync.Close()
}

// serve answers calls until the container's process ends or the VM does.
func (m *monitor) serve() int {
	go m.acceptCalls()
	signal.Notify(m.signals)
	exited := m.init.exited
	for {
		select {
		case status, ok := <-exited:
			if !ok {
				exited = nil // the guest is lost: the VM's end says why
				continue
			}
			m.phases.end(phaseProcess)
			m.finish()
			m.waitAnswers()
			if m.init.oomKilled && status == 128+int(unix.SIGKILL) {
				m.doom.meet()
			}
			return status
		case err := <-m.ended:
			m.ended <- err
			complain(m.whyEnded(err))
			m.waitAnswers()
			return 255
		case s := <-m.signals:
			m.forward(s.(unix.Signal))
		}
	}
}

// forward passes on what an engine sends to the monitor itself: its pid stands for the container's process.
func (m *monitor) forward(s unix.Signal) {
	switch s {
	case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE, unix.SIGHUP:
	case unix.SIGWINCH:
		if size, ok := terminal.GetSize(m.init.stdio.tty); ok {
			m.init.resize(size)
		}
	default:
		_ = m.kill(s, false)
	}
}

// syncFS carries out the syncfs of a program. The one at the container's end only moves what the guest holds to the host: from there
// on a container that ended is like one under runc, which does not make the host write its disks either.
func (m *monitor) syncFS(node uint64) fuse.Status {
	if m.ending.Load() {
		return fuse.OK
	}
	return m.files.SyncFS(node)
}

// finish has the guest write back what it holds; the VM and the file server then end with this process, which is quicker than undoing
// them.
func (m *monitor) finish() {
	m.ending.Store(true)
	if err := m.guest.Sync(); err != nil {
		m.log.Debug("sync", "error", err)
	}
	m.phases.end(phaseExit)
	m.phases.write(os.Stderr)
}
