// Command engines builds container engines that are newer than Debian's, and what is needed to drive them, from their sources in
// the Go module proxy. Each is built once and kept in the user's cache. It prints their directories, as PATH has them.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	var dirs []string
	for _, s := range sources {
		dir, err := s.cached()
		if err != nil {
			fmt.Fprintf(os.Stderr, "engines: %s %s: %v\n", s.module, s.version, err)
			os.Exit(1)
		}
		dirs = append(dirs, dir)
	}
	fmt.Println(strings.Join(dirs, ":"))
}

// cached returns the directory with the programs, which are built if it is not there.
func (s *source) cached() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Append(nil, s.module, s.version, s.packages, s.tags, s.cgo, s.set, s.edits))
	dir := filepath.Join(base, "govmm", "engines", fmt.Sprintf("%s-%s-%.4x", filepath.Base(filepath.Join(s.module, s.packages[0])), s.version, key))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	fmt.Fprintf(os.Stderr, "building %s %s\n", s.module, s.version)
	if err := s.build(work); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(work, "bin"), dir)
}

// build builds the programs in work/bin. The module is made the main one, so that it gets the versions that its authors use.
func (s *source) build(work string) error {
	from, err := download(work, s.module+"@"+s.version)
	if err != nil {
		return err
	}
	src := filepath.Join(work, "src")
	if err := os.CopyFS(src, os.DirFS(from)); err != nil {
		return err
	}
	for _, e := range s.edits {
		if out, err := e.command(src).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", e, err, out)
		}
	}
	flags := "-s -w"
	for _, variable := range s.set {
		flags += " -X " + variable
	}
	args := []string{"build", "-mod=mod", "-trimpath", "-buildvcs=false", "-tags=" + s.tags, "-ldflags=" + flags, "-o", filepath.Join(work, "bin") + "/"}
	for _, p := range s.packages {
		args = append(args, "./"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = src, os.Stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if s.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	return cmd.Run()
}

// download returns the directory of a module's source, in the module cache.
func download(work, module string) (string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = work, append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var got struct{ Dir, Error string }
	if wrong := json.Unmarshal(out, &got); wrong != nil {
		return "", errors.Join(err, wrong)
	}
	if got.Error != "" {
		return "", errors.New(got.Error)
	}
	return got.Dir, err
}
