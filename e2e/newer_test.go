package e2e

import (
	"os"
	"slices"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// The engines that are newer than Debian's do the same steps with a runc of their time beside govmm-run.
// scripts/engines has testhost/engines build them.

// needNewer skips the test but in scripts/engines, and puts the newer engines before Debian's.
func needNewer(t *testing.T) {
	t.Helper()
	need.Promised(t, need.Newer, "`make engines` builds them")
	dirs := os.Getenv("GOVMM_NEWER")
	if dirs == "" {
		t.Fatal("GOVMM_NEWER does not say where they are: go run ./testhost/engines does")
	}
	t.Setenv("PATH", dirs+":"+os.Getenv("PATH"))
}

// revised returns a table in which steps are replaced by others of the same names.
func revised(steps []step, others ...step) []step {
	steps = slices.Clone(steps)
	for _, other := range others {
		i := slices.IndexFunc(steps, func(s step) bool { return s.name == other.name })
		if i < 0 {
			panic("no step is called " + other.name)
		}
		steps[i] = other
	}
	return steps
}

const containerd2Conf = `version = 3
root = "%[1]s/data"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
address = "%[1]s/c.sock"
`

var containerd2Steps = revised(containerdSteps)

func TestContainerd2(t *testing.T) {
	needVM(t)
	needNewer(t)
	needPrograms(t, "script", "busybox")
	reference, ours := startContainerd(t, containerd2Conf, ctrPrelude)
	compareSteps(t, reference, ours, containerd2Steps)
}

// docker29Conf has the images in containerd's store, as version 29 does by itself.
const docker29Conf = `{
  "data-root": "%[1]s/data", "exec-root": "%[1]s/exec", "pidfile": "%[1]s/docker.pid", "hosts": ["unix://%[1]s/d.sock"],
  "iptables": false, "ip6tables": false, "bridge": "none", "features": {"containerd-snapshotter": true},
  "runtimes": {"govmm-run": {"path": "%[2]s/govmm-run"}}
}
`

var docker29Steps = revised(dockerSteps)

func TestDocker29(t *testing.T) {
	needVM(t)
	needNewer(t)
	needPrograms(t, "script", "busybox")
	reference, ours := startDocker(t, docker29Conf)
	compareSteps(t, reference, ours, docker29Steps)
}

var podman5Steps = revised(podmanSteps)

func TestPodman5(t *testing.T) {
	needVM(t)
	needNewer(t)
	needPrograms(t, "podman", "conmon", "runc", "script", "busybox")
	reference, ours := startPodman(t)
	compareSteps(t, reference, ours, podman5Steps)
}
