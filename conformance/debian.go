package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/govmm/govmm/testhost/aptsource"
)

// fetchSource unpacks the upstream part of a Debian source package into dir, from the mirror that this machine's apt has for
// its Debian release. apt's own lists and caches are left alone.
func fetchSource(name, dir string) error {
	work, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	options, err := aptsource.Only(work, "deb-src", "")
	if err != nil {
		return err
	}
	options = append(options, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User=root")
	for _, args := range [][]string{{"update"}, {"source", "--download-only", "--tar-only", name}} {
		if err := run(work, "apt-get", append(append([]string{"-qq"}, options...), args...)...); err != nil {
			return err
		}
	}
	tars, err := filepath.Glob(filepath.Join(work, "*.orig.tar.*"))
	if err != nil || len(tars) != 1 {
		return fmt.Errorf("the source package %s has %d upstream tarballs", name, len(tars))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return run(dir, "tar", "-xf", tars[0], "--strip-components=1", "--no-same-owner")
}

// buildModule builds packages of a module, in a module of their own: the project's needs nothing of theirs. What it
// makes is static.
func buildModule(module, version, bin string, packages ...string) (source string, err error) {
	mod, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(mod)
	text := "module conformance\n\ngo 1.26\n\nrequire " + module + " " + version + "\n"
	if err := os.WriteFile(filepath.Join(mod, "go.mod"), []byte(text), 0o644); err != nil {
		return "", err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	args := []string{"build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", bin + "/"}
	for _, p := range packages {
		args = append(args, module+"/"+p)
	}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	build := exec.Command("go", args...)
	build.Dir, build.Env, build.Stderr = mod, env, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("go build of %s %s: %w", module, version, err)
	}
	list := exec.Command("go", "list", "-mod=mod", "-m", "-f", "{{.Dir}}", module)
	list.Dir, list.Env = mod, env
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("go list of %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// busyboxRoot makes a root file system of Debian's static busybox, without mount points, as images are.
func busyboxRoot(root string) error {
	for _, d := range []string{"bin", "dev", "etc", "home", "root", "tmp", "usr/bin", "usr/sbin", "var/run", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(root, d), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(path, filepath.Join(root, "bin", "busybox")); err != nil {
		return err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, a := range strings.Fields(string(applets)) {
		if a == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
		"group":  "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\nnogroup:x:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// debianTar links a tarball of a small Debian to a path. It is made once for all suites.
func debianTar(to string) error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	tar := filepath.Join(cache, "files", "debian-bookworm.tar")
	if _, err := os.Stat(tar); err == nil {
		return os.Link(tar, to)
	}
	dir, err := os.MkdirTemp(filepath.Dir(tar), "debian.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "root")
	if err := run("", "debootstrap", "--variant=minbase", "bookworm", root); err != nil {
		return err
	}
	if err := pack(root, filepath.Join(dir, "tar")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "tar"), tar); err != nil {
		return err
	}
	return os.Link(tar, to)
}

// pack makes a tarball of a root file system.
func pack(root, to string) error {
	return run("", "tar", "-C", root, "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--numeric-owner", "-cf", to, ".")
}
