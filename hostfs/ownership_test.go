package hostfs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// user is a process of the guest that is not root.
type user struct {
	uid, gid int
	groups   []int
	umask    int
}

// do runs f on a thread with the user's ids, without capabilities. The thread ends with it.
func (u user) do(t testing.TB, f func() error) {
	t.Helper()
	if err := u.try(f); err != nil {
		t.Errorf("as user %d: %v", u.uid, err)
	}
}

func (u user) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			unix.Umask(u.umask)
			if err := unix.Setgroups(u.groups); err != nil {
				return err
			}
			// The raw calls act on this thread alone, unlike unix.Setresuid.
			gid, uid := uintptr(u.gid), uintptr(u.uid)
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
				return e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
				return e
			}
			return f()
		}()
	}()
	return <-done
}

func openClose(path string, flags int, mode uint32) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// TestOwner: what the guest makes belongs to who makes it, from the first moment, on both sides. Contract: O1.
func TestOwner(t *testing.T) {
	host, guest := mounted(t)
	check(t, os.Chmod(host, 0o777))
	u := user{uid: 1234, gid: 2345}
	in := func(name string) string { return filepath.Join(guest, name) }
	u.do(t, func() error { return openClose(in("file"), unix.O_CREAT|unix.O_RDWR, 0o644) })
	u.do(t, func() error { return unix.Mkdir(in("dir"), 0o755) })
	u.do(t, func() error { return unix.Symlink("target", in("link")) })
	u.do(t, func() error { return unix.Mkfifo(in("fifo"), 0o644) })
	for _, name := range []string{"file", "dir", "link", "fifo"} {
		for _, side := range []string{host, guest} {
			if st := stat(t, filepath.Join(side, name)); st.Uid != 1234 || st.Gid != 2345 {
				t.Errorf("%s belongs to %d:%d", filepath.Join(side, name), st.Uid, st.Gid)
			}
		}
	}
	check(t, unix.Lchown(in("link"), 7, 8))
	check(t, unix.Chown(in("file"), 9, 10))
	if st := stat(t, filepath.Join(host, "link")); st.Uid != 7 || st.Gid != 8 {
		t.Errorf("the link belongs to %d:%d", st.Uid, st.Gid)
	}
	if st := stat(t, filepath.Join(host, "file")); st.Uid != 9 || st.Gid != 10 {
		t.Errorf("the file belongs to %d:%d", st.Uid, st.Gid)
	}
}

// TestSetgidDirectory gives its group to what is made in it, and the bit to directories; a file gets the bit only from a member of
// the group. Contract: O2.
func TestSetgidDirectory(t *testing.T) {
	host, guest := mounted(t)
	dir := filepath.Join(guest, "d")
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Chown(dir, 0, 500))
	check(t, unix.Chmod(dir, unix.S_ISGID|0o777))
	outsider, member := user{uid: 1000, gid: 1000}, user{uid: 1001, gid: 1001, groups: []int{500}}
	for name, u := range map[string]user{"outsider": outsider, "member": member} {
		u.do(t, func() error { return openClose(filepath.Join(dir, name), unix.O_CREAT|unix.O_RDWR, 0o2775) })
		u.do(t, func() error { return unix.Mkdir(filepath.Join(dir, name+"-dir"), 0o755) })
		if st := stat(t, filepath.Join(host, "d", name+"-dir")); st.Gid != 500 || st.Mode != unix.S_IFDIR|unix.S_ISGID|0o755 {
			t.Errorf("the directory of the %s: group %d, mode %o", name, st.Gid, st.Mode)
		}
		want := uint32(unix.S_IFREG | 0o775)
		if name == "member" {
			want |= unix.S_ISGID
		}
		if st := stat(t, filepath.Join(host, "d", name)); st.Gid != 500 || st.Mode != want {
			t.Errorf("the file of the %s: group %d, mode %o, want %o", name, st.Gid, st.Mode, want)
		}
	}
}

