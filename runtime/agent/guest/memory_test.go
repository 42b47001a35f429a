package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// memoryCgroup is a directory with the files of a cgroup, in which current bytes are used, of them caches for files.
func memoryCgroup(t *testing.T, current, caches, refaulted uint64) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"memory.high": "max\n", "memory.events": "high 0\n", "memory.current": fmt.Sprintln(current),
		"memory.stat": fmt.Sprintf("anon 5\nactive_file %d\ninactive_file %d\nworkingset_refault_file %d\n", caches/2, caches-caches/2, refaulted),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// put writes a file as the kernel changes it: in one go.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func high(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "memory.high"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestMemoryNeeded(t *testing.T) {
	for _, tt := range []struct {
		current, caches, refaulted uint64
		want                       bool
	}{
		{100, 0, 0, true}, {100, 49, 0, true}, {100, 51, 0, false}, {100, 99, refaults, false}, {100, 99, refaults + 1, true},
		{94, 0, 0, true}, {93, 0, 0, false}, {93, 90, refaults + 1, false},
	} {
		g := &grower{dir: memoryCgroup(t, tt.current, tt.caches, tt.refaulted), high: 100}
		if got := g.needed(); got != tt.want {
			t.Errorf("%d bytes, %d of caches, %d pages again: needed is %v", tt.current, tt.caches, tt.refaulted, got)
		}
		if g.needed() && tt.refaulted > refaults {
			t.Error("old refaults count twice")
		}
	}
}

// TestGrower asks for memory twice, the kernel counting an event each time, and gets all that there is.
func TestGrower(t *testing.T) {
	dir := memoryCgroup(t, 100, 0, 0)
	var total atomic.Uint64
	total.Store(512 << 20)
	asked := make(chan uint64, 10)
	g := &grower{dir: dir, max: 2 << 30, total: total.Load}
	g.ask = func() error {
		n := total.Load()
		asked <- n
		go func() { // in two parts, as Linux's driver does
			for range 2 {
				time.Sleep(3 * growPoll)
				total.Add(n / 2)
			}
		}()
		return nil
	}
	events, err := watchFile(dir + "/memory.events")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.limit(g.total()); err != nil {
		t.Fatal(err)
	}
	use := func(n uint64) { put(t, dir, "memory.current", fmt.Sprintf("%020d\n", n)) }
	event := func(n int) { put(t, dir, "memory.events", fmt.Sprintf("high %d\n", n)) }
	done := make(chan struct{})
	go func() { g.run(events); close(done) }()
	for _, want := range []uint64{512 << 20, 1 << 30} {
		use(0)
		event(0) // of before
		if got := high(t, dir); got != fmt.Sprint(want-want/8) {
			t.Errorf("memory.high is %s with %d MiB", got, want>>20)
		}
		select {
		case n := <-asked:
			t.Fatalf("asked for more than %d MiB without need", n>>20)
		case <-time.After(2 * calmTime):
		}
		use(want - want/8)
		event(1)
		if got := <-asked; got != want {
			t.Fatalf("asked with %d MiB, want %d", got>>20, want>>20)
		}
		time.Sleep(growTime/100 + 20*growPoll) // until it has seen that no more comes
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on when the guest has all")
	}
	if got := high(t, dir); !strings.HasPrefix(got, "max") {
		t.Errorf("memory.high is %s at last", got)
	}
}

// TestGrowerRefused: nobody is held back in a guest that gets no more.
func TestGrowerRefused(t *testing.T) {
	dir := memoryCgroup(t, 512<<20, 0, 0)
	g := &grower{dir: dir, max: 2 << 30, total: func() uint64 { return 512 << 20 }, ask: func() error { return os.ErrClosed }}
	events, err := watchFile(dir + "/memory.events")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.limit(g.total()); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "memory.events", "high 1\n")
	g.run(events)
	if got := high(t, dir); !strings.HasPrefix(got, "max") {
		t.Errorf("memory.high is %s", got)
	}
}
