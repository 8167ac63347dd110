package iobuf

import (
	"errors"
	"math/rand/v2"
	"testing"

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
