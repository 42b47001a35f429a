package vmm

import (
	"fmt"
	"io"
	"sort"
	"sync"
	"text/tabwriter"
)

// exitCounts counts exits to this process by what caused them; a nil one counts nothing.
type exitCounts struct {
	mu sync.Mutex
	n  map[string]uint64
}

func newExitCounts() *exitCounts { return &exitCounts{n: map[string]uint64{}} }

func (e *exitCounts) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// Bounded: a guest can touch 65,536 ports and any address.
	key := fmt.Sprintf(format, args...)
	if _, known := e.n[key]; !known && len(e.n) >= 1000 {
		key = "other"
	}
	e.n[key]++
}

func (e *exitCounts) port(port uint16, in bool) {
	if e == nil {
		return
	}
	e.add("%s port %#x", map[bool]string{true: "in", false: "out"}[in], port)
}

func (e *exitCounts) mmio(addr uint64, write bool) {
	if e == nil {
		return
	}
	e.add("%s %#x", map[bool]string{true: "write", false: "read"}[write], addr)
}

// WriteExits prints the exits that Config.TraceExits counted, most frequent first.
func (v *VM) WriteExits(out io.Writer) error {
	if v.exits == nil {
		return nil
	}
	v.exits.mu.Lock()
	defer v.exits.mu.Unlock()
	var keys []string
	for k := range v.exits.n {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := v.exits.n[keys[i]], v.exits.n[keys[j]]
		return a > b || a == b && keys[i] < keys[j]
	})
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "exits\t  cause\n")
	for _, k := range keys {
		fmt.Fprintf(w, "%d\t  %s\n", v.exits.n[k], k)
	}
	return w.Flush()
}
