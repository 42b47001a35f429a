package vmm

import (
	"context"
	"time"
)

const (
	demandInterval = 500 * time.Millisecond
	// demandTimeout is how long the guest may think about its memory.
	demandTimeout = 5 * time.Second
)

// GrowOnDemand gives the guest twice as much RAM, up to MaxMemory, whenever its balloon driver says that less than a
// quarter of what it has is available, until ctx is done or there is no more to give. It is for a guest whose init is not
// ours: it asks twice a second, so that a program which takes memory faster meets the guest's OOM killer first.
func (v *VM) GrowOnDemand(ctx context.Context) {
	ticker := time.NewTicker(demandInterval)
	defer ticker.Stop()
	for given := v.Memory(); given < v.MaxMemory(); {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !v.short(ctx) {
			continue
		}
		given = min(max(given, 2*v.PluggedMemory()), v.MaxMemory())
		if v.SetMemory(given) != nil {
			return
		}
	}
}

// short tells whether the guest says that it has little memory left.
func (v *VM) short(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, demandTimeout)
	defer cancel()
	s, err := v.MemoryStats(ctx)
	return err == nil && s.Available < s.Total/4
}
