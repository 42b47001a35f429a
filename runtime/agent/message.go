package agent

// A Kind is a message's type on the wire.
type Kind uint8

// The kinds, the host's requests first.
const (
	kindConfigure Kind = iota + 1
	kindCreate
	kindStart
	kindExec
	kindSignal
	kindResize
	kindCloseStdin
	kindSetTime
	kindUpdate
	kindListProcesses
	kindSyncFS
	kindShutdown
	kindDelete
	kindStats
	kindPlug
	kindUnplug
	kindNetwork
	kindListen
	kindConnect

	kindHello Kind = iota + 64
	kindReply
	kindExited
	kindMemoryLow
)

// A Message is one of the structs below.
type Message interface {
	kind() Kind
	code(c *coder)
}

func newMessage(k Kind, from Side) Message {
	if from == Guest {
		switch k {
		case kindHello:
			return new(Hello)
		case kindReply:
			return new(Reply)
		case kindExited:
			return new(Exited)
		case kindMemoryLow:
			return new(MemoryLow)
		}
		return nil
	}
	switch k {
	case kindConfigure:
		return new(Configure)
	case kindCreate:
		return new(CreateContainer)
	case kindStart:
		return new(StartContainer)
	case kindExec:
		return new(Exec)
	case kindSignal:
		return new(Signal)
	case kindResize:
		return new(Resize)
	case kindCloseStdin:
		return new(CloseStdin)
	case kindSetTime:
		return new(SetTime)
	case kindPlug:
		return new(Plug)
	case kindUnplug:
		return new(Unplug)
	case kindNetwork:
		return new(Network)
	case kindListen:
		return new(Listen)
	case kindConnect:
		return new(Connect)
	case kindUpdate:
		return new(Update)
	case kindListProcesses:
		return new(ListProcesses)
	case kindSyncFS:
		return new(SyncFS)
	case kindShutdown:
		return new(Shutdown)
	case kindDelete:
		return new(DeleteContainer)
	case kindStats:
		return new(Stats)
	}
	return nil
}

// Phases are moments of the guest's boot, in nanoseconds of CLOCK_BOOTTIME.
type Phases struct {
	Init   uint64 // PID 1's first instruction of ours
	Mounts uint64 // its own mounts are made
	Hello  uint64 // the control stream is open
}

// Hello is the guest's first message.
type Hello struct {
	KernelRelease string
	Phases        Phases
	Secret        [SecretSize]byte
}

func (*Hello) kind() Kind { return kindHello }
func (m *Hello) code(c *coder) {
	c.str(&m.KernelRelease)
	c.u64(&m.Phases.Init)
	c.u64(&m.Phases.Mounts)
	c.u64(&m.Phases.Hello)
	c.raw(m.Secret[:])
}

// Reply answers the request with its id.
type Reply struct {
	Code Code
	Text string
	// PID is what CreateContainer and Exec started, in the guest's first PID namespace.
	PID       int32
	Processes []ProcessInfo // of ListProcesses
	Files     []File        // of Stats
	Answers   []Answer      // of Network, one a step
	Port      uint16        // of Listen
}

func (*Reply) kind() Kind { return kindReply }
func (m *Reply) code(c *coder) {
	c.u32((*uint32)(&m.Code))
	c.str(&m.Text)
	c.i32(&m.PID)
	list(c, &m.Processes, func(p *ProcessInfo) { p.code(c) })
	list(c, &m.Files, func(v *File) { v.code(c) })
	list(c, &m.Answers, func(v *Answer) { c.u32(&v.Errno); c.str(&v.Data) })
	c.u16(&m.Port)
}

// ProcessInfo is a line of ps.
type ProcessInfo struct {
	PID, PPID       int32 // in the guest's first PID namespace
	NSPID           int32 // in the container's
	UID             uint32
	TTY             uint32 // device number, 0 without
	StartTime       uint64 // clock ticks (1/100 s) after boot
	CPUTime         uint64 // clock ticks
	State           uint8  // R, S, D, Z, ...
	Command         string // arguments joined by a space, or [name]
	BootTimeSeconds int64  // CLOCK_REALTIME at boot
}

func (m *ProcessInfo) code(c *coder) {
	c.i32(&m.PID)
	c.i32(&m.PPID)
	c.i32(&m.NSPID)
	c.u32(&m.UID)
	c.u32(&m.TTY)
	c.u64(&m.StartTime)
	c.u64(&m.CPUTime)
	c.u8(&m.State)
	c.str(&m.Command)
	c.i64(&m.BootTimeSeconds)
}

// Exited tells that a process ended; it is sent after all its output was written to its streams.
type Exited struct {
	ID, ExecID string
	Status     uint8 // exit code, or 128 plus the signal
	Signal     uint8 // the signal that ended it, or 0
	OOMKilled  bool  // the memory limit's killer was at work in the container
	// StdoutBytes and StderrBytes are what was sent until the process ended. A child of it may hold the streams open;
	// after so many bytes the process's own output is complete.
	StdoutBytes, StderrBytes uint64
}

func (*Exited) kind() Kind { return kindExited }
func (m *Exited) code(c *coder) {
	c.str(&m.ID)
	c.str(&m.ExecID)
	c.u8(&m.Status)
	c.u8(&m.Signal)
	c.flag(&m.OOMKilled)
	c.u64(&m.StdoutBytes)
	c.u64(&m.StderrBytes)
}

// Configure is the host's first request, and again the first one after a restore.
type Configure struct {
	RealtimeNS int64  // the host's CLOCK_REALTIME, 0 to leave the guest's
	Entropy    []byte // mixed into the guest's random pool
	Hostname   string // of the guest itself
	// MaxMemory is up to how many bytes of RAM the guest may ask for with MemoryLow; 0 is never.
	MaxMemory uint64
}

