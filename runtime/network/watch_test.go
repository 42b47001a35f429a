package network

import (
	"testing"
	"time"
)

// TestWatch hears once of several changes in a row, and again of a later one.
func TestWatch(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		c := rtnl(t)
		w, err := Watch()
		must(t, err)
		heard, ended := make(chan struct{}, 100), make(chan error, 1)
		go func() { ended <- w.Follow(func() { heard <- struct{}{} }) }()
		next := func(want bool) {
			t.Helper()
			select {
			case <-heard:
				if !want {
					t.Error("a change was heard of twice")
				}
			case <-time.After(map[bool]time.Duration{true: 10 * time.Second, false: 10 * settle}[want]):
				if want {
					t.Error("a change was not heard of")
				}
			}
		}
		must(t, c.execute(c.address(t, loopback, "10.0.0.1/32"), c.address(t, loopback, "10.0.0.2/32")))
		next(true)
		next(false)
		must(t, c.execute(up(loopback, 1)))
		next(true)
		must(t, w.Close())
		if err := <-ended; err == nil {
			t.Error("Follow ended without a reason")
		}
	})
}
