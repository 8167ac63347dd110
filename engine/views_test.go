package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
)

const viewsPages = 300

// viewsValue returns the only value that a page can have with a token, so a holder can check each byte.
func viewsValue(pid engine.PageID, token uint64, size int) []byte {
	b := make([]byte, 16, 16+size)
	binary.LittleEndian.PutUint64(b, uint64(pid))
	binary.LittleEndian.PutUint64(b[8:], token)
	rng := rand.NewPCG(uint64(pid), token)
	for len(b) < 16+size {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b
}

// viewsCheck checks that v is unchanged.
func viewsCheck(pid engine.PageID, v []byte) error {
	if len(v) < 16 || binary.LittleEndian.Uint64(v) != uint64(pid) {
		return fmt.Errorf("page %d: %d bytes of another page", pid, len(v))
	}
	if want := viewsValue(pid, binary.LittleEndian.Uint64(v[8:]), len(v)-16); !bytes.Equal(v, want[:len(v)]) {
		return fmt.Errorf("page %d: the value has changed", pid)
	}
	return nil
}

// viewer reads and writes pages at random, and holds the values that it has read while other goroutines work.
type viewer struct {
	pc     *engine.PageCache[[]byte]
	rng    *rand.Rand
	tokens *atomic.Uint64
	held   int64 // values that were held and checked
}

// round is one Tx: it reads and changes pages, then checks the values that it read.
func (v *viewer) round() error {
	tx, err := v.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	type holding struct {
		pid engine.PageID
		val []byte
	}
	var held []holding
	for range 1 + v.rng.IntN(20) {
		pid := engine.FirstUserPage + engine.PageID(v.rng.IntN(viewsPages))
		p, err := v.pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if p.Kind == engine.KindMaterialized {
			held = append(held, holding{pid, p.Value})
		}
		switch n := v.rng.IntN(12); {
		case p.Kind != engine.KindMaterialized:
			var at engine.PageID
			at, p.Ptr, err = v.pc.Allocate(tx, nil) // the value depends on the id, which is not known before
			if err == nil && at >= engine.FirstUserPage+viewsPages {
				_, _, err = v.pc.Free(tx, at, p.Ptr)
			} else if err == nil {
				_, _, err = v.pc.Replace(tx, at, p.Ptr, viewsValue(at, v.tokens.Add(1), v.rng.IntN(3000)))
			}
		case n < 4:
			_, _, err = v.pc.Replace(tx, pid, p.Ptr, viewsValue(pid, v.tokens.Add(1), v.rng.IntN(3000)))
		case n == 4:
			_, _, err = v.pc.Replace(tx, pid, p.Ptr, p.Value) // a view is passed back
		case n == 5 && v.rng.IntN(4) == 0:
			_, _, err = v.pc.Free(tx, pid, p.Ptr)
		case n == 6:
			_, err = v.pc.AttemptGC()
		case n == 7:
			err = v.pc.SetCacheCapacity(int64(1 + v.rng.IntN(256<<10)))
		}
		if err != nil {
			return err
		}
	}
	if v.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(v.rng.IntN(3000)) * time.Microsecond)
	}
	for _, h := range held {
		if len(h.val) == 0 {
			continue // allocated, but not yet replaced
		}
		if err := viewsCheck(h.pid, h.val); err != nil {
			return err
		}
		v.held++
	}
	return nil
}

// No value that Get returned changes or becomes unreadable before its Tx ends. Goroutines hold values and check them
// after overwriting, cleaning, recycling, shrinking, eviction and closing. With the invariants tag, access to recycled
// memory faults. Proves rules 2, 3 and 4, trap 9.
//
//	go test ./engine -tags invariants -run TestViewsDoNotChange -args -views.time=1h
func TestViewsDoNotChange(t *testing.T) {
	t.Parallel()
	long := *engine.ViewsTime
	t.Logf("replay: go test ./engine -run TestViewsDoNotChange -args -views.seed=%d -views.time=%v",
		*engine.ViewsSeed, long)
	rng := rand.New(rand.NewPCG(*engine.ViewsSeed, 23))
	dir := t.TempDir()
	held, lives := int64(0), 0
	recycled, evicted := int64(0), int64(0)
	var tokens atomic.Uint64
	var heldMu sync.Mutex
	for start := time.Now(); time.Since(start) < long || lives < 2; lives++ {
		pc := enginetest.Open(t, dir, enginetest.WithSeam(&engine.Options{
			SegmentSize: 16 << 10, IOBuffers: 2 + rng.IntN(3),
			ConsolidateAfter: 1 + rng.IntN(5), CacheCapacity: int64(1 + rng.IntN(200<<10)),
			FlushEvery: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
			CopyOnRead: rng.IntN(8) == 0}, seam.Options{Eager: rng.IntN(2) == 0}))
		if lives == 0 {
			tx := enginetest.Begin(t, pc)
			for i := range viewsPages {
				pid := engine.FirstUserPage + engine.PageID(i)
				got, _, err := pc.Allocate(tx, viewsValue(pid, tokens.Add(1), rng.IntN(3000)))
				if err != nil || got != pid {
					t.Fatalf("allocated page %d, want %d, error %v", got, pid, err)
				}
			}
			tx.End()
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			v := &viewer{pc: pc, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), tokens: &tokens}
			wg.Go(func() {
				for !stop.Load() {
					if err := v.round(); err != nil {
						if !errors.Is(err, engine.ErrClosed) {
							t.Error(err)
						}
						break
					}
				}
				heldMu.Lock()
				held += v.held
				heldMu.Unlock()
			})
		}
		time.Sleep(min(long/2, 300*time.Millisecond))
		st := pc.Stats()
		recycled, evicted = recycled+st.Space.Recycled, evicted+st.Cache.Evictions
		if rng.IntN(2) == 0 {
			stop.Store(true)
			enginetest.Soon(t, "goroutines that hold values", wg.Wait)
		}
		enginetest.Close(t, pc) // half of the time beside the goroutines: it waits until they have checked their values
		stop.Store(true)
		enginetest.Soon(t, "goroutines that hold values", wg.Wait)
		if t.Failed() {
			t.FailNow()
		}
		runtime.GC()
	}
	t.Logf("%d values held in %d lives; %d segments recycled, %d pages evicted", held, lives, recycled, evicted)
	if recycled == 0 || evicted == 0 {
		t.Errorf("%d segments recycled, %d pages evicted, want some of each", recycled, evicted)
	}
}
