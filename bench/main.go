// bench measures how a container starts: instructions (the test host's clock under icount) and wall clock, side by side
// with the tools that do the same job, in one run. Both ends of every interval are named in the tables; the raw samples
// are kept in build/bench.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	inside := flag.String("inside", "", "measure, in the test host, with the files of this directory")
	runs := flag.Int("runs", 5, "samples of each subject")
	wall := flag.Bool("wall", true, "measure wall clock too")
	flag.Parse()
	var err error
	if *inside != "" {
		err = measure(*inside, *runs)
	} else {
		err = bench(*runs, *wall)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// out is where samples and tables go.
const out = "build/bench"

// bench prepares the files, runs the measurements in the test host and prints the tables.
func bench(runs int, wall bool) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := prepare()
	if err != nil {
		return err
	}
	if err := report("instructions (icount, one CPU; 1 ns of the test host's clock is one instruction)", "icount", runs, dir, "--icount"); err != nil {
		return err
	}
	if !wall {
		return nil
	}
	return report("wall clock inside the test host (two emulated CPUs; indicative only)", "wall", runs, dir, "--smp", "2")
}

// prepare gathers everything that is measured in one directory, which the measuring process copies to a tmpfs.
func prepare() (string, error) {
	dir, err := filepath.Abs(filepath.Join(out, "files"))
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, c := range [][]string{
		{"go", "build", "-trimpath", "-o", filepath.Join(dir, "bench"), "./bench"},
		{"go", "run", "./guestkernel/build", "-bare", "-o", filepath.Join(dir, "vmlinux"), "-initrd", filepath.Join(dir, "initrd.cpio")},
		{"cp", "bin/govmm", "bin/govmm-run", dir},
	} {
		if err := run(c[0], c[1:]...); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// report measures in one boot of the test host and prints what came out.
func report(title, name string, runs int, dir string, hostFlags ...string) error {
	args := append([]string{"run", "./testhost"}, hostFlags...)
	args = append(args, "--", filepath.Join(dir, "bench"), "-inside", dir, "-runs", fmt.Sprint(runs))
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("test host: %w", err)
	}
	if err := os.WriteFile(filepath.Join(out, name+".json"), b, 0o644); err != nil {
		return err
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	return r.print(os.Stdout, title)
}
