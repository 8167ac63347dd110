package iobuf

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// clockDevice completes each write a fixed time after it was submitted, and keeps nothing.
type clockDevice struct {
	took   time.Duration
	flight []time.Time // when each write in flight completes
	tags   []uint64
}

func (d *clockDevice) Depth() int   { return 4 }
func (d *clockDevice) Block() int   { return 512 }
func (d *clockDevice) Close() error { return nil }

func (d *clockDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	for _, w := range writes {
		d.flight, d.tags = append(d.flight, time.Now().Add(d.took)), append(d.tags, w.Tag)
	}
	if min > 0 && len(d.flight) > 0 {
		time.Sleep(time.Until(d.flight[0]))
	}
	for len(d.flight) > 0 && !d.flight[0].After(time.Now()) {
		dst = append(dst, vfs.Completion{Tag: d.tags[0]})
		d.flight, d.tags = d.flight[1:], d.tags[1:]
	}
	return dst, nil
}

// MakeStable beside goroutines that begin, write and end batches without a pause takes at most the longest batch and
// two flushes, in the time of a fake clock. Rarely it takes a third flush: if the leader comes while a batch that has
// waited begins, the block with the end of the group is not complete yet. Proves rule 18, trap 38.
func TestStableBesideBatchesInTime(t *testing.T) {
	const longest = 8 * time.Millisecond
	for _, flush := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		for seed := range uint64(4) {
			synctest.Test(t, func(t *testing.T) {
				took := besideBatches(t, flush, longest, seed)
				slices.Sort(took)
				most, nearly := took[len(took)-1], took[len(took)*9/10]
				if limit := longest + 2*flush + time.Millisecond; nearly > limit || most > limit+flush {
					t.Errorf("seed %d, batches of %v, flushes of %v: MakeStable took %v, mostly %v; want at most %v",
						seed, longest, flush, most, nearly, limit)
				}
			})
		}
	}
}

// besideBatches returns how long calls of MakeStable took beside 8 goroutines with batches that take up to longest.
func besideBatches(t *testing.T, flush, longest time.Duration, seed uint64) (took []time.Duration) {
	const segment = 16 << 20 // so long that no full segment is written meanwhile
	s := &memSpace{limit: 100, sealed: map[format.LSN]bool{}, slots: map[format.LSN]format.SegmentID{}}
	l, err := New(Config{Device: &clockDevice{took: flush}, Space: s, Generation: testGeneration,
		Buffers: [][]byte{aligned(segment), aligned(segment)}, Patience: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Log: l, t: t}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range uint64(8) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, g))
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				b, err := r.BeginBatch()
				if err == nil {
					_, err = r.put(format.KindAppend, format.PageID(g+2), body(10, i))
				}
				if err == nil {
					time.Sleep(time.Duration(1 + rng.Int64N(int64(longest))))
					_, err = b.End()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 100))
	for i := range uint64(100) {
		time.Sleep(time.Duration(rng.Int64N(int64(3 * flush))))
		lsn, err := r.put(format.KindAppend, 1, body(10, i))
		start := time.Now()
		if err == nil {
			err = r.MakeStable(lsn)
		}
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	close(stop)
	wg.Wait()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return took
}
