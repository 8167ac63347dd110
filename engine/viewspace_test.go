package engine_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
)

// full is a store of pages that are overwritten again and again.
type full struct {
	t    *testing.T
	pc   *engine.PageCache[[]byte]
	rng  *rand.Rand
	pids []engine.PageID
	size int
	n    uint64 // overwrites
}

// value returns a value that says how many overwrites there were before.
func (f *full) value() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, f.size), f.n)
	for len(b) < f.size {
		b = binary.LittleEndian.AppendUint64(b, f.rng.Uint64())
	}
	f.n++
	return b
}

// overwrite replaces random pages, times times as many as there are, and returns the most bytes that the files took.
func (f *full) overwrite(times int) (most int64) {
	for i := range times * len(f.pids) {
		tx := enginetest.Begin(f.t, f.pc)
		pid := f.pids[f.rng.IntN(len(f.pids))]
		ptr, _, err := f.pc.State(tx, pid)
		if err == nil {
			_, _, err = f.pc.Replace(tx, pid, ptr, f.value())
		}
		tx.End()
		if err != nil {
			f.t.Fatal(err)
		}
		if i%(1+len(f.pids)/20) == 0 {
			st := f.pc.Stats().Space
			most = max(most, st.FileBytes+st.BlobBytes)
		}
	}
	return most
}

// A View that is open while twenty times the live data is overwritten doubles the file at most, and sees the values of
// its beginning throughout. Views that begin and end meanwhile hold nothing back. Pages of many segments, in messages
// and in blobs, are moved, and segments recycled, beside it. Proves Q8 and Q9.
func TestViewHoldsLittle(t *testing.T) {
	t.Parallel()
	times := 20
	if testing.Short() || invariants.Enabled {
		times = 5
	}
	for _, c := range []struct {
		name                string
		pages, size, inline int
	}{{"pages", 4000, 1000, 20 << 10}, {"blobs", 100, 3000, 1000}} {
		t.Run(c.name, func(t *testing.T) {
			pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 128 << 10, ConsolidateAfter: 4,
				FlushEvery: 10 * time.Millisecond, CacheCapacity: 1 << 20})
			defer enginetest.Close(t, pc)
			engine.SetInline(pc, c.inline)
			f := &full{t: t, pc: pc, rng: rand.New(rand.NewPCG(1, 19)), size: c.size}
			for range c.pages {
				pid, _ := enginetest.Allocate(t, pc, f.value())
				f.pids = append(f.pids, pid)
			}
			usual := f.overwrite(10)
			check := func(tx *engine.Tx[[]byte], before uint64) (values [][]byte) {
				t.Helper()
				for _, pid := range f.pids {
					p, err := tx.Get(pid)
					if err != nil || len(p.Value) != c.size {
						t.Fatalf("page %d: %d bytes, %v", pid, len(p.Value), err)
					}
					if n := binary.LittleEndian.Uint64(p.Value); n >= before {
						t.Fatalf("page %d has overwrite %d, the View began before %d", pid, n, before)
					}
					values = append(values, p.Value)
				}
				return values
			}
			if err := engine.EvictAll(pc, f.pids); err != nil { // the View gets views of the disk
				t.Fatal(err)
			}
			most := int64(0)
			if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
				before := f.n
				values := check(tx, before)
				copies := make([][]byte, len(values))
				for i, v := range values {
					copies[i] = bytes.Clone(v)
				}
				for range times {
					most = max(most, f.overwrite(1))
					for i, v := range check(tx, before) {
						if !bytes.Equal(v, copies[i]) || !bytes.Equal(values[i], copies[i]) {
							t.Fatalf("page %d has changed in a View", f.pids[i])
						}
					}
					if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
						check(tx, f.n)
						return nil
					}); err != nil {
						return err
					}
				}
				st := pc.Stats()
				t.Logf("%d versions kept, %d segments wait", st.Txs.Versions, st.Space.Draining)
				if n := st.Txs.Versions; n > int64(len(f.pids)) {
					t.Errorf("%d versions are kept for one View of %d pages", n, len(f.pids))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes, %d beside a View: %.2f times", usual, most, float64(most)/float64(usual))
			limit := 2 * usual
			if enginetest.Raced || invariants.Enabled {
				limit += usual / 4 // the cleaner is later than the writers allow for
			}
			if most > limit {
				t.Errorf("the file takes %d bytes beside a View, and %d without", most, usual)
			}
			// The segments that it held back are recycled.
			for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
				if st := pc.Stats(); st.Space.Draining <= 4 && st.Txs.Versions == 0 {
					break
				} else if time.Since(start) > 10*time.Second {
					t.Fatalf("%d segments wait, %d versions are kept", st.Space.Draining, st.Txs.Versions)
				}
				f.overwrite(1)
			}
		})
	}
}
