package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// checkConfig is moby's script that says whether a kernel has what containers need. Each runtime's answer is about the
// kernel that its containers run on: the machine's, or the guest's.
var checkConfig = &suite{
	name:    "check-config",
	version: "20.10.24",
	about:   "moby's contrib/check-config.sh, run in a container: about the machine's kernel under runc and crun, about the guest's under govmm-run.",
	prepare: func(dir string) error {
		src, err := os.MkdirTemp("", "conformance-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(src)
		if err := fetchSource("docker.io", src); err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(src, "*", "engine/contrib", checkScript))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("the source package has no engine/contrib/%s", checkScript)
		}
		if err := copyFile(found[0], filepath.Join(dir, checkScript)); err != nil {
			return err
		}
		return debianTar(filepath.Join(dir, "debian.tar"))
	},
	units:    func(string) ([]string, error) { return []string{"check-config"}, nil },
	setup:    setupCheckConfig,
	run:      runCheckConfig,
	packages: [][2]string{{"debootstrap", "debootstrap"}},
}

const checkScript = "check-config.sh"

func setupCheckConfig(w *workplace) error {
	root := w.path("rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := run("", "tar", "-C", root, "-xf", filepath.Join(w.files, "debian.tar")); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(w.files, checkScript), filepath.Join(root, checkScript)); err != nil {
		return err
	}
	// Debian's kernels keep their configuration beside them; in the test host that is where its kernel was unpacked.
	release := kernel()
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	for _, dir := range []string{"/boot", filepath.Join(cache, "govmm/testhost/kernel/boot")} {
		from := filepath.Join(dir, "config-"+release)
		if _, err := os.Stat(from); err == nil {
			return copyFile(from, filepath.Join(root, "boot", "config-"+release))
		}
	}
	return nil
}

func runCheckConfig(w *workplace, _ string) ([]Assertion, string, error) {
	if err := w.config("/bin/bash", "/"+checkScript); err != nil {
		return nil, "", err
	}
	out, errOut, ended, err := w.command(unitTime, nil, w.rt.path, "run", "check-config")
	if err != nil {
		return nil, "", err
	}
	all := parseCheckConfig(out)
	if len(all) > 0 {
		return all, "", nil // the status says that something is missing
	}
	return nil, strings.TrimSpace("no answer " + ended + " " + lastLine(errOut)), nil
}

// config writes a config.json for args into the workplace, from what the runtime's own spec command makes.
func (w *workplace) config(args ...string) error {
	path := w.path("config.json")
	_ = os.Remove(path)
	if err := run(w.dir, w.rt.path, "spec"); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	p, ok := c["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s spec makes a config without a process", w.rt.Name)
	}
	p["args"], p["terminal"] = args, false
	if b, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

var (
	colours   = regexp.MustCompile("\x1b\\[[0-9;]*m")
	checkLine = regexp.MustCompile(`^ *- (\S+(?: \S+)?): (.+)$`)
)

// parseCheckConfig reads lines such as "- CONFIG_NAMESPACES: enabled".
func parseCheckConfig(text string) (all []Assertion) {
	for line := range strings.Lines(text) {
		m := checkLine.FindStringSubmatch(strings.TrimRight(colours.ReplaceAllString(line, ""), "\r\n"))
		if m == nil {
			continue
		}
		a := Assertion{Name: m[1], Outcome: passed}
		if m[2] == "missing" || m[1] == "CONFIG_LEGACY_VSYSCALL_NONE" || strings.HasPrefix(m[2], "nonexistent") || strings.HasPrefix(m[2], "single mountpoint") {
			a.Outcome, a.Detail = failed, m[2]
		}
		all = append(all, a)
	}
	return all
}
