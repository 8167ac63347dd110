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
)

var (
	lostSeeds = flag.Int("lost.seeds", 2000, "the number of stores of which a slot stops taking writes")
	lostSeed  = flag.Uint64("lost.seed", 0, "if not 0, the only seed of TestSlotStopsTakingWrites")
)

// lostCounts are the verdicts on stores that lost writes.
type lostCounts struct {
	judged     [verdictForeign + 1]atomic.Int64
	lost, none atomic.Int64 // openings that lost writes, and those that lost none
	noticed    atomic.Int64 // that returned ErrCorrupt to a caller
}

// lostRun lets a store go through a whole opening, and then through up to three in which a slot stops taking writes at
// a random moment. It judges the store after each of these.
func lostRun(seed uint64, counts *lostCounts) error {
	s := newPast(seed, seed%4 == 0)
	s.brief = true
	if err := s.grow(1, 4+s.rng.IntN(5)); err != nil {
		return err
	}
	slots := len(s.closed[enginetest.LogName]) / crashSegment
	slot := enginetest.Slot(s.rng.IntN(slots+1), crashSegment)
	made := s.rng.IntN(12)
	for range 3 {
		lost := s.disk.LoseWrites("/store/"+enginetest.LogName, int64(slot.Off), int64(slot.Len), made)
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
		v, err := s.judgeLost(slot, lost() > 0)
		if err != nil {
			return fmt.Errorf("slot %d, %d writes lost in opening %d, crashed %v: %w", slot.Off/crashSegment, lost(),
				s.lives, end == lifeCrashed, err)
		}
		counts.judged[v].Add(1)
		if lost() == 0 {
			counts.none.Add(1)
		} else {
			counts.lost.Add(1)
		}
		if v != verdictRight {
			break
		}
		made = s.rng.IntN(4)
	}
	return nil
}

// judgeLost judges the store as it is on the disk. If writes to the slot were lost, the slot counts as an old part that
// was put back: see judge. An end of the log that only the slot proves may be lost after a crash.
func (s *pastStore) judgeLost(slot enginetest.Place, lost bool) (verdict, error) {
	im := enginetest.TakeImage(s.disk, "/store")
	seen := *s
	seen.past = s.past.Clone()
	seen.past.Keep(s.h, enginetest.Unlimited)
	j := &judge{pastStore: &seen, im: im, acked: s.h.Acked, full: enginetest.Unlimited}
	if lost {
		return j.judge(enginetest.Change{Place: slot, Part: im.Part(slot)})
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
	counts := new(lostCounts)
	if *lostSeed != 0 {
		if err := lostRun(*lostSeed, counts); err != nil {
			t.Fatal(err)
		}
		return
	}
	var wg sync.WaitGroup
	var next, failures atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= uint64(*lostSeeds) && failures.Load() < 5; seed = next.Add(1) {
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
	if n := counts.lost.Load(); *lostSeeds >= 1000 && n < int64(*lostSeeds)/3 {
		t.Errorf("%d openings lost writes, which proves little", n)
	}
}
