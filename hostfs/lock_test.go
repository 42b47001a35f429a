package hostfs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// locked makes a file, its node, and an open handle.
func locked(t *testing.T) (g *guest, node, fh uint64) {
	t.Helper()
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "f"), "text")
	g = newGuest(t, host)
	node = g.lookup(g.top(), "f")
	return g, node, g.open(node, unix.O_RDWR)
}

// ofd takes a lock on the host, as another process would.
func ofd(t *testing.T, host string, typ int16) (func(), error) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(host, "f"), os.O_RDWR, 0)
	check(t, err)
	return func() { f.Close() }, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Len: 10})
}

// TestPOSIXLocks conflict between owners, in ranges, with the host's processes, and end with any close. Contract: L1.
func TestPOSIXLocks(t *testing.T) {
	g, node, fh := locked(t)
	expect := func(what string, got, want fuse.Status) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	expect("first", g.setLock(node, fh, 1, unix.F_WRLCK, 0, 9), fuse.OK)
	expect("the same owner again", g.setLock(node, fh, 1, unix.F_WRLCK, 5, 20), fuse.OK)
	expect("another owner", g.setLock(node, fh, 2, unix.F_RDLCK, 9, 9), fuse.EAGAIN)
	expect("beside it", g.setLock(node, fh, 2, unix.F_WRLCK, 21, 30), fuse.OK)
	var out fuse.LkOut
	expect("GETLK", g.GetLk(nil, lockIn(node, fh, 2, unix.F_WRLCK, 0, 100), &out), fuse.OK)
	if out.Lk.Typ != unix.F_WRLCK || out.Lk.Start != 0 || out.Lk.End != 20 || out.Lk.Pid != 1 {
		t.Errorf("GETLK: %+v", out.Lk)
	}
	expect("unlock of a part", g.setLock(node, fh, 1, unix.F_UNLCK, 5, 9), fuse.OK)
	expect("the part", g.setLock(node, fh, 2, unix.F_RDLCK, 5, 9), fuse.OK)
	if done, err := ofd(t, g.host, unix.F_WRLCK); err != unix.EAGAIN {
		t.Errorf("a process of the host: %v", err)
	} else {
		done()
	}
	second := g.open(node, unix.O_RDONLY) // POSIX: the close of any descriptor ends the owner's locks
	expect("FLUSH", g.Flush(nil, &fuse.FlushIn{InHeader: g.header(node), Fh: second, LockOwner: 1}), fuse.OK)
	expect("after the close", g.setLock(node, fh, 3, unix.F_WRLCK, 0, 4), fuse.OK)
	expect("the other's lock", g.setLock(node, fh, 3, unix.F_WRLCK, 21, 21), fuse.EAGAIN)
	g.Release(nil, &fuse.ReleaseIn{InHeader: g.header(node), Fh: fh})
	done, err := ofd(t, g.host, unix.F_WRLCK)
	defer done()
	if err != nil {
		t.Errorf("after the last close, the host: %v", err)
	}
}

