package agent

// CreateContainer makes a container's namespaces, mounts and process, all but its last step: to execute the program.
type CreateContainer struct {
	ID     string
	Rootfs Rootfs
	Mounts []Mount // made in this order
	// Devices are made besides the default ones of the runtime specification (null, zero, full, random, urandom, tty), or
	// in their place.
	Devices []Device
	// DeviceRules say which devices the container's processes may use: the last one about a device holds. Behind them stand those
	// of every container, which allow to make nodes, and to use the default devices and terminals. What none is about is denied.
	DeviceRules                []DeviceRule
	Hostname, Domainname       string
	Sysctls                    []Sysctl
	MaskedPaths, ReadonlyPaths []string
	Resources                  Resources
	Process                    Process
	Hooks                      []Hook // startContainer's
	HookState                  string // what each of them reads, JSON
}

func (*CreateContainer) kind() Kind { return kindCreate }
func (m *CreateContainer) code(c *coder) {
	c.str(&m.ID)
	m.Rootfs.code(c)
	list(c, &m.Mounts, func(v *Mount) { v.code(c) })
	list(c, &m.Devices, func(v *Device) { v.code(c) })
	list(c, &m.DeviceRules, func(v *DeviceRule) { v.code(c) })
	c.str(&m.Hostname)
	c.str(&m.Domainname)
	list(c, &m.Sysctls, func(v *Sysctl) { c.str(&v.Name); c.str(&v.Value) })
	list(c, &m.MaskedPaths, c.str)
	list(c, &m.ReadonlyPaths, c.str)
	m.Resources.code(c)
	m.Process.code(c)
	list(c, &m.Hooks, func(v *Hook) { v.code(c) })
	c.str(&m.HookState)
}

// Rootfs is the container's root.
type Rootfs struct {
	Source      string // below the exported tree: /<container>/0
	Readonly    bool
	Propagation uint64 // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, with MS_REC; 0 is private
}

func (m *Rootfs) code(c *coder) {
	c.str(&m.Source)
	c.flag(&m.Readonly)
	c.u64(&m.Propagation)
}

// Mount is one mount of the config, its options understood.
type Mount struct {
	Bind                     bool
	Recursive                bool   // Bind: rbind
	CopyUp                   bool   // tmpfs: begin with what the mount point held
	Source                   string // Bind: below the exported tree, /<container>/<n>; else what mount(8) shows
	Target                   string // in the container
	Type                     string
	Flags, Clear             uint64 // MS_* set and taken away
	RecAttrSet, RecAttrClear uint64 // MOUNT_ATTR_* for the whole tree
	Propagation              uint64 // MS_*, 0 for the default, private
	Data                     string
	Socket                   Socket // Bind: the source is a socket, which the guest stands in for
}

func (m *Mount) code(c *coder) {
	c.flag(&m.Bind)
	c.flag(&m.Recursive)
	c.flag(&m.CopyUp)
	c.str(&m.Source)
	c.str(&m.Target)
	c.str(&m.Type)
	c.u64(&m.Flags)
	c.u64(&m.Clear)
	c.u64(&m.RecAttrSet)
	c.u64(&m.RecAttrClear)
	c.u64(&m.Propagation)
	c.str(&m.Data)
	m.Socket.code(c)
}

// A SocketKind is what is known of a Unix socket in a mount; 0 is none.
type SocketKind uint8

// The kinds of Unix sockets that are relayed. A connection to one of StreamSocket becomes a stream of its own; the
// datagrams to one of DatagramSocket share a stream, on which ReadDatagram reads them.
const (
	StreamSocket SocketKind = iota + 1
	DatagramSocket
)

// MaxSockets bounds the sockets of a container.
const MaxSockets = 64

// MaxRelayed bounds the relayed connections of a guest at any time: its other streams come first.
const MaxRelayed = 256

// Connected is the byte with which a relayed connection's stream begins, from the side that has connected to the server. The
// stream of one that was refused ends without, or begins with another.
const Connected = 0

// Socket is a Unix socket of the host that PID 1 relays to.
type Socket struct {
	Kind     SocketKind
	Stream   uint32 // stream id, which the guest may dial many times
	Mode     uint32 // permissions
	UID, GID uint32
}

func (m *Socket) code(c *coder) {
	c.u8((*uint8)(&m.Kind))
	c.u32(&m.Stream)
	c.u32(&m.Mode)
	c.u32(&m.UID)
	c.u32(&m.GID)
}

// Hook is a program of the container that runs just before the process's own, as the process.
type Hook struct {
	Path      string
	Args, Env []string // no Args: the path alone
	Seconds   uint64   // that it may take, 0 for any time
}

func (m *Hook) code(c *coder) {
	c.str(&m.Path)
	list(c, &m.Args, c.str)
	list(c, &m.Env, c.str)
	c.u64(&m.Seconds)
}

// Device is a device node, or a FIFO.
type Device struct {
	Path         string
	Mode         uint32 // S_IFCHR, S_IFBLK or S_IFIFO, and permissions
	Major, Minor uint32
	UID, GID     uint32
	// Disk is the serial number of the virtio block device that is meant, in place of Major and Minor.
	Disk string
}

func (m *Device) code(c *coder) {
	c.str(&m.Path)
	c.u32(&m.Mode)
	c.u32(&m.Major)
	c.u32(&m.Minor)
	c.u32(&m.UID)
	c.u32(&m.GID)
	c.str(&m.Disk)
}

// What a DeviceRule is about, as the kernel has it (<linux/bpf.h>, BPF_DEVCG_ACC_*).
const (
	DeviceMknod = 1 << iota
	DeviceRead
	DeviceWrite
	DeviceAll = DeviceMknod | DeviceRead | DeviceWrite
)

