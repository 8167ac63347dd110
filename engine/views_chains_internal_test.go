package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
)

// The flags of this test and of TestViewsDoNotChange.
var (
	ViewsTime = flag.Duration("views.time", time.Second, "how long each test of held values takes at least")
	ViewsSeed = flag.Uint64("views.seed", 1, "seed of the tests of held values")
)

// chainPiece returns the only fragment that a page can have with a token and a size, so a holder can check each byte.
func chainPiece(pid PageID, token uint64, size int) []byte {
	b := make([]byte, 20, 20+size+8)
	binary.LittleEndian.PutUint64(b, uint64(pid))
	binary.LittleEndian.PutUint64(b[8:], token)
	binary.LittleEndian.PutUint32(b[16:], uint32(size))
	rng := rand.NewPCG(uint64(pid), token)
	for len(b) < 20+size {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:20+size]
}

// chainCheck checks that v consists of unchanged fragments of the page, in the order of their tokens, and counts them.
func chainCheck(pid PageID, v []byte) (n int, err error) {
	last := uint64(0)
	for len(v) > 0 {
		if len(v) < 20 || binary.LittleEndian.Uint64(v) != uint64(pid) {
			return n, fmt.Errorf("page %d: fragment %d: %d bytes of another page", pid, n, len(v))
		}
		token, size := binary.LittleEndian.Uint64(v[8:]), int(binary.LittleEndian.Uint32(v[16:]))
		if len(v) < 20+size || !bytes.Equal(v[:20+size], chainPiece(pid, token, size)) {
			return n, fmt.Errorf("page %d: fragment %d has changed", pid, n)
		}
		if token <= last {
			return n, fmt.Errorf("page %d: fragments out of order", pid)
		}
		last = token
		v = v[20+size:]
		n++
	}
	return n, nil
}

// chainTruth is what a page must hold.
type chainTruth struct {
	mu    sync.Mutex
	count int // fragments that its value consists of
}

