package engine_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/enginetest"
)

// Messages that eviction writes are credited to the cleaner's budget like those of callers, so the space in use stays
// limited. Trap 15.
func TestEvictionKeepsSpaceLimited(t *testing.T) {
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
