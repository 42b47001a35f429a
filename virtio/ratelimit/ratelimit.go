// Package ratelimit bounds how much a device does in a time, by token buckets: bytes, and operations.
//
// What has been done is charged afterwards, when its size is known, and may bring a bucket into debt; the next operation then
// waits until the debt is paid. So nothing is ever dropped or divided, and what is larger than a burst passes, too.
package ratelimit

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Rate is what one bucket allows. The zero value allows everything.
type Rate struct {
	// PerSecond is what flows in; 0 is no limit.
	PerSecond uint64
	// Burst is what may be used at once after a pause; 0 means what flows in within a tenth of a second.
	Burst uint64
}

// Config is what a Limiter allows.
type Config struct {
	Bytes      Rate
	Operations Rate
}

// Limiter is shared by all that it is to bound together. Its methods may be called from any goroutine. A nil Limiter allows
// everything, for the price of a comparison.
type Limiter struct {
	mu                sync.Mutex
	bytes, operations bucket
}

// New returns a limiter, or nil when cfg limits nothing.
func New(cfg Config) *Limiter { return newLimiter(cfg, time.Now()) }

func newLimiter(cfg Config, now time.Time) *Limiter {
	if cfg.Bytes.PerSecond == 0 && cfg.Operations.PerSecond == 0 {
		return nil
	}
	return &Limiter{bytes: newBucket(cfg.Bytes, now), operations: newBucket(cfg.Operations, now)}
}

// Wait returns when the next operation may begin, or ctx.Err() when ctx is done before. It calls idle before it sleeps.
func (l *Limiter) Wait(ctx context.Context, idle func()) error {
	if l == nil {
		return nil
	}
	for called := false; ; called = true {
		d := l.delay(time.Now())
		if d <= 0 {
			return ctx.Err()
		}
		if !called && idle != nil {
			idle()
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Charge counts an operation of n bytes.
func (l *Limiter) Charge(n int) {
	if l != nil {
		l.charge(n, time.Now())
	}
}

// charge lets flow in first what the time before the operation brought, which may have been long: a frame is waited for after Wait.
func (l *Limiter) charge(n int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes.flow(now)
	l.operations.flow(now)
	l.bytes.level -= float64(n)
	l.operations.level--
}

// delay returns how long it takes until neither bucket is empty.
func (l *Limiter) delay(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.bytes.delay(now), l.operations.delay(now))
}

// bucket holds tokens: a level above zero is what may be used, below zero what is owed.
type bucket struct {
	rate, burst, level float64
	last               time.Time
}

func newBucket(r Rate, now time.Time) bucket {
	burst := float64(r.Burst)
	if r.Burst == 0 {
		burst = max(float64(r.PerSecond)/10, 1)
	}
	return bucket{rate: float64(r.PerSecond), burst: burst, level: burst, last: now}
}

// flow adds what came in since the last time.
func (b *bucket) flow(now time.Time) {
	if passed := now.Sub(b.last); passed > 0 {
		b.level = min(b.level+b.rate*passed.Seconds(), b.burst)
		b.last = now
	}
}

func (b *bucket) delay(now time.Time) time.Duration {
	b.flow(now)
	if b.rate == 0 || b.level > 0 {
		return 0
	}
	// Rounded up, and as long as a timer is worth the trouble.
	d := math.Ceil((1e-9 - b.level) / b.rate * float64(time.Second))
	return time.Duration(min(max(d, float64(50*time.Microsecond)), float64(time.Hour)))
}

// Set takes one of the options rate=RATE[:BURST], for bytes, and ops=RATE[:BURST], and says whether it is one of them.
func (c *Config) Set(option string) (bool, error) {
	key, value, _ := strings.Cut(option, "=")
	rate, ok := map[string]*Rate{"rate": &c.Bytes, "ops": &c.Operations}[key]
	if !ok {
		return false, nil
	}
	var err error
	*rate, err = ParseRate(value)
	return true, err
}

// Parse reads a limit that stands alone: the options of Set, separated by commas.
func Parse(s string) (c Config, err error) {
	for option := range strings.SplitSeq(s, ",") {
		taken, err := c.Set(option)
		switch {
		case err != nil:
			return Config{}, err
		case !taken:
			return Config{}, fmt.Errorf("%q is no limit: write rate=N for bytes and ops=N for operations each second, such as rate=10M,ops=1K", option)
		}
	}
	return c, nil
}

// ParseRate reads RATE or RATE:BURST, numbers that may have a suffix K, M or G (powers of 1024).
func ParseRate(s string) (Rate, error) {
	rate, burst, both := strings.Cut(s, ":")
	var r Rate
	var ok, alsoOK bool
	if r.PerSecond, ok = parseNumber(rate); both && ok {
		r.Burst, alsoOK = parseNumber(burst)
	}
	if !ok || both && !alsoOK {
		return Rate{}, fmt.Errorf("%q is not a rate: write a number for each second, with K, M or G, and after a colon what "+
			"may come at once, such as 10M:1M", s)
	}
	return r, nil
}

func parseNumber(s string) (uint64, bool) {
	shift := 0
	if n := len(s) - 1; n >= 0 {
		if i := strings.IndexByte("KMG", s[n]&^0x20); i >= 0 {
			s, shift = s[:n], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n << shift, err == nil && n > 0 && n <= math.MaxInt64>>shift
}
