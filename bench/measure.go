package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	bareCmdline = "console=ttyS0 panic=-1 reboot=k loglevel=4"
	groupVM     = "bare guest (128 MiB, 1 vCPU): from fork to HELLO on stdout, from fork to exit"
	groupRun    = "busybox container: from fork to HELLO on stdout, from fork to exit"

	groupNet = "busybox container with an interface, the end of a veth with an IPv4 address: from fork to HELLO on stdout, from fork to exit"

	nameBoot = "govmm boot"
	nameRun  = "govmm-run"
)

// measure runs the subjects on files in a tmpfs and prints the result as JSON.
func measure(from string, runs int, only string) error {
	if err := makeRoot(from); err != nil {
		return err
	}
	if err := bundle(); err != nil {
		return err
	}
	r := Result{Meta: Meta{Tools: map[string]string{
		"QEMU": line("qemu-system-x86_64", "--version"), "crun": line("crun", "--version"), "runc": line("runc", "--version"),
		"test host's kernel": line("uname", "-rv"),
	}}}
	if err := networkBundle(); err != nil {
		return err
	}
	for _, s := range subjects() {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.Name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", s.Name)
		s.measure(runs)
		r.Subjects = append(r.Subjects, s)
	}
	if only == "" || strings.Contains(only, nameRun) {
		fmt.Fprintln(os.Stderr, "measuring memory")
		r.Memory = memory()
	}
	return json.NewEncoder(os.Stdout).Encode(&r)
}

func subjects() []Subject {
	qemu, crun, runc := installed("qemu-system-x86_64"), installed("crun"), installed("runc")
	return []Subject{
		{Group: groupVM, Name: nameBoot, Guest: &Guest{}, Command: []string{
			"/govmm", "boot", "--kernel", "/vmlinux", "--initrd", "/initrd.cpio", "--memory", "128M", "--cmdline", bareCmdline}},
		{Group: groupVM, Name: "QEMU microvm", Guest: &Guest{}, Command: []string{
			qemu, "-bios", "qboot.rom", "-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off", "-cpu", "host", "-smp", "1", "-m", "128",
			"-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", "/vmlinux", "-initrd", "/initrd.cpio",
			"-append", strings.Replace(bareCmdline, "reboot=k", "reboot=t", 1)}},
		{Group: groupRun, Name: nameRun, Guest: &Guest{}, Command: []string{"/govmm-run", "run", "--phases=lines", "--bundle", "/bundle", "bench"}},
		{Group: groupRun, Name: "crun", Command: []string{crun, "--cgroup-manager=disabled", "run", "--bundle", "/bundle", "bench"}},
		{Group: groupRun, Name: "runc", Command: []string{runc, "run", "--bundle", "/bundle", "bench"}},
		{Group: groupNet, Name: "govmm-run networked", Guest: &Guest{}, Command: []string{"/govmm-run", "run", "--phases=lines", "--bundle", "/network", "bench"}},
		{Group: groupNet, Name: "runc networked", Command: []string{runc, "run", "--bundle", "/network", "bench"}},
	}
}

// installed is where a program is, here and in rootDir; makeRoot has found it.
func installed(name string) string {
	path, _ := exec.LookPath(name)
	return path
}

// bundle makes a busybox bundle that prints HELLO, for every runtime.
func bundle() error {
	rootfs := rootDir + "/bundle/rootfs"
	for _, d := range []string{"proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(installed("busybox"), rootfs+"/bin/busybox"); err != nil {
		return err
	}
	if b, err := inRoot("/govmm-run", "spec", "--bundle", "/bundle").CombinedOutput(); err != nil {
		return fmt.Errorf("spec: %w: %s", err, b)
	}
	return edit(configPath, `"terminal": true`, `"terminal": false`, `"sh"`, `"/bin/busybox", "echo", "HELLO"`)
}

// networkBundle makes a network, and the bundle once more for a container that is in it. The kernel would load its modules in the middle of
// the first start, from the files of another machine (rootDir).
func networkBundle() error {
	if err := shell(slices.Concat([]string{"modprobe -a tun nft_chain_nat nft_redir nft_fwd_netdev"}, makeVeth)); err != nil {
		return err
	}
	path := rootDir + "/network/config.json"
	if err := copyFile(configPath, path); err != nil {
		return err
	}
	return edit(path, `"path": "rootfs"`, `"path": "/bundle/rootfs"`, `"type": "network"`, inNetns)
}

const configPath = rootDir + "/bundle/config.json"

// edit replaces the first of each pair by the second in a file, which must have it.
func edit(path string, pairs ...string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(b)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			return fmt.Errorf("%s has no %s", path, pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
