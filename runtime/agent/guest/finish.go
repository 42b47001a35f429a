package guest

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
)

// finish gives the process everything but its program: limits, session, user, capabilities. The order matters: what
// needs privilege comes before what takes it away.
func (e *execution) finish() error {
	if len(e.p.Args) == 0 {
		return failure(agent.Invalid, "process.args must not be empty")
	}
	if err := e.session(); err != nil {
		return err
	}
	for _, l := range e.p.Rlimits {
		if err := unix.Prlimit(0, int(l.Resource), &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return wrap("set rlimit "+strconv.Itoa(int(l.Resource)), err)
		}
	}
	if err := e.scheduling(); err != nil {
		return err
	}
	e.env = environment(e.p)
	// Before any filter: profiles that are older than close_range refuse it.
	if err := closeOthers(); err != nil {
		return err
	}
	if !e.p.NoNewPrivileges {
		// Without no_new_privs a filter needs CAP_SYS_ADMIN, which may be gone later.
		if err := e.installSeccomp(); err != nil {
			return err
		}
	}
	unix.Umask(int(e.p.Umask & 0o777))
	if err := e.become(); err != nil {
		return err
	}
	var err error
	if e.path, err = lookPath(e.p.Args[0], e.env); err != nil {
		return err
	}
	if e.p.NoNewPrivileges {
		return wrap("set no_new_privs", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	}
	return nil
}

func (e *execution) session() error {
	if _, err := unix.Setsid(); err != nil {
		return os.NewSyscallError("setsid", err)
	}
	if e.p.Terminal {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return os.NewSyscallError("TIOCSCTTY", err)
		}
	}
	for fd := range 3 {
		// The user may open /dev/stdout again, as it could a pipe of its own.
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Rdev != devNull && st.Uid != e.p.UID {
			if err := unix.Fchown(fd, int(e.p.UID), int(st.Gid)); err != nil {
				return os.NewSyscallError("fchown", err)
			}
		}
	}
	return nil
}

var devNull = unix.Mkdev(1, 3)

// closeOthers keeps everything but the standard streams from the program.
func closeOthers() error {
	return os.NewSyscallError("close_range", unix.CloseRange(3, ^uint(0)>>33, unix.CLOSE_RANGE_CLOEXEC))
}

// become takes the user's identity, and no more of root's power than the capabilities say (capabilities(7)).
func (e *execution) become() error {
	c := e.p.Capabilities
	again := false
	if e.p.Cwd != "" {
		// First as root: the user may have no access. Again as the user where root has none (a squashing server).
		err := unix.Chdir(e.p.Cwd)
		if again = errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM); err != nil && !again {
			return e.cwdError(err)
		}
	}
	if err := dropBounding(c.Bounding); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return wrap("keep capabilities", err)
	}
	if err := e.setUser(); err != nil {
		return err
	}
	if again {
		if err := unix.Chdir(e.p.Cwd); err != nil {
			return e.cwdError(err)
		}
	}
	if _, err := unix.Getcwd(make([]byte, unix.PathMax)); errors.Is(err, unix.ENOENT) {
		return failure(agent.Failed, "current working directory is outside of container mount namespace root -- possible container breakout detected")
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return wrap("clear keep capabilities", err)
	}
	return setCapabilities(c)
}

func (e *execution) cwdError(err error) error {
	return wrap("chdir to cwd ("+strconv.Quote(e.p.Cwd)+") set in config.json failed", err)
}

// setUser changes this thread's ids only: the others end with execve.
func (e *execution) setUser() error {
	groups := make([]int, len(e.p.Groups))
	for i, g := range e.p.Groups {
		groups[i] = int(g)
	}
	if err := unix.Setgroups(groups); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	gid, uid := uintptr(e.p.GID), uintptr(e.p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return os.NewSyscallError("setresgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}

func dropBounding(keep uint64) error {
	for n := range uintptr(64) {
		if keep>>n&1 == 1 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // above the kernel's last one
		}
		if err != nil {
			return wrap("drop capability "+strconv.Itoa(int(n))+" of the bounding set", err)
		}
	}
	return nil
}

func setCapabilities(c agent.Capabilities) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(c.Effective), Permitted: uint32(c.Permitted), Inheritable: uint32(c.Inheritable)},
		{Effective: uint32(c.Effective >> 32), Permitted: uint32(c.Permitted >> 32), Inheritable: uint32(c.Inheritable >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return wrap("set capabilities", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return wrap("clear ambient capabilities", err)
	}
	for n := range uintptr(64) {
		if c.Ambient>>n&1 == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0); err != nil {
			return wrap("raise ambient capability "+strconv.Itoa(int(n)), err)
		}
	}
	return nil
}

// environment is the process's, the last of equal names, with HOME and, on a terminal, TERM.
func environment(p *agent.Process) []string {
	last := make(map[string]int, len(p.Env))
	for i, v := range p.Env {
		name, _, _ := strings.Cut(v, "=")
		last[name] = i
	}
	env := make([]string, 0, len(p.Env)+2)
	for i, v := range p.Env {
		if name, _, ok := strings.Cut(v, "="); ok && last[name] == i {
			env = append(env, v)
		}
	}
	if _, ok := last["HOME"]; !ok {
		env = append(env, "HOME="+home(p.UID))
	}
	if _, ok := last["TERM"]; !ok && p.Terminal {
		env = append(env, "TERM=xterm")
	}
	return env
}

// maxPasswd bounds what is read of the image's /etc/passwd, in bytes.
const maxPasswd = 1 << 20

// home is the directory that the container's /etc/passwd gives a user.
func home(uid uint32) string {
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/"
	}
	b := make([]byte, min(st.Size, maxPasswd))
	n, err := unix.Read(fd, b)
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(b[:n])) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 6 || f[5] == "" {
			continue
		}
		if id, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(id) == uid {
			return f[5]
		}
	}
	return "/"
}

// lookPath finds the program as execvp would, with the process's own PATH and identity. Engines read its errors.
func lookPath(file string, env []string) (string, error) {
	if strings.Contains(file, "/") {
		if err := executable(file); err != nil {
			return "", notFound(file, err)
		}
		return file, nil
	}
	path := ""
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		if name := dir + "/" + file; executable(name) == nil && path != "" {
			return name, nil
		}
	}
	return "", notFound(file, errors.New("executable file not found in $PATH"))
}

func notFound(file string, err error) error {
	code := agent.NoProgram
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		code = agent.NotExecutable
	}
	return &agent.Error{Code: code, Text: "exec: " + strconv.Quote(file) + ": " + err.Error()}
}

func executable(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) // one walk for all
	if err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES // what execve says of one, and engines look for
	}
	err = unix.Faccessat(fd, "", unix.X_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) { // a filter that does not know faccessat2: what stands in for it takes paths only
		err = unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	}
	if err != nil {
		return err
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}
