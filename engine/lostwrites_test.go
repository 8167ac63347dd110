package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

var (
	lostSeeds = flag.Int("lost.seeds", 1000, "the number of stores of which a slot stops taking writes [-short: 150]")
	lostSeed  = flag.Uint64("lost.seed", 0, "if not 0, the only seed of TestSlotStopsTakingWrites")
)

// lostCounts are the verdicts on stores that lost writes.
type lostCounts struct {
	judged     [verdictForeign + 1]atomic.Int64
	lost, none atomic.Int64 // openings that lost writes, and those that lost none
	noticed    atomic.Int64 // that returned ErrCorrupt to a caller
}

// lostRun lets a store go through a whole opening, and then through up to two more. At a random moment of these, the
// slot that is about to be written stops taking writes. It judges the store after each opening.
func lostRun(seed uint64, counts *lostCounts) error {
	s := newPast(seed, seed%4 == 0)
	s.brief = true
	if err := s.grow(1, 2+s.rng.IntN(5)); err != nil {
		return err
	}
	slot := &failingSlot{left: s.rng.IntN(24), slot: -1}
	for range 2 {
		slot.lost = 0
		s.disk.SetFault(slot.fault)
		end := lifeEnd(s.rng.IntN(2))
		err := s.live(3+s.rng.IntN(6), end)
		switch {
		case errors.As(err, new(enginetest.Violation)):
			return err
		case errors.Is(err, engine.ErrCorrupt):
			counts.noticed.Add(1)
		case err != nil:
			return err
		}
		v, err := s.judgeLost(slot)
		if err != nil {
			return fmt.Errorf("slot %d, %d writes lost in opening %d, crashed %v: %w", slot.slot, slot.lost, s.lives,
				end == lifeCrashed, err)
		}
		counts.judged[v].Add(1)
		if slot.lost == 0 {
			counts.none.Add(1)
		} else {
			counts.lost.Add(1)
		}
		if v != verdictRight {
			break
		}
	}
	return nil
}

// failingSlot is a slot that stops taking writes. The disk's lock guards it while the store is open.
type failingSlot struct {
	left int // writes to any slot that are still made
	slot int // the slot of the write after these, and from then on; negative before
	lost int // writes that were lost
}

// fault loses the writes to the slot.
func (f *failingSlot) fault(o simdisk.Op) error {
	if o.Kind != simdisk.OpDeviceWrite || o.Name != "/store/"+enginetest.LogName {
		return nil
	}
	slot := int(o.Off / crashSegment)
	if f.left--; f.left < 0 && f.slot < 0 {
		f.slot = slot
	}
	if slot != f.slot {
		return nil
	}
	f.lost++
	return simdisk.ErrLose
}

// judgeLost judges the store as it is on the disk. If writes to the slot were lost, the slot counts as an old part that
// was put back: see judge. An end of the log that only the slot proves may be lost after a crash.
func (s *pastStore) judgeLost(slot *failingSlot) (verdict, error) {
	im := enginetest.TakeImage(s.disk, "/store")
	seen := *s
	seen.past = s.past.Clone()
	seen.past.Keep(s.h, enginetest.Unlimited)
	j := &judge{pastStore: &seen, im: im, acked: s.h.Acked, full: enginetest.Unlimited}
	if slot.slot >= 0 {
		p := enginetest.Slot(slot.slot, crashSegment)
		return j.judge(enginetest.Change{Place: p, Part: im.Part(p)})
	}
	v, err := j.judge()
	if err == nil && v != verdictRight {
		err = enginetest.Violated("no write was lost, and the verdict is %d", v)
	}
	return v, err
}

// A slot stops taking writes at a random moment: it keeps its old contents although its writes were acknowledged. The
// store goes on, and is closed or killed. It never shows anything wrong: see judge. Proves rule 14; trap 26.
func TestSlotStopsTakingWrites(t *testing.T) {
	t.Parallel()
	counts := new(lostCounts)
	if *lostSeed != 0 {
		if err := lostRun(*lostSeed, counts); err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := uint64(*lostSeeds)
	if testing.Short() {
		seeds = min(seeds, 150)
	}
	var wg sync.WaitGroup
	var next, failures atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= seeds && failures.Load() < 5; seed = next.Add(1) {
				if err := lostRun(seed, counts); err != nil {
					failures.Add(1)
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
	wg.Wait()
	const text = "%d openings lost writes, %d lost none; %d returned ErrCorrupt; %d right, %d refused, %d earlier"
	t.Logf(text, counts.lost.Load(), counts.none.Load(), counts.noticed.Load(), counts.judged[verdictRight].Load(),
		counts.judged[verdictRefused].Load(), counts.judged[verdictEarlier].Load())
	if n := counts.lost.Load(); seeds >= 1000 && n < int64(seeds)/2 {
		t.Errorf("%d openings lost writes, which proves little", n)
	}
}
