// Package packaging has what is installed besides the programs, and the tests of make install and make deb.
package packaging

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/govmm/govmm/testhost/need"
)

// needBuilt ends the test where the programs have not been built.
func needBuilt(t *testing.T) {
	t.Helper()
	for _, name := range []string{"govmm-run", "govmm"} {
		if _, err := os.Stat(filepath.Join("../bin", name)); err != nil {
			need.Lacking(t, need.Programs, "%v: run make build first", err)
		}
	}
}

// run runs a program of this machine in the project's folder, with further variables, and returns its standard output.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "..", append(os.Environ(), env...), &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out.String(), errOut.String())
	}
	return out.String()
}

// below lists the files below a folder, each with its mode.
func below(t *testing.T, root string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		names = append(names, info.Mode().String()+" "+strings.TrimPrefix(path, root))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDebianVersion writes what git describes as Debian does, so that later commits sort later.
func TestDebianVersion(t *testing.T) {
	dpkg := need.Program(t, "dpkg", "dpkg")
	last := ""
	for _, tt := range []struct{ describe, want string }{
		{"0123456789", "0~git20260102.0123456789-1"},
		{"v0.9.0-0-g0123456789", "0.9.0-1"},
		{"v1.2.0-rc1-0-g0123456789", "1.2.0~rc1-1"},
		{"v1.2.0-rc1-4-g0123456789", "1.2.0~rc1+4.g0123456789-1"},
		{"v1.2.0-rc1-4-g0123456789-dirty", "1.2.0~rc1+4.g0123456789+dirty-1"},
		{"v1.2.0-0-g0123456789", "1.2.0-1"},
		{"v1.2.0-10-g0123456789", "1.2.0+10.g0123456789-1"},
		{"v1.2.1-0-g0123456789", "1.2.1-1"},
	} {
		got := strings.TrimSpace(run(t, nil, "scripts/debian-version", tt.describe, "20260102"))
		if got != tt.want {
			t.Errorf("%s: version %s, want %s", tt.describe, got, tt.want)
		}
		run(t, nil, dpkg, "--validate-version", got)
		if last != "" {
			run(t, nil, dpkg, "--compare-versions", last, "lt", got)
		}
		last = got
	}
}

// TestInstall installs below /usr/local of another root.
func TestInstall(t *testing.T) {
	needBuilt(t)
	dir := t.TempDir()
	run(t, nil, "scripts/man")
	run(t, nil, "scripts/install", "/usr/local", dir)
	got := slices.DeleteFunc(below(t, dir+"/usr/local/"), func(name string) bool { return strings.Contains(name, "man8/govmm-run-") })
	want := []string{
		"-rwxr-xr-x bin/govmm", "-rwxr-xr-x bin/govmm-run",
		"-rw-r--r-- share/bash-completion/completions/govmm", "-rw-r--r-- share/bash-completion/completions/govmm-run",
		"-rw-r--r-- share/fish/vendor_completions.d/govmm-run.fish", "-rw-r--r-- share/fish/vendor_completions.d/govmm.fish",
		"-rw-r--r-- share/govmm/containerd-v2.toml", "-rw-r--r-- share/govmm/containerd-v3.toml", "-rw-r--r-- share/govmm/docker.json", "-rw-r--r-- share/govmm/podman.conf",
		"-rw-r--r-- share/man/man8/govmm-boot.8", "-rw-r--r-- share/man/man8/govmm-run.8", "-rw-r--r-- share/man/man8/govmm.8",
		"-rw-r--r-- share/zsh/site-functions/_govmm", "-rw-r--r-- share/zsh/site-functions/_govmm-run",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("installed (+), to be (-):\n%s", diff)
	}
	for _, name := range []string{"podman.conf", "docker.json", "containerd-v2.toml", "containerd-v3.toml"} {
		text := read(t, filepath.Join(dir, "usr/local/share/govmm", name))
		if !strings.Contains(text, `"/usr/local/bin/govmm-run"`) || strings.Contains(text, "@") {
			t.Errorf("%s does not name the program where it is:\n%s", name, text)
		}
	}
}

// TestManPages has every command's page, and groff say nothing about it.
func TestManPages(t *testing.T) {
	man := need.Program(t, "man", "man-db")
	run(t, nil, "scripts/man")
	for _, name := range []string{"govmm", "govmm-boot", "govmm-run", "govmm-run-create", "govmm-run-exec", "govmm-run-update"} {
		page := "build/man/" + name + ".8"
		var out, errOut bytes.Buffer
		cmd := exec.Command(man, "--warnings", "-E", "UTF-8", "-l", page)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "..", append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING="), &out, &errOut
		if err := cmd.Run(); err != nil || errOut.Len() > 0 {
			t.Errorf("%s: %v, %s", page, err, errOut.String())
		}
		words := strings.Join(strings.Fields(out.String()), " ") // justified
		if !strings.HasPrefix(words, strings.ToUpper(name)+"(8)") || !strings.Contains(words, " NAME "+name+" - ") {
			t.Errorf("%s reads: %.300s", page, words)
		}
	}
}

// TestCompletion has each shell load what was installed for it, and bash complete with it.
func TestCompletion(t *testing.T) {
	needBuilt(t)
	dir := t.TempDir()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		path := filepath.Join(dir, shell)
		text := run(t, nil, "bin/govmm-run", "completion", shell)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath(shell); err == nil {
			run(t, nil, shell, "-n", path)
		}
	}
	script := `. "$1"; COMP_WORDS=(govmm-run pau); COMP_CWORD=1; COMP_LINE="govmm-run pau"; COMP_POINT=13
		_init_completion() { cur=pau prev=govmm-run words=("${COMP_WORDS[@]}") cword=1; }; _get_comp_words_by_ref() { _init_completion; }
		__start_govmm-run; echo "${COMPREPLY[@]}"`
	path := "PATH=" + filepath.Join(absolute(t, ".."), "bin") + ":" + os.Getenv("PATH")
	if out := run(t, []string{path}, "bash", "-c", script, "bash", filepath.Join(dir, "bash")); strings.TrimSpace(out) != "pause" {
		t.Errorf("bash completes pau to %q", out)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDeb makes the package twice, by two users as it were, and looks into it.
func TestDeb(t *testing.T) {
	needBuilt(t)
	dpkg := need.Program(t, "dpkg-deb", "dpkg")
	run(t, nil, "scripts/man")
	build := func(env ...string) string {
		return strings.TrimSpace(run(t, append(env, "XZ_LEVEL=0"), "sh", "-c", "umask $UMASK; scripts/deb "+t.TempDir()))
	}
	deb, again := build("UMASK=022", "TZ=UTC"), build("UMASK=077", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8")
	if read(t, deb) != read(t, again) {
		t.Error("the same tree gives two different packages")
	}

	root := t.TempDir()
	run(t, nil, dpkg, "-x", deb, root)
	for _, name := range []string{"govmm-run", "govmm"} {
		out, want := run(t, nil, filepath.Join(root, "usr/bin", name), "--version"), run(t, nil, "bin/"+name, "--version")
		if out != want || !strings.HasPrefix(out, name+" version ") {
			t.Errorf("%s --version prints %q, and %q where it was built", name, out, want)
		}
	}
	if got := strings.TrimSpace(run(t, nil, dpkg, "-f", deb, "Version")); got != strings.TrimSpace(run(t, nil, "scripts/debian-version")) {
		t.Errorf("the package's version is %s", got)
	}
	for _, line := range strings.Split(strings.TrimSpace(run(t, nil, dpkg, "-c", deb)), "\n") {
		if f := strings.Fields(line); len(f) < 6 || f[1] != "root/root" {
			t.Errorf("not root's: %s", line)
		}
	}
	checksums(t, deb, root)
	licences := run(t, nil, "zcat", filepath.Join(root, "usr/share/doc/govmm/licences.gz"))
	for _, text := range []string{"The Go Authors", "golang.org/x/sys v", "github.com/spf13/cobra v"} {
		if !strings.Contains(licences, text) {
			t.Errorf("licences.gz does not have %q", text)
		}
	}
	lintian(t, deb)
}

// checksums holds the package's md5sums against its files.
func checksums(t *testing.T, deb, root string) {
	t.Helper()
	control := t.TempDir()
	run(t, nil, "dpkg-deb", "-e", deb, control)
	out := run(t, nil, "sh", "-c", "cd "+root+" && md5sum --check --strict "+control+"/md5sums")
	if got, want := strings.Count(out, ": OK\n"), len(below(t, root)); got != want {
		t.Errorf("md5sums has %d files of %d", got, want)
	}
}

// lintian has Debian's judge say nothing.
func lintian(t *testing.T, deb string) {
	t.Run("lintian", func(t *testing.T) {
		if _, err := exec.LookPath("lintian"); err != nil {
			need.Lacking(t, need.Lintian, "lintian: apt-get install lintian")
		}
		if out := run(t, nil, "lintian", "--allow-root", "--fail-on", "error,warning", deb); out != "" {
			t.Error(out)
		}
	})
}