// TestPermissions are checked by the guest's kernel with all that it knows: supplementary groups, sticky directories, and owners.
// Contract: O3.
func TestPermissions(t *testing.T) {
	_, guest := mounted(t)
	sticky := filepath.Join(guest, "sticky")
	check(t, os.Mkdir(sticky, 0o755))
	check(t, unix.Chmod(sticky, unix.S_ISVTX|0o777))
	alice, bob := user{uid: 1000, gid: 1000}, user{uid: 1001, gid: 1001, groups: []int{500}}
	file := filepath.Join(sticky, "f")
	alice.do(t, func() error { return openClose(file, unix.O_CREAT|unix.O_RDWR, 0o600) })
	for what, f := range map[string]func() error{
		"open": func() error { return openClose(file, unix.O_RDONLY, 0) }, "chmod": func() error { return unix.Chmod(file, 0o666) },
		"unlink": func() error { return unix.Unlink(file) }, "rename": func() error { return unix.Rename(file, file+"2") },
		"chown": func() error { return unix.Chown(file, 1001, 1001) },
	} {
		if err := bob.try(f); err != unix.EPERM && err != unix.EACCES {
			t.Errorf("%s of another's file: %v", what, err)
		}
	}
	shared := filepath.Join(guest, "shared")
	writeFile(t, shared, "x")
	check(t, os.Chown(shared, 0, 500))
	check(t, os.Chmod(shared, 0o060))
	bob.do(t, func() error { return openClose(shared, unix.O_RDWR, 0) })
	if err := alice.try(func() error { return openClose(shared, unix.O_RDONLY, 0) }); err != unix.EACCES {
		t.Errorf("a stranger opens the group's file: %v", err)
	}
}

// acl is an access control list as system.posix_acl_* hold it, of (tag, permissions, id).
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const (
	aclUserObj, aclUser, aclGroupObj, aclMask, aclOther = 1, 2, 4, 0x10, 0x20
	aclNobody                                           = ^uint32(0)
)

// TestUmask: the umask of the caller counts, unless the directory has a default ACL, which then counts instead. Contract: O4.
func TestUmask(t *testing.T) {
	host, guest := mounted(t)
	check(t, os.Chmod(host, 0o777))
	u := user{uid: 1000, gid: 1000, umask: 0o027}
	u.do(t, func() error { return openClose(filepath.Join(guest, "plain"), unix.O_CREAT|unix.O_RDWR, 0o666) })
	u.do(t, func() error { return unix.Mkdir(filepath.Join(guest, "plain-dir"), 0o777) })
	for name, want := range map[string]uint32{"plain": unix.S_IFREG | 0o640, "plain-dir": unix.S_IFDIR | 0o750} {
		if st := stat(t, filepath.Join(host, name)); st.Mode != want {
			t.Errorf("%s: mode %o, want %o", name, st.Mode, want)
		}
	}
	dir := filepath.Join(guest, "acl")
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Chmod(dir, 0o777))
	list := acl([3]uint32{aclUserObj, 7, aclNobody}, [3]uint32{aclUser, 6, 4321}, [3]uint32{aclGroupObj, 5, aclNobody},
		[3]uint32{aclMask, 7, aclNobody}, [3]uint32{aclOther, 4, aclNobody})
	check(t, unix.Setxattr(dir, aclDefault, list, 0))
	u.do(t, func() error { return openClose(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_RDWR, 0o666) })
	if st := stat(t, filepath.Join(host, "acl/f")); st.Mode != unix.S_IFREG|0o664 {
		t.Errorf("with a default ACL: mode %o, want 664", st.Mode)
	}
	buf := make([]byte, 100)
	n, err := unix.Getxattr(filepath.Join(host, "acl/f"), aclAccess, buf)
	if err != nil || n != len(list) {
		t.Errorf("the inherited ACL has %d bytes, %v", n, err)
	}
	u.do(t, func() error { return unix.Mkdir(filepath.Join(dir, "sub"), 0o777) })
	if n, err := unix.Getxattr(filepath.Join(host, "acl/sub"), aclDefault, buf); err != nil || n != len(list) {
		t.Errorf("the default ACL of a new directory has %d bytes, %v", n, err)
	}
}

// TestACL: access control lists are the host's, and the guest's kernel obeys them. Contract: A3.
func TestACL(t *testing.T) {
	host, guest := mounted(t)
	path := filepath.Join(guest, "f")
	writeFile(t, path, "x")
	check(t, os.Chmod(path, 0o600))
	named, other := user{uid: 4321, gid: 4321}, user{uid: 4322, gid: 4322}
	read := func() error { return openClose(path, unix.O_RDONLY, 0) }
	if err := named.try(read); err != unix.EACCES {
		t.Errorf("before: %v", err)
	}
	list := acl([3]uint32{aclUserObj, 6, aclNobody}, [3]uint32{aclUser, 4, 4321}, [3]uint32{aclGroupObj, 0, aclNobody},
		[3]uint32{aclMask, 4, aclNobody}, [3]uint32{aclOther, 0, aclNobody})
	for _, side := range []string{guest, host} {
		check(t, unix.Setxattr(filepath.Join(side, "f"), aclAccess, list, 0))
		named.do(t, read)
		if err := other.try(read); err != unix.EACCES {
			t.Errorf("another user reads: %v", err)
		}
		if st := stat(t, filepath.Join(host, "f")); st.Mode != unix.S_IFREG|0o640 {
			t.Errorf("mode %o", st.Mode)
		}
		check(t, unix.Removexattr(filepath.Join(side, "f"), aclAccess))
		check(t, os.Chmod(path, 0o600))
		if err := named.try(read); err != unix.EACCES {
			t.Errorf("after removal: %v", err)
		}
	}
}

