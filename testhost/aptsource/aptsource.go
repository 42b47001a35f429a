// Package aptsource has Debian's package tools look at one source alone, and leave what the machine has configured as it is.
package aptsource

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Only returns apt options that use one source alone: packages of kind deb or deb-src, of this Debian release with a suffix such as
// "-backports", from the mirror that is configured for the release itself. The lists are kept in dir.
func Only(dir, kind, suffix string) ([]string, error) {
	cmd := exec.Command("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)", "Created-By: Packages")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get indextargets: %w", err)
	}
	release, mirror, err := find(string(out))
	if err != nil {
		return nil, err
	}
	list, lists := filepath.Join(dir, "apt.list"), filepath.Join(dir, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return nil, err
	}
	source := fmt.Sprintf("%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s%s main\n", kind, mirror, release, suffix)
	return []string{"-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::State::Lists=" + lists},
		os.WriteFile(list, []byte(source), 0o644)
}

// find takes the release itself out of apt's index targets, among which are its updates.
func find(targets string) (release, mirror string, err error) {
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == "Debian" && f[1] == "Debian" && !strings.Contains(f[2], "-") {
			return f[2], f[3], nil
		}
	}
	return "", "", errors.New("apt's lists name no Debian release: run apt-get update")
}
