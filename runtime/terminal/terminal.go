// Package terminal makes and handles the host's side of a container's terminal. The line discipline that a user meets
// is the guest's: every terminal here is raw.
package terminal

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Size is a window size in characters.
type Size struct {
	Rows, Columns uint16
}

// Pair is a pseudo-terminal; the slave is raw.
type Pair struct {
	Master, Slave *os.File
	Name          string // of the slave, /dev/pts/N
}

// Open makes a pseudo-terminal of the host.
func Open() (*Pair, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	p := &Pair{Master: master}
	if err := p.openSlave(); err != nil {
		p.Close()
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	return p, nil
}

func (p *Pair) openSlave() error {
	if err := unix.IoctlSetPointerInt(int(p.Master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("TIOCSPTLCK", err)
	}
	n, err := unix.IoctlGetInt(int(p.Master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("TIOCGPTN", err)
	}
	p.Name = fmt.Sprintf("/dev/pts/%d", n)
	if p.Slave, err = os.OpenFile(p.Name, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	_, err = MakeRaw(p.Slave)
	return err
}

// Close closes both ends.
func (p *Pair) Close() {
	p.Master.Close()
	if p.Slave != nil {
		p.Slave.Close()
	}
}

// Send hands the master over the Unix socket at path, as runc does for --console-socket: one message with the
// slave's name and the descriptor.
func (p *Pair) Send(path string) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("console socket %s: %w", path, err)
	}
	defer unix.Close(dir)
	// Through a descriptor: the path may be longer than sun_path.
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		return fmt.Errorf("console socket %s: %w", path, errors.Unwrap(err))
	}
	defer c.Close()
	if _, _, err := c.WriteMsgUnix([]byte(p.Name), unix.UnixRights(int(p.Master.Fd())), nil); err != nil {
		return fmt.Errorf("console socket %s: %w", path, err)
	}
	return nil
}

// State is a terminal's mode, to be put back.
type State struct{ termios unix.Termios }

// MakeRaw makes f raw and returns its mode before, or an error when f is no terminal.
func MakeRaw(f *os.File) (*State, error) {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, os.NewSyscallError("TCGETS", err)
	}
	old := &State{*t}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return old, os.NewSyscallError("TCSETS", unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t))
}

// Restore puts f's mode back.
func Restore(f *os.File, s *State) error {
	return os.NewSyscallError("TCSETS", unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &s.termios))
}

// GetSize returns f's window size; ok is false when f is no terminal.
func GetSize(f *os.File) (size Size, ok bool) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return Size{}, false
	}
	return Size{ws.Row, ws.Col}, true
}

// SetSize sets f's window size.
func SetSize(f *os.File, s Size) error {
	return os.NewSyscallError("TIOCSWINSZ", unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Columns}))
}

// Own makes a pseudo-terminal, makes it the calling process's controlling terminal (it must lead a session without
// one) and hands its master over the socket at path. The slave is returned, and takes the place of the standard streams, as
// under runc: containerd reads those to their end before it goes on. The SIGHUP that comes when the last master is
// closed, here too if nobody takes it, is ignored from now on.
func Own(path string) (*os.File, error) {
	signal.Ignore(unix.SIGHUP)
	p, err := Open()
	if err != nil {
		return nil, err
	}
	defer p.Master.Close()
	if err := unix.IoctlSetInt(int(p.Slave.Fd()), unix.TIOCSCTTY, 0); err != nil {
		p.Slave.Close()
		return nil, os.NewSyscallError("TIOCSCTTY", err)
	}
	if err := p.Send(path); err != nil {
		p.Slave.Close()
		return nil, err
	}
	for i := range 3 {
		if err := unix.Dup3(int(p.Slave.Fd()), i, 0); err != nil {
			p.Slave.Close()
			return nil, os.NewSyscallError("dup3", err)
		}
	}
	return p.Slave, nil
}
