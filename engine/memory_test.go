package engine_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/enginetest"
)

// Messages that eviction writes are credited to the cleaner's budget like those of callers, so the space in use stays
// limited. Trap 15.
func TestEvictionKeepsSpaceLimited(t *testing.T) {
	t.Parallel()
	const pages, size = 3000, 8000
	rounds := 60_000
	if testing.Short() {
		rounds = 20_000
	}
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 256 << 10, CacheCapacity: 2 << 20,
		FlushEvery: 5 * time.Millisecond})
	pids := enginetest.AllocateMany(t, pc, pages, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range rounds {
		tx := enginetest.Begin(t, pc)
		pid := pids[rng.IntN(pages)]
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Link(tx, pid, p.Ptr, binary.LittleEndian.AppendUint32(nil, uint32(i))))
		tx.End()
	}
	// While much is written a small store uses clean.MostSegments more than it needs.
	st := pc.Stats()
	limit := st.Space.LiveBytes*3/2 + (clean.MostSegments+16)*256<<10
	if int64(st.Space.SegmentsInUse)*256<<10 > limit || st.Pages.Consolidations == 0 {
		t.Errorf("%d KiB are in use, the limit is %d KiB; %+v", st.Space.SegmentsInUse*256, limit>>10, st)
	}
	enginetest.Close(t, pc)
}

// A Link or Replace from a state that the page has left copies nothing of the value: it cannot win (rule 6).
func TestLosersCopyNothing(t *testing.T) {
	const size, calls = 1 << 20, 20
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{})
	tx := enginetest.Begin(t, pc)
	pid, old, err := pc.Allocate(tx, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	now := enginetest.Must(t)(pc.Replace(tx, pid, old, []byte("b")))
	value := make([]byte, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, from := range []engine.PagePtr[[]byte]{old, {}} {
		for range calls {
			if ptr, won, err := pc.Replace(tx, pid, from, value); won || err != nil || ptr != now {
				t.Fatalf("replace: %v, won %v, error %v, want %v", ptr, won, err, now)
			}
			if ptr, won, err := pc.Link(tx, pid, from, value); won || err != nil || ptr != now {
				t.Fatalf("link: %v, won %v, error %v, want %v", ptr, won, err, now)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > calls*size {
		t.Errorf("%d calls that did not win allocated %d bytes", 4*calls, n)
	}
	tx.End()
	enginetest.Close(t, pc)
}
