package rafttest

import (
	"math/rand/v2"
	"time"

	"pagecache/internal/simdisk"
)

// Trouble is what is wrong with a disk for a while.
type Trouble int

// The troubles.
const (
	TroubleSlow Trouble = iota // each write and each sync takes some milliseconds
	TroubleHang                // no write, and nothing else that changes the disk, ends
	TroubleTear                // as TroubleSlow, and a crash leaves garbage where it has interrupted writes
	TroubleFull                // nothing can be written that needs more space
)

// String returns the name of the trouble.
func (tr Trouble) String() string { return [...]string{"slow", "hang", "tear", "full"}[tr] }

// Begin gives a disk a trouble. end ends it; a crash of the disk does so, too, but for TroubleFull.
func Begin(d *simdisk.Disk, tr Trouble, rng *rand.Rand) (end func()) {
	switch tr {
	case TroubleHang:
		d.HangAt(func(o simdisk.Op) bool { return o.Kind != simdisk.OpRead && o.Kind != simdisk.OpOpen })
		return func() { d.HangAt(nil) }
	case TroubleFull:
		used := int64(0)
		for _, size := range d.Sizes() {
			used += size
		}
		d.SetCapacity(used + rng.Int64N(64<<10))
		return func() { d.SetCapacity(0) }
	case TroubleTear:
		d.LeaveGarbage()
	}
	d.SetDelay(time.Duration(1+rng.IntN(30)) * time.Millisecond)
	return func() { d.SetDelay(0) }
}