// TestLockWaits: a wait ends with the unlock, whoever unlocks, or with the interrupt; it holds up nobody. Contract: L3.
func TestLockWaits(t *testing.T) {
	g, node, fh := locked(t)
	wait := func(owner uint64, cancel chan struct{}) chan fuse.Status {
		done := make(chan fuse.Status, 1)
		go func() { done <- g.SetLkw(cancel, lockIn(node, fh, owner, unix.F_WRLCK, 0, 9)) }()
		select {
		case code := <-done:
			t.Fatalf("the wait is over at once: %v", code)
		case <-time.After(20 * time.Millisecond):
		}
		return done
	}
	ends := func(done chan fuse.Status, want fuse.Status) {
		t.Helper()
		select {
		case code := <-done:
			if code != want {
				t.Errorf("the wait ends with %v, want %v", code, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the wait does not end")
		}
	}
	unlockHost, err := ofd(t, g.host, unix.F_WRLCK)
	check(t, err)
	done := wait(1, nil)
	unlockHost()
	ends(done, fuse.OK)

	done = wait(2, nil)
	if code := g.setLock(node, fh, 1, unix.F_UNLCK, 0, 9); code != fuse.OK {
		t.Error(code)
	}
	ends(done, fuse.OK)

	cancel := make(chan struct{})
	done = wait(3, cancel)
	close(cancel)
	ends(done, fuse.EINTR)
	if code := g.setLock(node, fh, 4, unix.F_WRLCK, 0, 9); code != fuse.EAGAIN {
		t.Errorf("an interrupted wait changed the lock: %v", code)
	}
	other := g.open(node, unix.O_RDWR)
	done = make(chan fuse.Status, 1)
	go func() { done <- g.SetLkw(nil, lockIn(node, other, 5, unix.F_WRLCK, 0, 9)) }()
	time.Sleep(20 * time.Millisecond)
	g.Release(nil, &fuse.ReleaseIn{InHeader: g.header(node), Fh: other})
	ends(done, fuse.EINTR)
}

// TestFlock belongs to the open file: it survives other closes, conflicts with the host's, and does not with POSIX locks.
// Contract: L2.
func TestFlock(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "f"), "text")
	open := func(dir string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b, h := open(guest), open(guest), open(host)
	lock := func(f *os.File, how int) error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) }
	check(t, lock(a, unix.LOCK_EX))
	for _, f := range []*os.File{b, h} {
		if err := lock(f, unix.LOCK_SH); err != unix.EWOULDBLOCK {
			t.Errorf("a second lock: %v", err)
		}
	}
	check(t, unix.FcntlFlock(b.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	open(guest).Close()
	if err := lock(h, unix.LOCK_SH); err != unix.EWOULDBLOCK {
		t.Errorf("after another descriptor's close: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	time.Sleep(20 * time.Millisecond)
	check(t, a.Close())
	select {
	case err := <-waited:
		check(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the close does not wake who waits")
	}
	if err := lock(h, unix.LOCK_SH); err != unix.EWOULDBLOCK {
		t.Errorf("the waiter's lock: %v", err)
	}
}

// TestOFDLocks of the guest belong to the open file, and last until its last close. Contract: L4.
func TestOFDLocks(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(host, "f"), "text")
	var f [2]*os.File
	for i := range f {
		var err error
		f[i], err = os.OpenFile(filepath.Join(guest, "f"), os.O_RDWR, 0)
		check(t, err)
		defer f[i].Close()
	}
	lock := func(i int) error {
		return unix.FcntlFlock(f[i].Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10})
	}
	check(t, lock(0))
	if err := lock(1); err != unix.EAGAIN {
		t.Errorf("two open files have the lock: %v", err)
	}
	dup, err := unix.Dup(int(f[0].Fd()))
	check(t, err)
	check(t, f[0].Close())
	if err := lock(1); err != unix.EAGAIN {
		t.Errorf("a close of one of two descriptors ends the lock: %v", err)
	}
	check(t, unix.Close(dup))
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) { // RELEASE comes after close returned
		if err := lock(1); err == nil || time.Now().After(end) {
			check(t, err)
			break
		}
	}
}

// TestDeadlock: two owners who wait for each other wait until a signal ends it. Contract: L7.
func TestDeadlock(t *testing.T) {
	g, node, fh := locked(t)
	var done [2]chan fuse.Status
	cancel := make(chan struct{})
	for i := range done {
		if code := g.setLock(node, fh, uint64(i), unix.F_WRLCK, uint64(10*i), uint64(10*i+9)); code != fuse.OK {
			t.Fatal(code)
		}
	}
	for i := range done {
		done[i] = make(chan fuse.Status, 1)
		start := uint64(10 - 10*i)
		go func() { done[i] <- g.SetLkw(cancel, lockIn(node, fh, uint64(i), unix.F_WRLCK, start, start+9)) }()
	}
	time.Sleep(100 * time.Millisecond)
	if len(done[0])+len(done[1]) > 0 {
		t.Error("a wait has ended")
	}
	close(cancel)
	for i := range done {
		if code := <-done[i]; code != fuse.EINTR {
			t.Errorf("owner %d: %v", i, code)
		}
	}
}