func (*Configure) kind() Kind { return kindConfigure }
func (m *Configure) code(c *coder) {
	c.i64(&m.RealtimeNS)
	list(c, &m.Entropy, c.u8)
	c.str(&m.Hostname)
	c.u64(&m.MaxMemory)
}

// MemoryLow asks for more RAM. The host gives it through virtio-mem, or not: there is no reply.
type MemoryLow struct{}

func (*MemoryLow) kind() Kind  { return kindMemoryLow }
func (*MemoryLow) code(*coder) {}

// StartContainer lets a created container's process run.
type StartContainer struct{ ID string }

func (*StartContainer) kind() Kind      { return kindStart }
func (m *StartContainer) code(c *coder) { c.str(&m.ID) }

// DeleteContainer removes what a container that ended leaves in the guest: its id and its cgroup.
type DeleteContainer struct{ ID string }

func (*DeleteContainer) kind() Kind      { return kindDelete }
func (m *DeleteContainer) code(c *coder) { c.str(&m.ID) }

// Exec starts one more process in a container, at once.
type Exec struct {
	ID, ExecID string
	Cgroup     string // below the container's; "" is that, or where its first process is
	Process    Process
}

func (*Exec) kind() Kind { return kindExec }
func (m *Exec) code(c *coder) {
	c.str(&m.ID)
	c.str(&m.ExecID)
	c.str(&m.Cgroup)
	m.Process.code(c)
}

// Signal signals a process, or with All every process of the container.
type Signal struct {
	ID, ExecID string
	Signal     uint8
	All        bool
}

func (*Signal) kind() Kind { return kindSignal }
func (m *Signal) code(c *coder) {
	c.str(&m.ID)
	c.str(&m.ExecID)
	c.u8(&m.Signal)
	c.flag(&m.All)
}

// Resize sets the size of a process's terminal.
type Resize struct {
	ID, ExecID string
	Rows, Cols uint16
}

func (*Resize) kind() Kind { return kindResize }
func (m *Resize) code(c *coder) {
	c.str(&m.ID)
	c.str(&m.ExecID)
	c.u16(&m.Rows)
	c.u16(&m.Cols)
}

// CloseStdin ends a process's input, whatever of it is still on the way.
type CloseStdin struct{ ID, ExecID string }

func (*CloseStdin) kind() Kind { return kindCloseStdin }
func (m *CloseStdin) code(c *coder) {
	c.str(&m.ID)
	c.str(&m.ExecID)
}

// Plug has the guest look for devices that have come into slots which were empty.
type Plug struct{}

func (*Plug) kind() Kind  { return kindPlug }
func (*Plug) code(*coder) {}

// Unplug has the guest let go of the virtio device of a network interface, which the host is about to take away.
type Unplug struct{ Interface int32 } // its index

func (*Unplug) kind() Kind      { return kindUnplug }
func (m *Unplug) code(c *coder) { c.i32(&m.Interface) }

// Network has the guest's kernel carry out requests about its network, each whatever became of those before. The host makes them, and
// reads what the kernel says: PID 1 knows nothing of networks.
type Network struct{ Steps []NetworkStep }

// NetworkStep is a request to the kernel by netlink, or if there is none a file below /proc/sys/net.
type NetworkStep struct {
	Protocol uint8  // NETLINK_*
	Request  string // one message, or a batch, as the kernel knows them
	Sysctl   Sysctl // Name is the file's path
}

// Answer is what became of a step.
type Answer struct {
	Errno uint32 // errno, 0 for success
	Data  string // messages of the kernel, but for the one that says how it went
}

// MaxAnswer bounds the data of one Answer, in bytes.
const MaxAnswer = 256 << 10

func (*Network) kind() Kind { return kindNetwork }
func (m *Network) code(c *coder) {
	list(c, &m.Steps, func(v *NetworkStep) {
		c.u8(&v.Protocol)
		c.str(&v.Request)
		c.str(&v.Sysctl.Name)
		c.str(&v.Sysctl.Value)
	})
}

// SetTime corrects the guest's clock after a pause.
type SetTime struct{ RealtimeNS int64 }

func (*SetTime) kind() Kind      { return kindSetTime }
func (m *SetTime) code(c *coder) { c.i64(&m.RealtimeNS) }

// Update changes a container's limits.
type Update struct {
	ID        string
	Resources Resources
}

func (*Update) kind() Kind { return kindUpdate }
func (m *Update) code(c *coder) {
	c.str(&m.ID)
	m.Resources.code(c)
}

// ListProcesses asks for a container's processes.
type ListProcesses struct{ ID string }

func (*ListProcesses) kind() Kind      { return kindListProcesses }
func (m *ListProcesses) code(c *coder) { c.str(&m.ID) }

// Stats asks for the files of a container's cgroup that tell what it uses: StatFiles, those that there are.
type Stats struct{ ID string }

// StatFiles are the names that Stats asks for.
var StatFiles = []string{
	"memory.current", "memory.max", "memory.peak", "memory.swap.current", "memory.swap.max", "memory.stat", "memory.events",
	"pids.current", "pids.max",
}

func (*Stats) kind() Kind      { return kindStats }
func (m *Stats) code(c *coder) { c.str(&m.ID) }

// SyncFS writes back every file system.
type SyncFS struct{}

func (*SyncFS) kind() Kind  { return kindSyncFS }
func (*SyncFS) code(*coder) {}

// Shutdown ends every process, writes back, unmounts and resets the machine. Its Reply comes before the reset.
type Shutdown struct{}

func (*Shutdown) kind() Kind  { return kindShutdown }
func (*Shutdown) code(*coder) {}
