package hostfs

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Actors are threads of their own that make files in the caller's name: with its fsuid, fsgid and umask.
//
// Why not create as root and chown afterwards: the file would exist with the wrong owner in between, quotas would be charged to
// root, and the rules of setgid directories and default ACLs would have to be imitated. Why threads of their own: umask belongs to
// the fs_struct that all threads of a process share, so an actor unshares it (CLONE_FS), and ids and capabilities belong to a
// thread that Go would otherwise hand to anybody.
//
// An actor keeps its capabilities while its fsuid is another's. The guest's kernel has checked permissions with everything that it
// knows (supplementary groups, capabilities in the container); checking again here with less knowledge could only refuse what
// is allowed. It costs no safety: a hostile guest may name any uid it likes. The one capability that is dropped on purpose is
// CAP_FSETID, where the request says that set-id bits must go (FUSE_HANDLE_KILLPRIV_V2).
//
// An actor's working directory is /proc/self/fd, so that calls with no *at form reach a descriptor by its number (see xattr.go).
type actors struct {
	jobs   chan *job
	procfd int
	max    int

	mu      sync.Mutex
	started int
	closed  bool
	wg      sync.WaitGroup
}

// creds is in whose name a job runs, in host ids.
type creds struct {
	uid, gid   uint32
	umask      uint32
	dropFSETID bool
}

type job struct {
	creds
	run      func() error
	err      error
	panicked any
	done     chan struct{}
}

func newActors(procfd, limit int) *actors {
	if limit <= 0 {
		limit = 8
	}
	return &actors{jobs: make(chan *job), procfd: procfd, max: limit}
}

// do runs a call on an actor and returns its error.
func (a *actors) do(c creds, run func() error) error {
	j := &job{creds: c, run: run, done: make(chan struct{})}
	select {
	case a.jobs <- j:
	default:
		if !a.start() {
			return os.ErrClosed
		}
		a.jobs <- j
	}
	<-j.done
	if j.panicked != nil {
		panic(j.panicked)
	}
	return j.err
}

// start adds a thread if there may be one more.
func (a *actors) start() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	if a.started < a.max {
		a.started++
		a.wg.Add(1)
		go a.thread()
	}
	return true
}

func (a *actors) close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.jobs)
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// thread is one actor. It never unlocks its thread, so that Go ends it with the goroutine.
func (a *actors) thread() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Not the main thread: it cannot be ended, and others look at its working directory.
		started := make(chan struct{})
		go func() { close(started); a.thread() }()
		<-started
		runtime.UnlockOSThread()
		return
	}
	defer a.wg.Done()
	debug.SetPanicOnFault(true) // a job's data may lie in guest memory; play hands its panic on
	self, err := newActor(a.procfd)
	for j := range a.jobs {
		if err != nil {
			j.err = err
		} else {
			self.play(j)
		}
		close(j.done)
	}
}

// actor is the state of one such thread.
type actor struct {
	uid, gid int
	fixup    bool // the kernel takes capabilities away when fsuid leaves 0
	caps     [2]unix.CapUserData
}

// newActor turns the calling thread into an actor.
func newActor(procfd int) (*actor, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, os.NewSyscallError("unshare(CLONE_FS)", err)
	}
	if err := unix.Fchdir(procfd); err != nil {
		return nil, os.NewSyscallError("fchdir", err)
	}
	a := &actor{uid: unix.Geteuid(), gid: unix.Getegid()}
	// Best effort, both: without CAP_SETGID no group can be dropped, without CAP_SETPCAP the kernel's fix-up is undone
	// call by call.
	_ = unix.Setgroups(nil)
	a.fixup = unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0) != nil
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &a.caps[0]); err != nil {
		return nil, os.NewSyscallError("capget", err)
	}
	return a, nil
}

// play runs one job in its caller's name.
func (a *actor) play(j *job) {
	defer func() { j.panicked = recover() }()
	unix.Umask(int(j.umask & 0o777))
	if err := a.become(j.creds); err != nil {
		j.err = err
	} else {
		j.err = j.run()
	}
	a.unbecome(j.creds)
}

func (a *actor) become(c creds) error {
	if int(c.gid) != a.gid {
		if err := setfsid(unix.SetfsgidRetGid, int(c.gid)); err != nil {
			return err
		}
	}
	if int(c.uid) != a.uid {
		if err := setfsid(unix.SetfsuidRetUid, int(c.uid)); err != nil {
			return err
		}
	}
	if c.dropFSETID || a.fixup && int(c.uid) != a.uid {
		return a.setCaps(c.dropFSETID)
	}
	return nil
}

func (a *actor) unbecome(c creds) {
	if int(c.uid) != a.uid {
		_ = setfsid(unix.SetfsuidRetUid, a.uid)
	}
	if int(c.gid) != a.gid {
		_ = setfsid(unix.SetfsgidRetGid, a.gid)
	}
	if c.dropFSETID || a.fixup && int(c.uid) != a.uid {
		_ = a.setCaps(false)
	}
}

func (a *actor) setCaps(dropFSETID bool) error {
	caps := a.caps
	if dropFSETID {
		caps[0].Effective &^= 1 << unix.CAP_FSETID
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&hdr, &caps[0])
}

// setfsid sets a file system id and checks that it took: these calls have no error of their own.
func setfsid(set func(int) (int, error), id int) error {
	_, _ = set(id)
	if now, _ := set(-1); now != id {
		return fmt.Errorf("file system id %d: %w: the monitor may not act for it", id, unix.EPERM)
	}
	return nil
}

const secbitNoSetuidFixup = 1 << 2

// credsOf names the caller of a request in host ids.
func (fs *FS) credsOf(h *fuse.InHeader) (creds, fuse.Status) {
	uid, okU := fs.ids.HostUID(h.Uid)
	gid, okG := fs.ids.HostGID(h.Gid)
	if !okU || !okG {
		return creds{}, fuse.Status(unix.EOVERFLOW)
	}
	if uid == ^uint32(0) || gid == ^uint32(0) {
		return creds{}, fuse.EINVAL
	}
	return creds{uid: uid, gid: gid}, fuse.OK
}

// as runs a call that makes an inode in the caller's name.
func (fs *FS) as(h *fuse.InHeader, umask uint32, run func() error) fuse.Status {
	c, code := fs.credsOf(h)
	if code != fuse.OK {
		return code
	}
	c.umask = umask
	return status(fs.actors.do(c, run))
}

// killing runs a call that changes the contents of fd. If the caller lacks CAP_FSETID (kill) and the file has set-id bits, it runs
// where the host's kernel takes them away; else right here, which spares ordinary writes the change of threads.
func (fs *FS) killing(h *fuse.InHeader, fd int, kill bool, run func() error) fuse.Status {
	if kill {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return status(err)
		}
		if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			c, code := fs.credsOf(h)
			if code != fuse.OK {
				return code
			}
			c.dropFSETID = true
			return status(fs.actors.do(c, run))
		}
	}
	return status(run())
}
