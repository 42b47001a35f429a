package virtio

import (
	"sync"
	"time"
)

// Limiter bounds log lines that a guest can provoke: a few at once, then one per interval. The zero value is ready.
type Limiter struct {
	mu      sync.Mutex
	tokens  int
	started bool
	last    time.Time
	dropped int
}

const (
	limitBurst    = 5
	limitInterval = 10 * time.Second
)

// Allow says whether a line may be written now, and how many were not since the last one that was.
func (l *Limiter) Allow() (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allow(time.Now())
}

func (l *Limiter) allow(now time.Time) (ok bool, dropped int) {
	if !l.started {
		l.started, l.tokens, l.last = true, limitBurst, now
	}
	if n := int(min(now.Sub(l.last)/limitInterval, limitBurst)); n > 0 {
		l.tokens = min(l.tokens+n, limitBurst)
		l.last = now
	}
	if l.tokens == 0 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
