package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Where the programs come from. Its commit is the newest one that the Go module proxy has.
const (
	toolsModule  = "github.com/opencontainers/runtime-tools"
	toolsVersion = "v0.9.1-0.20260316125833-8a4db579f5c8"
)

var runtimeTools = &suite{
	name:    "runtime-tools",
	version: toolsVersion,
	about:   "The Open Container Initiative's validation programs, all 58; those about cgroups, which know version 1 only, once more on a machine with version 1.",
	more:    []string{"crun"},
	prepare: prepareTools,
	units:   toolsUnits,
	setup:   setupTools,
	run:     runTool,
	fresh:   func(unit string) bool { return strings.HasSuffix(unit, onVersion1) },
}

func prepareTools(dir string) error {
	src, err := buildModule(toolsModule, toolsVersion, filepath.Join(dir, "bin"), "validation/...", "cmd/runtimetest")
	if err != nil {
		return err
	}
	return copyFile(filepath.Join(src, toolsRoot), filepath.Join(dir, toolsRoot))
}

const toolsRoot = "rootfs-amd64.tar.gz"

func toolsUnits(files string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(files, "bin"))
	if err != nil {
		return nil, err
	}
	var units, again []string
	for _, e := range entries {
		if e.Name() == "runtimetest" {
			continue
		}
		units = append(units, e.Name())
		if strings.HasPrefix(e.Name(), "linux_cgroups_") || strings.HasSuffix(e.Name(), "_resources") {
			again = append(again, e.Name()+onVersion1)
		}
	}
	return append(units, again...), nil
}

// onVersion1 marks programs that are run once more, on cgroup version 1: they know no other. What other containers have
// left of version 2 keeps its controllers busy, and there is no way back.
const onVersion1 = ".cgroup1"

func setupTools(w *workplace) error {
	if err := copyFile(filepath.Join(w.files, toolsRoot), w.path(toolsRoot)); err != nil {
		return err
	}
	return copyFile(filepath.Join(w.files, "bin", "runtimetest"), w.path("runtimetest"))
}

func runTool(w *workplace, unit string) ([]Assertion, string, error) {
	unit, v1 := strings.CutSuffix(unit, onVersion1)
	if v1 {
		if err := useVersion1(); err != nil {
			return nil, "", err
		}
	}
	if err := copyFile(filepath.Join(w.files, "bin", unit), w.path("program")); err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(w.path("runtime"), []byte(toolsWrapper(w.rt, unit)), 0o755); err != nil {
		return nil, "", err
	}
	out, errOut, ended, err := w.command(unitTime, []string{"RUNTIME=" + w.path("runtime")}, w.path("program"))
	all, _ := parseTAP(out)
	if ended != "" {
		if said := toolSaid(errOut); said != "" {
			ended += ": " + said
		}
	}
	return all, ended, err
}

// toolsWrapper is the script that stands for the runtime: crun 1.8 refuses configs of runtime-spec 1.3, though it runs
// them; and one program sends a signal to a shell that may not have come to its trap, where everything is emulated.
func toolsWrapper(rt *runtimeInfo, unit string) string {
	s := "#!/bin/sh\n"
	if rt.Name == "crun" {
		s += `prev=
for arg; do
	[ "$prev" != --bundle ] || sed -i 's/"ociVersion": *"[^"]*"/"ociVersion": "1.0.2"/' "$arg/config.json"
	prev=$arg
done
`
	}
	if unit == "killsig" {
		s += "[ \"$1\" != kill ] || sleep 2\n"
	}
	return s + "exec " + rt.path + " \"$@\"\n"
}

var logLine = regexp.MustCompile(`level=error msg="?(.*?)"?$`)

// toolSaid is what a runtime or a program said last, without the time and the program's own "exit status".
func toolSaid(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "panic:") {
			return line
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if m := logLine.FindStringSubmatch(line); m != nil {
			return strings.ReplaceAll(m[1], `\"`, `"`)
		}
		if line != "" && !strings.HasPrefix(line, "exit status") && !strings.HasPrefix(line, "failed to ") {
			return line
		}
	}
	return ""
}

func copyFile(from, to string) error {
	_, err := copyHashed(from, to)
	return err
}
