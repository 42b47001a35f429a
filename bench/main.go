// bench measures how a container starts, or what its network costs: instructions (the test host's clock under icount) and wall clock, side by side
// with the tools that do the same job, in one run. Both ends of every interval are named in the tables; the raw samples
// are kept in build/bench. docs/benchmarks.md tells how to read them.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	inside := flag.String("inside", "", "measure, in the test host, with the files of this directory")
	runs := flag.Int("runs", 5, "samples of each subject")
	wall := flag.Bool("wall", true, "measure wall clock too")
	flag.DurationVar(&patience, "patience", patience, "how long a run may take inside, by the test host's clock")
	only := flag.String("only", "", "the subjects to measure, by name, separated by commas (default: all)")
	show := flag.String("show", "", "print the tables of this earlier result and draw its timeline, measure nothing")
	networks := flag.Bool("net", false, "measure networks instead of starts")
	loads := flag.String("loads", "", "the loads of -net to measure, by a part of their names (default: all)")
	scale := flag.Int("scale", 1, "how much work each load of -net is")
	server := flag.String("serve", "", "take part in loads of -net at this address")
	load := flag.String("load", "", "be the client of this load of -net, -runs times, with the server at -connect")
	connect := flag.String("connect", "", "where -load finds the server")
	flag.Parse()
	var err error
	switch {
	case *server != "":
		err = serve(*server)
	case *load != "":
		err = runClient(os.Stdout, *load, *connect, *runs)
	case *networks && *inside != "":
		err = measureNet(*inside, *runs, *scale, *only, *loads)
	case *networks:
		err = benchNet(*runs, *wall, *only, *loads)
	case *inside != "":
		err = measure(*inside, *runs, *only)
	case *show != "":
		err = showResult(*show)
	default:
		err = bench(*runs, *wall, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// out is where samples and the picture go.
const out = "build/bench"

// bench prepares the files, runs the measurements in the test host and prints the tables.
func bench(runs int, wall bool, only string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, meta, err := prepare()
	if err != nil {
		return err
	}
	args := []string{filepath.Join(dir, "bench"), "-inside", dir, "-runs", fmt.Sprint(runs), "-only", only}
	// Half a second is 500 million instructions, which take some ten seconds to emulate.
	if err := boot(clockInstructions, meta, append(args, "-patience", "500ms"), "--icount"); err != nil || !wall {
		return err
	}
	return boot(clockWall, meta, args, "--smp", "2")
}

// boot measures in one boot of the test host, keeps what came out and shows it.
func boot(clock string, meta Meta, args []string, hostFlags ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"run", "./testhost"}, hostFlags, []string{"--"}, args)...)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("test host: %w", err)
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("the test host's answer: %w", err)
	}
	meta.Tools = r.Meta.Tools
	r.Meta, r.Clock = meta, clock
	if b, err = json.MarshalIndent(&r, "", " "); err != nil {
		return err
	}
	path := filepath.Join(out, clock+".json")
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return showResult(path)
}

// showResult prints the tables of a kept result; the one in instructions gives the picture, too.
func showResult(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.HasPrefix(filepath.Base(path), "net-") {
		return showNet(path, b)
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\nraw samples: %s\n", path)
	if r.Clock != clockInstructions {
		return nil
	}
	picture := strings.TrimSuffix(path, ".json") + ".svg"
	if filepath.Dir(path) == out {
		picture = filepath.Join(out, "timeline.svg")
	}
	if err := os.WriteFile(picture, []byte(r.timeline()), 0o644); err != nil {
		return err
	}
	fmt.Printf("picture: %s\n", picture)
	return nil
}
