package oci

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const shmPath = "/dev/shm"

// replaceShm makes a tmpfs of the guest's own out of the tmpfs of the host that engines bind on /dev/shm, one of the
// same size: memory that processes map and share must be the guest's. What another container puts into the
// host's does not show.
func replaceShm(mounts []specs.Mount) {
	for i := range mounts {
		m := &mounts[i]
		if m.Destination != shmPath || !isBind(*m) {
			continue
		}
		if size, ok := tmpfsSize(m.Source); ok { // else a volume like any other, or an error that checkMounts reports
			*m = shmMount(*m, size)
		}
	}
}

// tmpfsSize is the size of the tmpfs that path is on, 0 for one without a limit.
var tmpfsSize = func(path string) (bytes uint64, ok bool) {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Type != unix.TMPFS_MAGIC {
		return 0, false
	}
	return st.Blocks * uint64(st.Bsize), true
}

// shmMount is m as a tmpfs of size bytes; 0 is no limit.
func shmMount(m specs.Mount, size uint64) specs.Mount {
	out := specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm"}
	for _, o := range m.Options {
		if o != "bind" && o != "rbind" && !strings.HasSuffix(o, "shared") {
			out.Options = append(out.Options, o)
		}
	}
	out.Options = append(out.Options, "mode=1777")
	if size != 0 {
		out.Options = append(out.Options, fmt.Sprintf("size=%d", size))
	}
	return out
}
