package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// command runs a unit's program in the workplace, to its end or to the end of its time, and returns its output and, unless it ended
// well, how it ended. Output goes to files: containers outlive the program and hold it, and a pipe would not end.
func (w *workplace) command(limit time.Duration, env []string, argv ...string) (stdout, stderr, ended string, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), append([]string{"TMPDIR=" + w.path("tmp")}, env...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	out, err := os.Create(w.path("stdout"))
	if err != nil {
		return "", "", "", err
	}
	defer out.Close()
	errOut, err := os.Create(w.path("stderr"))
	if err != nil {
		return "", "", "", err
	}
	defer errOut.Close()
	cmd.Stdout, cmd.Stderr = out, errOut
	if err := cmd.Start(); err != nil {
		return "", "", "", err
	}
	late := time.AfterFunc(limit, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err = cmd.Wait()
	stopped := late.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", "", "", err
	}
	o, err1 := os.ReadFile(w.path("stdout"))
	e, err2 := os.ReadFile(w.path("stderr"))
	if !stopped {
		ended = fmt.Sprintf("not done after %v", limit)
	} else if exit != nil {
		ended = exit.Error()
	}
	return string(o), string(e), ended, errors.Join(err1, err2)
}

// lastLine is the last line that says something.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
