// Package monitor is the one host process of a container: it holds the VM, serves its devices, speaks with PID 1 in
// the guest and with govmm-run's calls, and ends with the container's status.
package monitor

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/compact"
)

// IDVariable is the environment variable that makes the program a monitor: it names the container. The arguments are
// those of the container's process, because engines and people look for them in the host's list of processes.
const IDVariable = "GOVMM_MONITOR"

// comm is the name of the monitor's process, which is what killall and pgrep look for.
const comm = "govmm-monitor"

// The descriptors that the monitor is started with, after its standard ones.
const (
	SyncFD   = 3 // a control connection to the create that forks it
	ListenFD = 4 // the bound control socket
	HeldFD   = 5 // what Container.Hold returned
	CallerFD = 6 // the caller\'s network namespace, for a container with a network in user mode
)

// Config is the first message on the sync connection. The spec is checked already and its paths are absolute.
type Config struct {
	ID            string
	Spec          *specs.Spec
	State         specs.State // what hooks read, but for status and pid
	Kernel        string      // in place of the embedded one
	ConsoleSocket string      // where the terminal's master goes
	Debug         bool
	// Manager says that the last of the spec's mounts is the socket of the service manager that waits for the container.
	Manager bool
	// Cgroup is the directory of the monitor's own cgroup of version 2, if there is one.
	Cgroup string
	// Phases asks for the times of the start, Begin is when govmm-run began, in nanoseconds since the epoch.
	Phases PhaseFormat
	Begin  int64
}

// MarshalJSON implements json.Marshaler: JSON carries the config, and does not look into it.
func (c *Config) MarshalJSON() ([]byte, error) {
	b, err := compact.Append(nil, c)
	if err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Config) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	return compact.Read(b, c)
}
