package host

import "github.com/govmm/govmm/runtime/agent"

func (c *Client) do(m agent.Message) error {
	_, err := c.call(m)
	return err
}

// soon is do for what takes the guest no time.
func (c *Client) soon(m agent.Message) error {
	_, err := c.ask(m)
	return err
}

// Configure sets the guest's clock, entropy and name.
func (c *Client) Configure(m *agent.Configure) error { return c.do(m) }

// Create makes a container whose process waits for Start.
func (c *Client) Create(m *agent.CreateContainer) error { return c.do(m) }

// Start lets a container's process run.
func (c *Client) Start(id string) error { return c.do(&agent.StartContainer{ID: id}) }

// Exec starts a further process; it runs when Exec returns nil.
func (c *Client) Exec(m *agent.Exec) error { return c.do(m) }

// Signal signals one process of a container, or all.
func (c *Client) Signal(m *agent.Signal) error { return c.soon(m) }

// Resize sets a terminal's size.
func (c *Client) Resize(m *agent.Resize) error { return c.soon(m) }

// Plug has the guest look for devices that have come.
func (c *Client) Plug() error { return c.do(&agent.Plug{}) }

// Unplug has the guest let go of the device of the network interface with an index.
func (c *Client) Unplug(index int32) error { return c.do(&agent.Unplug{Interface: index}) }

// Network has the guest carry out steps, and returns what became of each.
func (c *Client) Network(steps []agent.NetworkStep) ([]agent.Answer, error) {
	r, err := c.call(&agent.Network{Steps: steps})
	if err != nil {
		return nil, err
	}
	if len(r.Answers) != len(steps) {
		return nil, agent.ErrMalformed
	}
	return r.Answers, nil
}

// Listen has the guest stand in for a server, and returns the port at which it does.
func (c *Client) Listen(m *agent.Listen) (uint16, error) {
	r, err := c.call(m)
	if err != nil {
		return 0, err
	}
	return r.Port, nil
}

// SetTime steps the guest's clock to the host's, in nanoseconds since the epoch.
func (c *Client) SetTime(realtime int64) error { return c.soon(&agent.SetTime{RealtimeNS: realtime}) }

// Update changes a container's limits.
func (c *Client) Update(m *agent.Update) error { return c.soon(m) }

// Processes lists a container's processes.
func (c *Client) Processes(id string) ([]agent.ProcessInfo, error) {
	r, err := c.ask(&agent.ListProcesses{ID: id})
	if err != nil {
		return nil, err
	}
	return r.Processes, nil
}

// Stats returns the files of a container's cgroup that tell what it uses.
func (c *Client) Stats(id string) ([]agent.File, error) {
	r, err := c.ask(&agent.Stats{ID: id})
	if err != nil {
		return nil, err
	}
	return r.Files, nil
}

// Sync writes back the guest's file systems.
func (c *Client) Sync() error { return c.do(&agent.SyncFS{}) }

// Shutdown ends every process and resets the machine.
func (c *Client) Shutdown() error { return c.do(&agent.Shutdown{}) }

// Delete forgets a container that has ended.
func (c *Client) Delete(id string) error { return c.do(&agent.DeleteContainer{ID: id}) }
