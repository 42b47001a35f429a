package hostfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRenameFlags: RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT do on the host what they say, within one export; others
// are refused. Contract: P1.
func TestRenameFlags(t *testing.T) {
	host, guest := mounted(t)
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(guest, from), unix.AT_FDCWD, filepath.Join(guest, to), flags)
	}
	expect := func(name, want string) {
		t.Helper()
		if got := readFile(t, filepath.Join(host, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	writeFile(t, filepath.Join(guest, "a"), "a")
	writeFile(t, filepath.Join(guest, "b"), "b")
	if err := rename("a", "b", unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("NOREPLACE onto a file: %v", err)
	}
	check(t, rename("a", "c", unix.RENAME_NOREPLACE))
	expect("c", "a")
	check(t, rename("c", "b", unix.RENAME_EXCHANGE))
	expect("c", "b")
	expect("b", "a")
	if err := rename("b", "none", unix.RENAME_EXCHANGE); err != unix.ENOENT {
		t.Errorf("EXCHANGE with nothing: %v", err)
	}
	check(t, rename("b", "d", unix.RENAME_WHITEOUT))
	expect("d", "a")
	if st := stat(t, filepath.Join(host, "b")); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout: mode %o, device %d", st.Mode, st.Rdev)
	}
	if err := rename("d", "e", 1<<7); err != unix.EINVAL {
		t.Errorf("an unknown flag: %v", err)
	}
	check(t, os.Mkdir(filepath.Join(guest, "full"), 0o755))
	writeFile(t, filepath.Join(guest, "full/f"), "")
	check(t, os.Mkdir(filepath.Join(guest, "dir"), 0o755))
	if err := rename("dir", "full", 0); err != unix.ENOTEMPTY && err != unix.EEXIST {
		t.Errorf("onto a directory that is not empty: %v", err)
	}
	check(t, rename("full", "dir", 0))
	if got := names(t, filepath.Join(host, "dir")); !slices.Equal(got, []string{"f"}) {
		t.Errorf("the moved directory holds %q", got)
	}
}

// TestTmpfile: O_TMPFILE makes a file without a name, with the caller's owner and umask, that linkat can name unless O_EXCL forbids
// it. Contract: P2.
func TestTmpfile(t *testing.T) {
	host, guest := mounted(t)
	check(t, os.Chmod(host, 0o777))
	user{uid: 1000, gid: 1001, umask: 0o027}.do(t, func() error {
		fd, err := unix.Open(guest, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if left := names(t, host); left != nil {
			t.Errorf("names: %q", left)
		}
		if _, err := unix.Write(fd, []byte("text")); err != nil {
			return err
		}
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(guest, "named"), unix.AT_SYMLINK_FOLLOW)
	})
	st := stat(t, filepath.Join(host, "named"))
	if st.Uid != 1000 || st.Gid != 1001 || st.Mode != unix.S_IFREG|0o640 || readFile(t, filepath.Join(host, "named")) != "text" {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	fd, err := unix.Open(guest, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	check(t, err)
	defer unix.Close(fd)
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(guest, "two"), unix.AT_SYMLINK_FOLLOW)
	if err != unix.ENOENT {
		t.Errorf("a name for a file opened with O_EXCL: %v", err)
	}
}

// TestLinks: hard links name one file; the text of a symbolic link is kept as it is, and only the guest follows it. Contract: P3.
func TestLinks(t *testing.T) {
	host, guest := mounted(t)
	writeFile(t, filepath.Join(guest, "d/f"), "text")
	check(t, os.Link(filepath.Join(guest, "d/f"), filepath.Join(guest, "hard")))
	writeFile(t, filepath.Join(guest, "hard"), "changed")
	if got := readFile(t, filepath.Join(host, "d/f")); got != "changed" || stat(t, filepath.Join(guest, "hard")).Nlink != 2 {
		t.Errorf("%q, %d links", got, stat(t, filepath.Join(guest, "hard")).Nlink)
	}
	for i, target := range []string{"d/f", "/etc/passwd", "../../../../etc", strings.Repeat("long/", 800), "\xff\xfe\n"} {
		name := fmt.Sprint("link", i)
		check(t, os.Symlink(target, filepath.Join(guest, name)))
		for _, side := range []string{host, guest} {
			if got, err := os.Readlink(filepath.Join(side, name)); got != target || err != nil {
				t.Errorf("%q was kept as %q, %v", target, got, err)
			}
		}
	}
	check(t, os.Link(filepath.Join(guest, "link0"), filepath.Join(guest, "hardlink")))
	if st := stat(t, filepath.Join(host, "hardlink")); st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Nlink != 2 {
		t.Errorf("a hard link to a symbolic link: mode %o, %d links", st.Mode, st.Nlink)
	}
	if got := readFile(t, filepath.Join(guest, "link0")); got != "changed" {
		t.Errorf("through the link: %q", got)
	}
	if err := os.Link(filepath.Join(guest, "d"), filepath.Join(guest, "e")); err == nil {
		t.Error("a hard link to a directory")
	}
}

// TestFallocate: space is allocated, holes are punched and found, ranges zeroed, as the host's file system does it. Contract: P4.
func TestFallocate(t *testing.T) {
	host, guest := mounted(t)
	const block = 64 << 10
	writeFile(t, filepath.Join(guest, "f"), strings.Repeat("x", 3*block))
	f, err := os.OpenFile(filepath.Join(guest, "f"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	fd := int(f.Fd())
	check(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, block, block))
	want := strings.Repeat("x", block) + strings.Repeat("\x00", block) + strings.Repeat("x", block)
	for _, side := range []string{host, guest} {
		if got := readFile(t, filepath.Join(side, "f")); got != want {
			t.Errorf("%s: not the hole that was punched", side)
		}
	}
	for _, tt := range []struct {
		whence    int
		off, want int64
	}{{unix.SEEK_HOLE, 0, block}, {unix.SEEK_DATA, block, 2 * block}, {unix.SEEK_HOLE, 2 * block, 3 * block}} {
		if got, err := unix.Seek(fd, tt.off, tt.whence); got != tt.want || err != nil {
			t.Errorf("seek %d from %d: %d, %v", tt.whence, tt.off, got, err)
		}
	}
	if st := stat(t, filepath.Join(host, "f")); st.Size != 3*block || st.Blocks*512 >= 3*block {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	check(t, unix.Fallocate(fd, 0, 3*block, block))
	check(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 4*block, block))
	if st := stat(t, filepath.Join(guest, "f")); st.Size != 4*block || st.Blocks*512 < 4*block {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	// The guest's FUSE driver has no other modes (Linux 6.18): they are refused there.
	if err := unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, block); err != unix.EOPNOTSUPP {
		t.Errorf("COLLAPSE_RANGE: %v", err)
	}
}

// TestCopyFileRange copies on the host, also within one file, and the guest sees the result. Contract: P5.
func TestCopyFileRange(t *testing.T) {
	host, guest := mounted(t)
	data := strings.Repeat("0123456789abcdef", 20_000)
	writeFile(t, filepath.Join(guest, "from"), data)
	from, err := os.Open(filepath.Join(guest, "from"))
	check(t, err)
	defer from.Close()
	to, err := os.Create(filepath.Join(guest, "to"))
	check(t, err)
	defer to.Close()
	offIn, offOut := int64(5), int64(10)
	for left := 300_000; left > 0; {
		n, err := unix.CopyFileRange(int(from.Fd()), &offIn, int(to.Fd()), &offOut, left, 0)
		if err != nil || n == 0 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		left -= n
	}
	want := strings.Repeat("\x00", 10) + data[5:300_005]
	for _, side := range []string{host, guest} {
		if got := readFile(t, filepath.Join(side, "to")); got != want {
			t.Errorf("%s: %d bytes, not those of the source", side, len(got))
		}
	}
	if err := unix.Fchmod(int(to.Fd()), 0o444); err != nil {
		t.Error(err)
	}
	if _, err := unix.CopyFileRange(int(to.Fd()), nil, int(from.Fd()), nil, 1, 0); err != unix.EBADF {
		t.Errorf("into a file that is open for reading: %v", err)
	}
}

// TestAttributes: times to the nanosecond, also before 1970, and the time of birth. Contract: A4.
func TestAttributes(t *testing.T) {
	host, guest := mounted(t)
	path := filepath.Join(guest, "f")
	writeFile(t, path, "text")
	for _, when := range []time.Time{time.Unix(1, 2), time.Unix(-1000, 999_999_999), time.Unix(4_000_000_000, 123_456_789)} {
		check(t, os.Chtimes(path, when, when.Add(time.Nanosecond)))
		for _, side := range []string{host, guest} {
			st := stat(t, filepath.Join(side, "f"))
			a, m := time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix())
			if !a.Equal(when) || !m.Equal(when.Add(time.Nanosecond)) {
				t.Errorf("%s: set to %v, is %v and %v", side, when, a, m)
			}
		}
	}
	var in, out unix.Statx_t
	check(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &in))
	check(t, unix.Statx(unix.AT_FDCWD, filepath.Join(host, "f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &out))
	if !kernelAtLeast(t, 6, 6) { // FUSE_STATX came with it: before, nobody asks for the time of birth
		in.Btime = out.Btime
	} else if in.Mask&unix.STATX_BTIME == 0 {
		t.Error("statx in the guest tells no time of birth")
	}
	if in.Btime != out.Btime || in.Ino != out.Ino || in.Blocks != out.Blocks || in.Nlink != out.Nlink {
		t.Errorf("statx in the guest: %+v, on the host: %+v", in, out)
	}
	check(t, os.Chmod(path, 0o4711))
	if st := stat(t, filepath.Join(host, "f")); st.Mode&0o7777 != 0o711 && st.Mode&0o7777 != 0o4711 {
		t.Errorf("mode %o", st.Mode)
	}
}

func kernelAtLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	check(t, unix.Uname(&u))
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

// TestBigDirectory: every name is listed once, however large the directory is, and while other names come and go. What telldir
// returned stays good. Contract: P6.
func TestBigDirectory(t *testing.T) {
	host, guest := mounted(t)
	const files = 5000
	dir := filepath.Join(host, "d")
	check(t, os.Mkdir(dir, 0o755))
	for i := range files {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%s-%d", strings.Repeat("n", i%200), i)), "")
	}
	want := names(t, dir)
	if got := names(t, filepath.Join(guest, "d")); !slices.Equal(got, want) {
		t.Errorf("%d names of %d", len(got), len(want))
	}
	f, err := os.Open(filepath.Join(guest, "d"))
	check(t, err)
	defer f.Close()
	seen := map[string]int{}
	for i := 0; ; i++ {
		list, _ := f.Readdirnames(100)
		for _, name := range list {
			seen[name]++
		}
		if len(list) == 0 {
			break
		}
		check(t, os.Remove(filepath.Join(dir, list[0]))) // seen already
		writeFile(t, filepath.Join(dir, fmt.Sprint("new-", i)), "")
	}
	for _, name := range want {
		if seen[name] != 1 {
			t.Errorf("%s was listed %d times", name, seen[name])
		}
	}
	testTelldir(t, int(f.Fd()))
}

// testTelldir goes back to cookies of a directory.
func testTelldir(t *testing.T, fd int) {
	t.Helper()
	buf := make([]byte, 4096)
	read := func(off int64) ([]string, int64) {
		_, err := unix.Seek(fd, off, unix.SEEK_SET)
		check(t, err)
		n, err := unix.Getdents(fd, buf)
		check(t, err)
		_, _, list := unix.ParseDirent(buf[:n], -1, nil)
		next, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		check(t, err)
		return list, next
	}
	_, second := read(0)
	want, third := read(second)
	for _, off := range []int64{0, third, third, 0} {
		read(off)
		if got, _ := read(second); !slices.Equal(got, want) {
			t.Fatalf("back at cookie %d: %.3q, want %.3q", second, got, want)
		}
	}
}

// TestStatFS is the host's: df and programs that look for room get its answer. Contract: P7.
func TestStatFS(t *testing.T) {
	host, guest := mounted(t)
	var in, out unix.Statfs_t
	check(t, unix.Statfs(guest, &in))
	check(t, unix.Statfs(host, &out))
	if in.Blocks != out.Blocks || in.Files != out.Files || in.Bsize != out.Bsize || in.Namelen != out.Namelen {
		t.Errorf("in the guest %+v, on the host %+v", in, out)
	}
}

// TestIoctl: none reaches a file. Contract: N2.
func TestIoctl(t *testing.T) {
	_, guest := mounted(t)
	f, err := os.Create(filepath.Join(guest, "f"))
	check(t, err)
	defer f.Close()
	if _, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err != unix.ENOTTY {
		t.Errorf("FS_IOC_GETFLAGS: %v", err)
	}
	if err := unix.IoctlFileClone(int(f.Fd()), int(f.Fd())); err != unix.ENOTTY && err != unix.EOPNOTSUPP {
		t.Errorf("FICLONE: %v", err)
	}
}
