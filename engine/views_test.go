package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
)

var (
	viewsTime = flag.Duration("views.time", time.Second, "how long TestViews holds views through everything")
	viewsSeed = flag.Uint64("views.seed", 1, "seed of TestViews")
)

const viewsPages = 300

// viewsValue is the only value that a page can have at a token, so a holder can check whether any byte has changed.
func viewsValue(pid PageID, token uint64, size int) []byte {
	b := make([]byte, 16, 16+size)
	binary.LittleEndian.PutUint64(b, uint64(pid))
	binary.LittleEndian.PutUint64(b[8:], token)
	rng := rand.NewPCG(uint64(pid), token)
	for len(b) < 16+size {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b
}

func viewsCheck(pid PageID, v []byte) error {
	if len(v) < 16 || binary.LittleEndian.Uint64(v) != uint64(pid) {
		return fmt.Errorf("page %d: %d bytes, of another page", pid, len(v))
	}
	if want := viewsValue(pid, binary.LittleEndian.Uint64(v[8:]), len(v)-16); !bytes.Equal(v, want[:len(v)]) {
		return fmt.Errorf("page %d: the value has changed", pid)
	}
	return nil
}

// viewer reads and writes pages at random, and holds the values that it has read while other work goes on.
type viewer struct {
	pc     *PageCache[[]byte]
	rng    *rand.Rand
	tokens *atomic.Uint64
	held   int64
}

func (v *viewer) round() error {
	tx, err := v.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	type holding struct {
		pid PageID
		val []byte
	}
	var held []holding
	for range 1 + v.rng.IntN(20) {
		pid := FirstUserPage + PageID(v.rng.IntN(viewsPages))
		p, err := v.pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if p.Kind == KindMaterialized {
			held = append(held, holding{pid, p.Value})
		}
		switch n := v.rng.IntN(12); {
		case p.Kind != KindMaterialized:
			var at PageID
			at, p.Ptr, err = v.pc.Allocate(tx, nil) // it does not know its id before
			if err == nil && at >= FirstUserPage+viewsPages {
				_, _, err = v.pc.Free(tx, at, p.Ptr)
			} else if err == nil {
				_, _, err = v.pc.Replace(tx, at, p.Ptr, viewsValue(at, v.tokens.Add(1), v.rng.IntN(3000)))
			}
		case n < 4:
			_, _, err = v.pc.Replace(tx, pid, p.Ptr, viewsValue(pid, v.tokens.Add(1), v.rng.IntN(3000)))
		case n == 4:
			_, _, err = v.pc.Replace(tx, pid, p.Ptr, p.Value) // a view given back
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
			continue // allocated, and not written yet
		}
		if err := viewsCheck(h.pid, h.val); err != nil {
			return err
		}
		v.held++
	}
	return nil
}

// No value that was returned changes or goes away before its Tx ends. Values are held, and looked at again, through
// overwriting, cleaning, recycling, shrinking, eviction and closing. With the invariants tag, recycled memory faults.
// Proves rules 2, 3 and 4, trap 9.
//
//	go test ./engine -tags invariants -run TestViews -args -views.time=1h
func TestViews(t *testing.T) {
	t.Logf("replay: go test ./engine -run TestViews -args -views.seed=%d -views.time=%v", *viewsSeed, *viewsTime)
	rng := rand.New(rand.NewPCG(*viewsSeed, 23))
	dir := t.TempDir()
	held, lives := int64(0), 0
	recycled, evicted := int64(0), int64(0)
	var tokens atomic.Uint64
	var heldMu sync.Mutex
	for start := time.Now(); time.Since(start) < *viewsTime || lives < 2; lives++ {
		pc := openTest(t, dir, &Options{SegmentSize: 16 << 10, IOBuffers: 2 + rng.IntN(3),
			ConsolidateAfter: 1 + rng.IntN(5), CacheCapacity: int64(1 + rng.IntN(200<<10)),
			FlushEvery: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
			CopyOnRead: rng.IntN(8) == 0, seam: seam.Options{Eager: rng.IntN(2) == 0}})
		if lives == 0 {
			tx := begin(t, pc)
			for i := range viewsPages {
				pid := FirstUserPage + PageID(i)
				got, _, err := pc.Allocate(tx, viewsValue(pid, tokens.Add(1), rng.IntN(3000)))
				if err != nil || got != pid {
					t.Fatal(got, err)
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
						if !errors.Is(err, ErrClosed) {
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
		time.Sleep(min(*viewsTime/2, 300*time.Millisecond))
		st := pc.Stats()
		recycled, evicted = recycled+st.Space.Recycled, evicted+st.Cache.Evictions
		if rng.IntN(2) == 0 {
			stop.Store(true)
			wg.Wait()
		}
		closeTest(t, pc) // else beside them: it waits until they have looked at what they hold
		stop.Store(true)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		runtime.GC()
	}
	t.Logf("%d values held in %d lives; %d segments recycled, %d pages paged out", held, lives, recycled, evicted)
	if recycled == 0 || evicted == 0 {
		t.Error("nothing was recycled or paged out")
	}
}