// capability is security.capability, version 2, with CAP_NET_RAW permitted.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// TestSetIDBits go when somebody without CAP_FSETID writes, truncates or gives the file away, and with them the file's capabilities;
// root keeps the bits when it writes. Contract: A1.
func TestSetIDBits(t *testing.T) {
	host, guest := mounted(t)
	u := user{uid: 1000, gid: 1000}
	path := filepath.Join(guest, "f")
	write := func(flags int) func() error {
		return func() error {
			fd, err := unix.Open(path, unix.O_WRONLY|flags, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte("new"))
			return err
		}
	}
	for _, tt := range []struct {
		name string
		as   user
		do   func() error
		keep bool
	}{
		{"write", u, write(0), false},
		{"append", u, write(unix.O_APPEND), false},
		{"open with O_TRUNC", u, write(unix.O_TRUNC), false},
		{"truncate", u, func() error { return unix.Truncate(path, 1) }, false},
		{"fallocate", u, func() error {
			fd, err := unix.Open(path, unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Fallocate(fd, 0, 0, 8192)
		}, false},
		{"root's chown", user{}, func() error { return unix.Chown(path, 1000, 1000) }, false},
		{"root's write", user{}, write(0), true},
	} {
		for _, side := range []string{host, guest} { // who sets the bits does not matter
			writeFile(t, path, "text")
			check(t, os.Chown(path, 1000, 1000))
			check(t, unix.Setxattr(filepath.Join(side, "f"), "security.capability", capability, 0))
			check(t, unix.Chmod(filepath.Join(side, "f"), unix.S_ISUID|unix.S_ISGID|0o777))
			if tt.as.uid == 0 {
				check(t, tt.do())
			} else {
				tt.as.do(t, tt.do)
			}
			st := stat(t, filepath.Join(host, "f"))
			if kept := st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0; kept != tt.keep {
				t.Errorf("%s: mode %o", tt.name, st.Mode)
			}
			if g := stat(t, path); g.Mode != st.Mode {
				t.Errorf("%s: mode %o in the guest, %o on the host", tt.name, g.Mode, st.Mode)
			}
			if _, err := unix.Getxattr(filepath.Join(host, "f"), "security.capability", nil); err != unix.ENODATA {
				t.Errorf("%s: the capabilities are still there: %v", tt.name, err)
			}
			check(t, os.Remove(path))
		}
	}
}

// TestXAttrs: user, trusted and security.capability are the host's own attributes, of links too; the host's labels are neither shown
// nor changed. Contract: A2.
func TestXAttrs(t *testing.T) {
	host, guest := mounted(t)
	in, out := filepath.Join(guest, "f"), filepath.Join(host, "f")
	writeFile(t, in, "")
	for name, value := range map[string][]byte{"user.x": []byte("1"), "trusted.x": []byte("2"), "security.capability": capability} {
		check(t, unix.Setxattr(in, name, value, unix.XATTR_CREATE))
		if err := unix.Setxattr(in, name, value, unix.XATTR_CREATE); err != unix.EEXIST {
			t.Errorf("%s made twice: %v", name, err)
		}
		for _, path := range []string{in, out} {
			buf := make([]byte, 100)
			if n, err := unix.Getxattr(path, name, buf); err != nil || string(buf[:n]) != string(value) {
				t.Errorf("%s of %s: %q, %v", name, path, buf[:max(n, 0)], err)
			}
		}
		check(t, unix.Removexattr(out, name))
		if _, err := unix.Getxattr(in, name, nil); err != unix.ENODATA {
			t.Errorf("%s after the host removed it: %v", name, err)
		}
	}
	if err := unix.Setxattr(in, "user.none", nil, unix.XATTR_REPLACE); err != unix.ENODATA {
		t.Errorf("replacing nothing: %v", err)
	}
	if err := unix.Setxattr(in, "security.selinux", []byte("x"), 0); err != unix.EOPNOTSUPP {
		t.Errorf("a label: %v", err)
	}
	check(t, unix.Symlink("nowhere", filepath.Join(guest, "l")))
	check(t, unix.Lsetxattr(filepath.Join(guest, "l"), "trusted.l", []byte("link"), 0))
	if n, err := unix.Lgetxattr(filepath.Join(host, "l"), "trusted.l", make([]byte, 10)); err != nil || n != 4 {
		t.Errorf("an attribute of a link: %d bytes, %v", n, err)
	}
}
