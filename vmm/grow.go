package vmm

import (
	"context"
	"errors"
	"fmt"

	"github.com/govmm/govmm/boot"
	"github.com/govmm/govmm/guestmem"
	"github.com/govmm/govmm/virtio/balloon"
	"github.com/govmm/govmm/virtio/mem"
)

const (
	// growAlign is where memory that comes later begins and ends: Linux adds whole memory blocks of 128 MiB, and of up to
	// 2 GiB in a guest of 64 GiB.
	growAlign    = 128 << 20
	growAlignBig = 2 << 30
	bigGuest     = 64 << 30
	// maxSteps bounds the KVM memory slots that a guest's memory grows by.
	maxSteps = 64
)

// growth is memory that the guest may get while it runs. The part that is accessible, to the guest and to devices, grows
// in steps, each of which is a KVM memory slot: what nobody asked for, a hostile guest cannot touch either.
type growth struct {
	region guestmem.Region
	step   uint64 // bytes
	open   uint64
	slots  uint32 // of KVM, used by steps
	dev    *mem.Device
}

// ErrCannotGrow says that the VM was made without room for more memory.
var ErrCannotGrow = errors.New("vmm: the VM has no memory to grow by: make it with MaxMemory")

// growRegion returns where a guest with ram bytes has up to max: above RAM, in whole steps.
func growRegion(ram, most uint64) (r guestmem.Region, step uint64) {
	align := uint64(growAlign)
	if most >= bigGuest {
		align = growAlignBig
	}
	layout := boot.Layout(ram)
	top := max(layout[len(layout)-1].End(), boot.HoleEnd)
	r = guestmem.Region{Base: guestmem.Addr(roundUp(uint64(top), growAlignBig)), Size: roundUp(most-ram, align)}
	return r, roundUp((r.Size+maxSteps-1)/maxSteps, align)
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

// setUpGrowth keeps addresses for memory that comes later and makes the devices that memory needs.
func (v *VM) setUpGrowth() error {
	if v.cfg.Balloon {
		v.balloon = balloon.New(balloon.Config{Backend: v.mem, Logger: v.cfg.Logger})
		v.forMemory = append(v.forMemory, v.balloon)
	}
	if v.cfg.MaxMemory <= v.cfg.Memory {
		return nil
	}
	g := &growth{}
	g.region, g.step = growRegion(v.cfg.Memory, v.cfg.MaxMemory)
	if err := v.mem.Reserve(g.region); err != nil {
		return err
	}
	var err error
	if g.dev, err = mem.New(mem.Config{Region: g.region, Backend: v.mem, Logger: v.cfg.Logger}); err != nil {
		return err
	}
	v.growth = g
	v.forMemory = append(v.forMemory, g.dev)
	return nil
}

// SetMemory lets the guest have so many bytes of RAM, at least what it was made with and at most MaxMemory, rounded up to
// 2 MiB. It returns before the guest has them: its driver plugs them, or unplugs, as it can. What it does not unplug, it
// keeps.
func (v *VM) SetMemory(size uint64) error {
	v.grow.Lock()
	defer v.grow.Unlock()
	g, ram := v.growth, v.mem.Size()
	switch {
	case v.ctx.Err() != nil:
		return context.Cause(v.ctx)
	case size == ram && g == nil:
		return nil
	case g == nil:
		return ErrCannotGrow
	case size < ram || size > v.cfg.MaxMemory:
		return fmt.Errorf("vmm: memory of %d MiB: between %d and %d are possible", size>>20, ram>>20, v.cfg.MaxMemory>>20)
	}
	requested := roundUp(size-ram, mem.BlockSize)
	if open := min(roundUp(requested, g.step), g.region.Size); open > g.open {
		if err := v.openGrowth(open); err != nil {
			return err
		}
	}
	return g.dev.Resize(requested, g.open)
}

// openGrowth makes the first n bytes of the region accessible, to devices and then to the guest.
func (v *VM) openGrowth(n uint64) error {
	g := v.growth
	part, err := v.mem.Open(n)
	if err != nil {
		return err
	}
	slot := uint32(len(v.mem.Regions())) + g.slots
	if err := v.vm.SetUserMemoryRegion(slot, 0, uint64(g.region.Base)+g.open, part); err != nil {
		return err
	}
	g.slots++
	g.open = n
	return nil
}

// MaxMemory returns the most that SetMemory gives the guest, in bytes.
func (v *VM) MaxMemory() uint64 { return max(v.cfg.MaxMemory, v.cfg.Memory) }

// PluggedMemory returns how much RAM the guest has, in bytes: what it was made with and what its driver has plugged.
func (v *VM) PluggedMemory() uint64 {
	if v.growth == nil {
		return v.mem.Size()
	}
	return v.mem.Size() + v.growth.dev.Plugged()
}

// SetBalloon asks the guest to keep so many bytes of its RAM out of use, for the host's. It does nothing in a VM without
// a balloon.
func (v *VM) SetBalloon(size uint64) {
	if v.balloon != nil {
		v.balloon.SetTarget(size)
	}
}

// BalloonSize returns how many bytes the guest says that it keeps out of use.
func (v *VM) BalloonSize() uint64 {
	if v.balloon == nil {
		return 0
	}
	return v.balloon.Size()
}

// MemoryStats asks the guest how its memory is used. The guest may answer anything, or never: bound ctx.
func (v *VM) MemoryStats(ctx context.Context) (balloon.Stats, error) {
	if v.balloon == nil {
		return balloon.Stats{}, balloon.ErrNoStats
	}
	return v.balloon.Stats(ctx)
}
