package recipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// sourcePackage is the Debian package whose /usr/src/<name>.tar.xz is built.
const sourcePackage = "linux-source-6.12"

// packages are what a build needs from Debian beside sourcePackage; libc6-dev
// comes with gcc and is what a static init links with.
var packages = []string{
	sourcePackage, "gcc", "libc6-dev", "make", "bc", "bison", "flex", "libelf-dev", "libssl-dev", "xz-utils", "perl", "python3-minimal",
}

// A toolchain is one line per package or program that the bytes of a kernel
// depend on, each with its version.
type toolchain []string

// probe asks dpkg for the versions of what r is built with and lists what is
// not installed. It is quick: it decides whether the cache is good.
func probe(r Recipe) (tools toolchain, missing []string) {
	installed := map[string]string{}
	args := append([]string{"-W", "-f=${Package} ${Version} ${db:Status-Status}\n"}, packages...)
	args = append(args, "binutils")
	// It exits with 1 when one is unknown, and still prints the others.
	out, _ := exec.Command("dpkg-query", args...).Output()
	for _, line := range strings.Split(string(out), "\n") {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == "installed" {
			installed[f[0]] = f[1]
		}
	}
	for _, p := range packages {
		if installed[p] == "" {
			missing = append(missing, p)
		}
	}
	relevant := []string{sourcePackage, "gcc", "binutils"}
	if r.initC != nil {
		relevant = append(relevant, "libc6-dev")
	}
	for _, p := range relevant {
		tools = append(tools, p+" "+installed[p])
	}
	// The package gcc only says which major version is the default.
	out, _ = exec.Command("gcc", "-dumpfullversion").Output()
	return append(tools, "gcc "+strings.TrimSpace(string(out))), missing
}

// install installs packages with apt-get, and says so.
func install(ctx context.Context, log io.Writer, missing []string) error {
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing: %s; this is not a Debian system, so build the kernel on one, or pass --kernel", list)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing: %s; run as root: apt-get install %s", list, list)
	}
	fmt.Fprintf(log, "guest kernel: installing Debian packages: %s\n", list)
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, tail(out, 20))
		}
		return nil
	}
	args := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	if run(args...) == nil {
		return nil
	}
	// The package lists of a fresh image are empty or old.
	updated := run("update", "-q")
	if err := run(args...); err != nil {
		return errors.Join(updated, err)
	}
	return nil
}

// unpack unpacks the kernel source into dir, without its top directory.
func unpack(ctx context.Context, dir string) error {
	tarball := filepath.Join("/usr/src", sourcePackage+".tar.xz")
	cmd := exec.CommandContext(ctx, "tar", "--extract", "--xz", "--strip-components=1", "--no-same-owner", "--file", tarball, "--directory", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w\n%s", tarball, err, tail(out, 5))
	}
	return nil
}

// tail is the last n lines of out.
func tail(out []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