// No value of a chain, a blob or a compressed page changes before its Tx ends, while pages are changed, moved and
// evicted in all ways at the same time. Each page's mutex is held over a Get and the change after it, so that the
// number of fragments is known exactly.
func TestViewsOfChainsDoNotChange(t *testing.T) {
	t.Parallel()
	const pages = 120
	seed := *ViewsSeed
	rng := rand.New(rand.NewPCG(seed, 23))
	dir := t.TempDir()
	var tokens atomic.Uint64
	truth := make([]chainTruth, pages)
	var reads, lives int
	var evicted, recycled, cons int64
	first := true
	t.Logf("replay: go test ./engine -run TestViewsOfChainsDoNotChange -args -views.seed=%d -views.time=%v",
		*ViewsSeed, *ViewsTime)
	for start := time.Now(); time.Since(start) < *ViewsTime || lives < 2; lives++ {
		o := &Options{SegmentSize: 16 << 10, IOBuffers: 2 + rng.IntN(3), ConsolidateAfter: 1 + rng.IntN(8),
			CacheCapacity: int64(1 + rng.IntN(300<<10)), FlushEvery: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
			CopyOnRead:  rng.IntN(8) == 0,
			Compression: Compression(rng.IntN(2)), CompressionLevel: 1, SnapshotEvery: 500 + rng.IntN(5000),
			seam: seam.Options{Eager: rng.IntN(2) == 0}}
		if rng.IntN(3) == 0 {
			o.CacheCapacity = 1
		}
		if rng.IntN(4) == 0 {
			o.IO = IOSyscall
		}
		pc := openTest(t, dir, o)
		if first {
			first = false
			tx := begin(t, pc)
			for i := range pages {
				pid := FirstUserPage + PageID(i)
				tok := tokens.Add(1)
				got, _, err := pc.Allocate(tx, chainPiece(pid, tok, rng.IntN(6000)))
				if err != nil || got != pid {
					t.Fatalf("allocated page %d, want %d, error %v", got, pid, err)
				}
				truth[i].count = 1
			}
			tx.End()
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		var total atomic.Int64
		for range 4 {
			rng := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() {
				for !stop.Load() && !t.Failed() {
					tx, err := pc.Begin()
					if err != nil {
						t.Error(err)
						return
					}
					type held struct {
						pid PageID
						v   []byte
					}
					var hs []held
					for range 1 + rng.IntN(10) {
						i := rng.IntN(pages)
						pid := FirstUserPage + PageID(i)
						p := &truth[i]
						p.mu.Lock()
						fail := func(what string, err error) {
							t.Errorf("%s page %d: %v", what, pid, err)
						}
						pg, err := pc.Get(tx, pid)
						if err != nil {
							fail("get", err)
							p.mu.Unlock()
							break
						}
						n, err := chainCheck(pid, pg.Value)
						if err != nil || n != p.count {
							fail("check", fmt.Errorf("%d fragments, want %d, %v", n, p.count, err))
							p.mu.Unlock()
							break
						}
						total.Add(1)
						hs = append(hs, held{pid, pg.Value})
						ok, werr := true, error(nil)
						switch k := rng.IntN(12); {
						case k < 3 && p.count < 12:
							tok := tokens.Add(1)
							_, ok, werr = pc.Link(tx, pid, pg.Ptr, chainPiece(pid, tok, rng.IntN(200)))
							p.count++
						case k < 5:
							tok := tokens.Add(1)
							size := rng.IntN(2500)
							if rng.IntN(8) == 0 {
								size = rng.IntN(9000)
							}
							_, ok, werr = pc.Replace(tx, pid, pg.Ptr, chainPiece(pid, tok, size))
							p.count = 1
						case k == 5:
							_, ok, werr = pc.Replace(tx, pid, pg.Ptr, pg.Value)
						case k == 6:
							ptr, fr, err := pc.Fragments(tx, pid)
							werr = err
							if err == nil && ptr.ts != pg.Ptr.ts {
								werr = fmt.Errorf("timestamp %d from Fragments, %d from Get", ptr.ts, pg.Ptr.ts)
							}
							var all []byte
							for j := len(fr) - 1; j >= 0; j-- {
								all = append(all, fr[j]...)
							}
							if n, err := chainCheck(pid, all); err != nil || n != p.count {
								werr = fmt.Errorf("%d fragments, want %d, %v", n, p.count, err)
							}
						case k == 7:
							_, werr = pc.AttemptGC()
							if errors.Is(werr, logstore.ErrLater) {
								werr = nil
							}
						case k == 8:
							pc.mem.evict(tx.base(), pid, true)
						case k == 9:
							v := evictor[[]byte]{pc}
							v.Evict(uint64(pid))
						case k == 10:
							a, b := FirstUserPage+PageID(rng.IntN(pages)), FirstUserPage+PageID(rng.IntN(pages))
							werr = pc.Prefetch(tx, pid, a, b)
						case k == 11 && rng.IntN(20) == 0:
							werr = pc.Snapshot()
						}
						if werr != nil || !ok {
							fail("write", fmt.Errorf("won %v: %v", ok, werr))
						}
						p.mu.Unlock()
					}
					if rng.IntN(3) == 0 {
						time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
					}
					for _, h := range hs {
						if _, err := chainCheck(h.pid, h.v); err != nil {
							t.Error("held value:", err)
						}
					}
					tx.End()
				}
			})
		}
		time.Sleep(300 * time.Millisecond)
		stop.Store(true)
		soon(t, "goroutines that hold values", wg.Wait)
		st := pc.Stats()
		evicted, recycled, cons = evicted+st.Cache.Evictions, recycled+st.Space.Recycled, cons+st.Pages.Consolidations
		reads += int(total.Load())
		if rng.IntN(2) == 0 {
			resume := quiet(pc)
			heap, mapped := residentTruth(t, pc)
			settleAll(pc)
			if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
				t.Errorf("counted %d bytes on the heap and %d mapped, resident are %d and %d", h, m, heap, mapped)
			}
			resume()
		}
		closeTest(t, pc)
		if t.Failed() {
			t.FailNow()
		}
		if rng.IntN(4) == 0 {
			r, err := Check(dir, nil, func(err error) { t.Error(err) })
			if err != nil || r.Problems > 0 {
				t.Fatalf("check: %v, %+v", err, r)
			}
		}
	}
	t.Logf("%d lives, %d reads, %d evicted, %d recycled, %d consolidated", lives, reads, evicted, recycled, cons)
}
