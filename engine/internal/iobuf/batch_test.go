package iobuf

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/segments/format"
)

// A batch that is larger than all buffers holds up neither writers nor durability, only stability. Trap 11.
func TestBatchLargerThanBuffers(t *testing.T) {
	r := newRig(t, setup{seed: 3})
	before, err := r.put(format.KindAppend, 1, body(10, 1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeStable(before); err != nil {
		t.Fatal(err)
	}
	var last format.LSN
	for i := range 2000 {
		if last, err = r.put(format.KindAppend, 2, body(200, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.MakeDurable(last); err != nil { // ids wait like this
		t.Fatal(err)
	}
	if r.StableLSN() >= b.LSN() {
		t.Fatalf("stable %d inside the open batch at %d", r.StableLSN(), b.LSN())
	}
	done := make(chan error, 1)
	go func() { done <- r.MakeStable(last) }()
	r.untilWaiting(1)
	if last, err = r.put(format.KindAppend, 2, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.MakeDurable(last); err != nil { // the leader settles stability, and wakes the waiters it finds
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("stable inside an open batch: %v", err)
	default:
	}
	r.untilWaiting(1)
	if _, err := b.End(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := b.End(); !errors.Is(err, ErrBatchEnded) {
		t.Fatalf("second end: %v", err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// The stable LSN is never inside a batch, however batches overlap.
func TestStableLSNIsOutsideOverlappingBatches(t *testing.T) {
	for seed := range uint64(30) {
		r := newRig(t, setup{buffers: 3, seed: seed})
		rng := rand.New(rand.NewPCG(seed, 5))
		type span struct{ begin, end format.LSN }
		var open []*Batch
		var ended []span
		for i := range 300 {
			switch k := rng.IntN(10); {
			case k == 0 && len(open) < 4:
				b, err := r.BeginBatch()
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, b)
			case k == 1 && len(open) > 0:
				j := rng.IntN(len(open))
				lsn, err := open[j].End()
				if err != nil {
					t.Fatal(err)
				}
				ended = append(ended, span{open[j].LSN(), lsn})
				open = append(open[:j], open[j+1:]...)
			case k == 2:
				lsn, err := r.put(format.KindAppend, 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.MakeDurable(lsn); err != nil {
					t.Fatal(err)
				}
			default:
				if _, err := r.put(format.KindAppend, 1, body(rng.IntN(300), uint64(i))); err != nil {
					t.Fatal(err)
				}
			}
			stable := r.StableEnd()
			for _, b := range open {
				if stable > b.LSN() {
					t.Fatalf("seed %d: stable end %d above the open batch at %d", seed, stable, b.LSN())
				}
			}
			for _, s := range ended {
				if stable > s.begin && stable <= s.end {
					t.Fatalf("seed %d: stable end %d inside the batch [%d, %d]", seed, stable, s.begin, s.end)
				}
			}
		}
		for _, b := range open {
			if _, err := b.End(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A goroutine that waits for the begin marker of a batch that has ended makes the whole batch durable, although the
// marker was durable long ago.
func TestWaitForBeginMarker(t *testing.T) {
	r := newRig(t, setup{seed: 4})
	b, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	for range 40 { // more than the buffers hold
		if _, err := r.put(format.KindAppend, 1, body(1000, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.MakeDurable(b.LSN()); err != nil {
		t.Fatal(err)
	}
	end, err := b.End()
	if err == nil {
		err = r.MakeStable(b.LSN())
	}
	if err != nil || r.StableEnd() <= end {
		t.Errorf("stable end %d, want it above the end marker at %d, %v", r.StableEnd(), end, err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// beginDurable begins a batch and makes its begin marker durable.
func (r *rig) beginDurable() *Batch {
	r.t.Helper()
	b, err := r.BeginBatch()
	if err == nil {
		err = r.MakeDurable(b.LSN())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// beginning begins a batch in another goroutine.
func (r *rig) beginning() <-chan *Batch {
	begun := make(chan *Batch, 1)
	go func() {
		b, err := r.BeginBatch()
		if err != nil {
			b = nil
		}
		begun <- b
	}()
	return begun
}

// untilWaitingForBatches waits until a goroutine waits for batches to end.
func (r *rig) untilWaitingForBatches() {
	for {
		r.state.mu.Lock()
		waits := r.state.batches.left != nil
		r.state.mu.Unlock()
		if waits {
			return
		}
		runtime.Gosched()
	}
}

// A batch that would prolong a group of overlapping batches whose beginning is durable waits until the group has ended,
// and then it is not part of it. A group that is younger can grow. Proves rule 18, trap 38.
func TestBatchWaitsForOlderGroup(t *testing.T) {
	r := newRig(t, setup{patience: time.Minute})
	a, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	b := r.beginDurable() // nothing was durable: it did not wait
	begun := r.beginning()
	r.untilWaitingForBatches()
	for _, open := range []*Batch{a, b} {
		select {
		case <-begun:
			t.Fatal("a batch began although an older group was open")
		default:
		}
		if _, err := open.End(); err != nil {
			t.Fatal(err)
		}
	}
	c := <-begun
	if c == nil {
		t.Fatal("the batch did not begin")
	}
	r.state.mu.Lock()
	groups := append([]group(nil), r.state.batches.groups...)
	r.state.mu.Unlock()
	if len(groups) != 2 || groups[1].begin != c.LSN() {
		t.Fatalf("groups %v, the last batch began at %d", groups, c.LSN())
	}
	if err := r.MakeStable(b.LSN()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.End(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A batch that is nested in another one, which therefore cannot end, begins all the same, and later ones do not wait
// for the same batch again. Once it has ended, batches wait for those that have begun meanwhile. Proves rule 18.
func TestNestedBatchWaitsOnce(t *testing.T) {
	const patience = 50 * time.Millisecond
	r := newRig(t, setup{patience: patience})
	outer := r.beginDurable()
	start := time.Now()
	inner, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(start); waited < patience/2 {
		t.Fatalf("the nested batch began after %v", waited)
	}
	for range 50 { // if each waited, that would take 50 × patience
		b, err := r.BeginBatch()
		if err == nil {
			_, err = b.End()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if waited := time.Since(start); waited > 25*patience {
		t.Fatalf("50 nested batches took %v", waited)
	}
	if _, err := outer.End(); err != nil {
		t.Fatal(err)
	}
	begun := r.beginning() // inner is not slow
	r.untilWaitingForBatches()
	if _, err := inner.End(); err != nil {
		t.Fatal(err)
	}
	if b := <-begun; b == nil {
		t.Fatal("the batch did not begin")
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Waiting for a group ends when the log stops and when batches are refused, and batches that are open then can end.
func TestWaitForGroupEndsWithTheLog(t *testing.T) {
	r := newRig(t, setup{patience: time.Minute})
	a := r.beginDurable()
	begun := r.beginning()
	r.untilWaitingForBatches()
	r.RefuseBatches()
	if b := <-begun; b != nil {
		t.Fatal("a batch began that was refused")
	}
	if lsn, open := r.MissingFrom(); !open || lsn != a.LSN() {
		t.Fatalf("missing from %d, %v; want %d", lsn, open, a.LSN())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.AwaitBatches(ctx)
	if _, err := a.End(); err != nil {
		t.Fatal(err)
	}
	r.AwaitBatches(context.Background())
	if lsn, open := r.MissingFrom(); open {
		t.Fatalf("missing from %d, although no batch is open", lsn)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}

	r = newRig(t, setup{patience: time.Minute})
	r.beginDurable()
	begun = r.beginning()
	r.untilWaitingForBatches()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-begun; b != nil {
		t.Fatal("a batch began in a closed log")
	}
}

// Groups say what recovery makes of the batches one by one, in whatever order begin markers are registered.
func TestGroupsAgreeWithBatches(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		type span struct{ begin, end format.LSN }
		var s batches
		all := map[*openBatch]*span{}
		var reserved []*openBatch // not registered yet
		next, durable := format.LSN(100), format.LSN(0)
		for range 200 {
			next += format.LSN(1 + rng.IntN(3))
			switch k := rng.IntN(6); {
			case k <= 1:
				reserved = append(reserved, &openBatch{lsn: next})
			case k == 2 && len(s.open) > 0:
				b := s.open[rng.IntN(len(s.open))]
				all[b].end = next + 1
				s.ended(b, next+1)
			case k == 3: // durability does not pass a marker that is not registered
				most := next
				for _, b := range reserved {
					most = min(most, b.lsn)
				}
				durable = max(durable, most-format.LSN(rng.IntN(10)))
			case len(reserved) > 0:
				i := rng.IntN(len(reserved))
				b := reserved[i]
				reserved = append(reserved[:i], reserved[i+1:]...)
				all[b] = &span{begin: b.lsn}
				s.begin(b)
			}
			want, needed := durable, durable
			for again := true; again; {
				again = false
				for _, b := range all {
					if b.begin < want && (b.end == 0 || b.end > want) {
						want, again = b.begin, true
					}
				}
			}
			open := false
			for again := true; again; {
				again = false
				for _, b := range all {
					if b.begin <= needed && b.end == 0 {
						open = true
					} else if b.begin <= needed && b.end-1 > needed {
						needed, again = b.end-1, true
					}
				}
			}
			if got := s.limit(durable); got != want {
				t.Fatalf("seed %d: limit(%d) = %d, want %d", seed, durable, got, want)
			}
			if got := s.needed(durable); !open && got != needed {
				t.Fatalf("seed %d: needed(%d) = %d, want %d", seed, durable, got, needed)
			}
		}
	}
}

// MakeStable beside goroutines that begin, write and end batches without a pause returns: it waits for the batches that
// are open, and for none that begin later. Proves rule 18, trap 38.
func TestStableBesideBatchesWithoutPause(t *testing.T) {
	r := newRig(t, setup{patience: time.Minute})
	var stop atomic.Bool
	var begun atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := uint64(0); !stop.Load(); i++ {
				b, err := r.BeginBatch()
				if err == nil {
					begun.Add(1)
					_, err = r.put(format.KindAppend, format.PageID(g+2), body(10, i))
				}
				if err == nil {
					time.Sleep(time.Millisecond) // so that one of 8 is always open
					_, err = b.End()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for begun.Load() < 8 {
		runtime.Gosched()
	}
	for i := range 20 {
		lsn, err := r.put(format.KindAppend, 1, body(10, uint64(i)))
		if err == nil {
			err = r.MakeStable(lsn) // the watchdog ends a wait without end
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
