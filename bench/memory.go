package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// memory starts a container that sleeps and reads what its monitor holds.
func memory() Memory {
	var m Memory
	err := edit(configPath, `"/bin/busybox", "echo", "HELLO"`, `"/bin/busybox", "sleep", "1000"`)
	if err != nil {
		return Memory{Error: err.Error()}
	}
	for range maxRepeats {
		if m, err = measureMemory(); err == nil {
			return m
		}
	}
	m.Error = err.Error()
	return m
}

func measureMemory() (m Memory, err error) {
	// No pipe: the monitor would hold it open, and its reader wait for as long as the container lives.
	cmd := inRoot("/govmm-run", "run", "--detach", "--pid-file", "/pid", "--bundle", "/bundle", "mem")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return m, err
	}
	timer := time.AfterFunc(patience, func() { killAll(cmd.Process.Pid, "mem") })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return m, fmt.Errorf("run: %w", err)
	}
	defer func() { _ = inRoot("/govmm-run", "delete", "--force", "mem").Run() }()
	pid, err := os.ReadFile(rootDir + "/pid")
	if err != nil {
		return m, err
	}
	b, err := os.ReadFile("/proc/" + string(pid) + "/smaps")
	if err != nil {
		return m, err
	}
	return parseSmaps(string(b))
}

// parseSmaps adds up the proportional set sizes. The guest's RAM is the largest mapping that is backed by anything: Go
// reserves larger ones, which are empty.
func parseSmaps(text string) (Memory, error) {
	var m Memory
	var size int64
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Size:":
			size = n
		case "Pss:":
			m.PSS += n
			if n > 0 && size > m.GuestSize {
				m.GuestSize, m.GuestRAM = size, n
			}
		}
	}
	if m.PSS == 0 {
		return m, errors.New("the monitor has no mappings: it ended")
	}
	return m, nil
}
