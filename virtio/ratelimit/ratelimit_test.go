package ratelimit

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestNothing(t *testing.T) {
	l := New(Config{Bytes: Rate{Burst: 5}})
	if l != nil {
		t.Fatal("a limiter that limits nothing")
	}
	l.Charge(1 << 30)
	if err := l.Wait(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// step is an operation, or the passage of time, and how long the next operation has to wait then.
type step struct {
	after time.Duration
	bytes int // -1: no operation
	delay time.Duration
}

func TestBuckets(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg   Config
		steps []step
	}{
		"bytes": {Config{Bytes: Rate{PerSecond: 1000, Burst: 500}}, []step{
			{0, 400, 0}, {0, 100, time.Millisecond}, {0, 1000, time.Second}, {time.Second - time.Millisecond, -1, time.Millisecond},
			{2 * time.Millisecond, -1, 0}, {time.Hour, 500, time.Millisecond},
		}},
		"default burst": {Config{Bytes: Rate{PerSecond: 1000}}, []step{{0, 99, 0}, {0, 2, 2 * time.Millisecond}}},
		"operations": {Config{Operations: Rate{PerSecond: 10, Burst: 2}}, []step{
			{0, 1 << 30, 0}, {0, 1, 100 * time.Microsecond}, {0, 0, 100 * time.Millisecond}, {101 * time.Millisecond, -1, 0},
			{0, 0, 99 * time.Millisecond},
		}},
		"both": {Config{Bytes: Rate{PerSecond: 1000, Burst: 1000}, Operations: Rate{PerSecond: 1, Burst: 2}}, []step{
			{0, 0, 0}, {0, 3000, 2 * time.Second}, {2001 * time.Millisecond, 0, 0}, {0, 0, 50 * time.Microsecond}, {0, 0, time.Second},
		}},
		"one operation in a day": {Config{Operations: Rate{PerSecond: 1, Burst: 1}}, []step{{0, 0, 50 * time.Microsecond}}},
		"a backward clock":       {Config{Bytes: Rate{PerSecond: 10, Burst: 1}}, []step{{0, 1, 50 * time.Microsecond}, {-time.Hour, -1, 50 * time.Microsecond}}},
	} {
		now := time.Unix(1000, 0)
		l := newLimiter(tt.cfg, now)
		for i, s := range tt.steps {
			now = now.Add(s.after)
			if s.bytes >= 0 {
				l.charge(s.bytes, now)
			}
			got := l.delay(now)
			if diff := got - s.delay; s.delay == 0 && got != 0 || diff < -time.Millisecond || diff > time.Millisecond {
				t.Errorf("%s: step %d: a delay of %v, want %v", name, i, got, s.delay)
			}
		}
	}
}

// TestRate: what passes in a while is what was promised, whatever the sizes.
func TestRate(t *testing.T) {
	l := New(Config{Bytes: Rate{PerSecond: 10 << 20, Burst: 1 << 10}})
	began, total := time.Now(), 0
	idle := 0
	for i := 0; time.Since(began) < 300*time.Millisecond; i++ {
		if err := l.Wait(t.Context(), func() { idle++ }); err != nil {
			t.Fatal(err)
		}
		n := 1000 * (i%64 + 1)
		total += n
		l.Charge(n)
	}
	// It never passes more than flowed in, the burst and the last operation.
	if most := int(10<<20*time.Since(began).Seconds()) + 1<<10 + 64000; total > most || total < most/10 || idle == 0 {
		t.Errorf("%d bytes, between %d and %d were due; %d pauses", total, most/10, most, idle)
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]Rate{
		"1": {1, 0}, "10M": {10 << 20, 0}, "1k:5": {1024, 5}, "2G:1M": {2 << 30, 1 << 20}, "9223372036854775807": {1<<63 - 1, 0},
		"": {}, "0": {}, "x": {}, "1:": {}, ":1": {}, "1:0": {}, "-1": {}, "1T": {}, "1:2:3": {}, "K": {}, "9007199254740993K": {},
	} {
		got, err := ParseRate(in)
		if got != want || (err == nil) != (want != Rate{}) {
			t.Errorf("%q: %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Config{
		"rate=10M":         {Bytes: Rate{10 << 20, 0}},
		"ops=5:7":          {Operations: Rate{5, 7}},
		"ops=1K,rate=1G:2": {Rate{1 << 30, 2}, Rate{1024, 0}},
		"":                 {},
		"rate":             {},
		"10M":              {},
		"rate=1,":          {},
		"rate=1,ops=x":     {},
		"rate=1,queues=2":  {},
		"rate=1, ops=1":    {},
	} {
		got, err := Parse(in)
		if got != want || (err == nil) != (want != Config{}) {
			t.Errorf("%q: %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestContext(t *testing.T) {
	l := New(Config{Operations: Rate{PerSecond: 1, Burst: 1}})
	l.Charge(0)
	l.Charge(0)
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	if err := l.Wait(ctx, cancel); !errors.Is(err, context.Canceled) || time.Since(began) > 500*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if err := New(Config{Operations: Rate{PerSecond: 1}}).Wait(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("without a delay: %v", err)
	}
}

func BenchmarkOff(b *testing.B) {
	var l *Limiter
	for b.Loop() {
		_ = l.Wait(context.Background(), nil)
		l.Charge(1500)
	}
}

func BenchmarkOn(b *testing.B) {
	l := New(Config{Bytes: Rate{PerSecond: 1 << 50}, Operations: Rate{PerSecond: 1 << 40}})
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Wait(context.Background(), nil)
		l.Charge(1500)
	}
}
