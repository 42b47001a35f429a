package virtio

import (
	"testing"
	"time"
)

// TestLimiter: a few lines at once, then one per interval, however many are asked for; what was left out is counted.
func TestLimiter(t *testing.T) {
	var l Limiter
	now := time.Now()
	burst := func(n int) (allowed, dropped int) {
		for range n {
			ok, d := l.allow(now)
			if ok {
				allowed++
			}
			dropped += d
		}
		return allowed, dropped
	}
	if allowed, dropped := burst(1000); allowed != limitBurst || dropped != 0 {
		t.Errorf("%d lines at once, %d reported", allowed, dropped)
	}
	now = now.Add(limitInterval - 1)
	if allowed, _ := burst(1000); allowed != 0 {
		t.Errorf("%d lines before the interval is over", allowed)
	}
	now = now.Add(1)
	if allowed, dropped := burst(1000); allowed != 1 || dropped != 2000-limitBurst {
		t.Errorf("%d lines after an interval, %d reported", allowed, dropped)
	}
	now = now.Add(1000 * limitInterval)
	if allowed, _ := burst(1000); allowed != limitBurst {
		t.Errorf("%d lines after a long silence", allowed)
	}
	lines := 0
	for range 10_000 { // a flood of 1000 s
		now = now.Add(limitInterval / 100)
		n, _ := burst(1)
		lines += n
	}
	if want := 10_000 / 100; lines != want {
		t.Errorf("%d lines in %d intervals", lines, want)
	}
}