// DeviceRule allows or denies some kinds of access to devices.
type DeviceRule struct {
	Allow        bool
	Kind         uint32 // S_IFCHR or S_IFBLK, 0 for both
	Major, Minor int64  // -1 for any
	Access       uint8  // DeviceMknod and so on
	Disk         string // as that of a Device, in place of Major and Minor
}

func (m *DeviceRule) code(c *coder) {
	c.flag(&m.Allow)
	c.u32(&m.Kind)
	c.i64(&m.Major)
	c.i64(&m.Minor)
	c.u8(&m.Access)
	c.str(&m.Disk)
}

// Sysctl is a kernel parameter, its name with dots or slashes.
type Sysctl struct{ Name, Value string }

// Resources are limits of the container's cgroup. 0 leaves a value as it is, -1 takes the limit away.
type Resources struct {
	// Check refuses a memory limit below what is in use, which would have the kernel kill.
	Check      bool
	MemoryMax  int64 // bytes
	MemorySwap int64 // bytes of memory and swap together, as in the runtime specification
	MemoryLow  int64 // bytes: the reservation
	PidsMax    int64
	// Files are files of the cgroup that are written last, as they stand here.
	Files []File
}

// File is a file of a cgroup and what it holds.
type File struct{ Name, Value string }

func (m *File) code(c *coder) {
	c.str(&m.Name)
	c.str(&m.Value)
}

func (m *Resources) code(c *coder) {
	c.flag(&m.Check)
	c.i64(&m.MemoryMax)
	c.i64(&m.MemorySwap)
	c.i64(&m.MemoryLow)
	c.i64(&m.PidsMax)
	list(c, &m.Files, func(v *File) { v.code(c) })
}

// Process is a process of a container.
type Process struct {
	Args, Env                      []string
	Cwd                            string
	UID, GID                       uint32
	Groups                         []uint32
	Umask                          uint32 // 0o22 where the config has none
	Capabilities                   Capabilities
	Rlimits                        []Rlimit
	NoNewPrivileges                bool
	SetOOMScoreAdj                 bool
	OOMScoreAdj                    int32
	Terminal                       bool
	Rows, Cols                     uint16 // of the terminal, 0 for unknown
	Seccomp                        Seccomp
	Scheduler                      Scheduler
	IOPriority                     uint16       // class and level (ioprio_set(2)), 0 leaves it
	Personality                    uint32       // execution domain (personality(2)); 0 is Linux's own
	CPUs                           uint64       // where the process may run, bit n for CPU n; 0 is everywhere
	TimeOffsets                    []TimeOffset // of a time namespace, which there is if there are any
	Stdin, Stdout, Stderr, Console uint32       // stream ids, 0 for /dev/null; with Terminal only Console
}

func (m *Process) code(c *coder) {
	list(c, &m.Args, c.str)
	list(c, &m.Env, c.str)
	c.str(&m.Cwd)
	c.u32(&m.UID)
	c.u32(&m.GID)
	list(c, &m.Groups, c.u32)
	c.u32(&m.Umask)
	m.Capabilities.code(c)
	list(c, &m.Rlimits, func(v *Rlimit) { c.i32(&v.Resource); c.u64(&v.Soft); c.u64(&v.Hard) })
	c.flag(&m.NoNewPrivileges)
	c.flag(&m.SetOOMScoreAdj)
	c.i32(&m.OOMScoreAdj)
	c.flag(&m.Terminal)
	c.u16(&m.Rows)
	c.u16(&m.Cols)
	c.u32(&m.Seccomp.Flags)
	list(c, &m.Seccomp.Filter, func(v *Instruction) { c.u16(&v.Code); c.u8(&v.JT); c.u8(&v.JF); c.u32(&v.K) })
	m.Scheduler.code(c)
	c.u16(&m.IOPriority)
	c.u32(&m.Personality)
	c.u64(&m.CPUs)
	list(c, &m.TimeOffsets, func(v *TimeOffset) { c.str(&v.Clock); c.i64(&v.Seconds); c.u32(&v.Nanoseconds) })
	c.u32(&m.Stdin)
	c.u32(&m.Stdout)
	c.u32(&m.Stderr)
	c.u32(&m.Console)
}

// Capabilities are five sets, bit n for capability n (capabilities(7)).
type Capabilities struct{ Bounding, Effective, Inheritable, Permitted, Ambient uint64 }

func (m *Capabilities) code(c *coder) {
	c.u64(&m.Bounding)
	c.u64(&m.Effective)
	c.u64(&m.Inheritable)
	c.u64(&m.Permitted)
	c.u64(&m.Ambient)
}

// TimeOffset is what a clock of a time namespace shows more than the guest's own (time_namespaces(7)).
type TimeOffset struct {
	Clock       string // monotonic or boottime
	Seconds     int64
	Nanoseconds uint32
}

// Rlimit is a resource limit; Resource is an RLIMIT_* number.
type Rlimit struct {
	Resource   int32
	Soft, Hard uint64
}

// Scheduler is how a process is scheduled (sched_setattr(2)).
type Scheduler struct {
	Set                       bool // else the fields say nothing
	Policy                    uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64 // nanoseconds
}

func (m *Scheduler) code(c *coder) {
	c.flag(&m.Set)
	c.u32(&m.Policy)
	c.u64(&m.Flags)
	c.i32(&m.Nice)
	c.u32(&m.Priority)
	c.u64(&m.Runtime)
	c.u64(&m.Deadline)
	c.u64(&m.Period)
}

// Seccomp is a compiled filter (seccomp(2)), installed last; an empty one is none.
type Seccomp struct {
	Flags  uint32 // SECCOMP_FILTER_FLAG_*
	Filter []Instruction
}

// Instruction is one of classic BPF.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}
