package network

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long a namespace has to be still before the guest follows: engines make several changes in a row.
	settle = 30 * time.Millisecond
	// patience is how long it waits for that at most.
	patience = time.Second
)

// groups are those whose members hear of what state holds (rtnetlink(7)).
const groups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV4_RULE-1) |
	1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// Watcher hears of changes in the network namespace in which it was made.
type Watcher struct{ c conn }

// Watch begins to listen.
func Watch() (*Watcher, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
	if err != nil {
		return nil, fmt.Errorf("watch the network namespace: %w", err)
	}
	return &Watcher{conn{c}}, nil
}

// Close ends Follow.
func (w *Watcher) Close() error { return w.c.Close() }

// Follow calls f after each change, or several in a row, until the Watcher is closed.
func (w *Watcher) Follow(f func()) error {
	for {
		if err := w.wait(time.Time{}); err != nil {
			return err
		}
		for begin := time.Now(); time.Since(begin) < patience; {
			err := w.wait(time.Now().Add(settle))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
		}
		f()
	}
}

// wait returns when something has changed, or at the deadline. Changes that the kernel could not keep for us are changes as well.
func (w *Watcher) wait(deadline time.Time) error {
	if err := w.c.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err := w.c.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}
