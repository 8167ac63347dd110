package engine

import (
	"bytes"
	"encoding/json"
	"runtime"
	"testing"
	"time"

	"pagecache/engine/internal/scope"
	"pagecache/internal/apart"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// After a moment with many Txs, a call that looks at Txs looks at as many as are open now, and those that are not used
// are given up. The bytes that they have written still count. Trap 48.
func TestCostFollowsOpenTxs(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, FlushEvery: -1})
	defer closeTest(t, pc)
	defer quiet(pc)() // the cleaner looks at Txs too
	looks := func() int64 {
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, []byte("y"))
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Free(tx, pid, ptr))
		tx.End()
		before := pc.txs.Domain.Looked()
		tx = begin(t, pc)
		again, _, err := pc.Allocate(tx, []byte("y"))
		if err != nil || again != pid {
			t.Fatalf("page %d is allocated, %d was freed, %v", again, pid, err)
		}
		tx.End()
		return pc.txs.Domain.Looked() - before
	}
	const lookGives = 3*format.HeaderSize + 2 // bytes that looks writes
	looks()
	few := looks()
	const burst = 10_000
	all := make([]*Tx[[]byte], burst)
	for i := range all {
		all[i] = begin(t, pc)
		if i%100 == 0 {
			if _, _, err := pc.Allocate(all[i], make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := pc.Stats().Txs; st.Open != burst || st.Kept < burst {
		t.Errorf("%d Txs are open, %d kept, want %d", st.Open, st.Kept, burst)
	}
	// While they are open they hold a freed id back. A look at the oldest is enough to see that.
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("z"))
	if err != nil {
		t.Fatal(err)
	}
	must(t)(pc.Free(tx, pid, ptr))
	before := pc.txs.Domain.Looked()
	for range 100 {
		if again, _, err := pc.Allocate(tx, []byte("z")); err != nil || again == pid {
			t.Fatalf("page %d is allocated, which Txs can still see, %v", again, err)
		}
	}
	if n := pc.txs.Domain.Looked() - before; n > 3*burst {
		t.Errorf("100 Allocates beside %d Txs look at %d", burst, n)
	}
	tx.End()
	given := pc.Stats().Log.BytesGiven
	for _, tx := range all {
		tx.End()
	}
	looks() // pays for the burst
	for range 3 {
		if n := looks(); n > few+2*scope.Many {
			t.Errorf("an Allocate after the burst looks at %d Txs, before it at %d", n, few)
		}
	}
	if st := pc.Stats().Txs; st.Open != 0 || st.Kept > scope.Many || pc.mem.budget.Accounts() > scope.Many {
		t.Errorf("Txs after the burst: %+v, %d accounts", st, pc.mem.budget.Accounts())
	}
	if n := pc.Stats().Log.BytesGiven; n != given+4*lookGives {
		t.Errorf("%d bytes were given, %d are counted", given+4*lookGives, n)
	}
}

// A store that is idle after a moment with many Txs gives them up by itself. Trap 48.
func TestIdleTxsAreGivenUp(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1})
	defer closeTest(t, pc)
	var all []*Tx[[]byte]
	for range 1000 {
		all = append(all, begin(t, pc))
	}
	for _, tx := range all {
		tx.End()
	}
	for start := time.Now(); pc.Stats().Txs.Kept > scope.Many; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%d Txs stay", pc.Stats().Txs.Kept)
		}
	}
	tx := begin(t, pc)
	if _, _, err := pc.Allocate(tx, []byte("x")); err != nil {
		t.Error(err)
	}
	tx.End()
}

// No write, and no Get, takes a lock of the blobs or of the Txs, or looks at them, even while values are mapped: they
// go on while those locks are held. Trap 40.
func TestCallsTakeNoLockOfBlobsOrTxs(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, FlushEvery: -1})
	defer closeTest(t, pc)
	defer quiet(pc)()
	pids := some(t, pc, 20, 5000) // blobs
	small := some(t, pc, 5, 100)
	flushTest(t, pc)
	evictAll(t, pc, append(pids, small...))
	tx := begin(t, pc)
	read := func(when string) {
		t.Helper()
		for _, pid := range append(pids, small...) {
			if p, err := pc.Get(tx, pid); err != nil || len(p.Value) == 0 {
				t.Errorf("%s: page %d: %d bytes, %v", when, pid, len(p.Value), err)
			}
		}
	}
	read("from the disk") // every blob is mapped now
	for _, pid := range append(pids, small...) {
		pc.mem.evict(tx.base(), pid, true)
	}
	resume := pc.blobs.Pause()
	resumeTxs := pc.txs.Pause()
	looked := pc.txs.Domain.Looked()
	soon(t, "calls while the locks of blobs and Txs are held", func() {
		read("beside the locks")
		p, err := pc.Get(tx, pids[0])
		if err != nil {
			t.Error(err)
			return
		}
		for _, pid := range small {
			q, err := pc.Get(tx, pid)
			if err != nil {
				t.Error(err)
				return
			}
			ptr := must(t)(pc.Link(tx, pid, q.Ptr, p.Value[:10])) // a view of a blob
			ptr = must(t)(pc.Replace(tx, pid, ptr, q.Value))      // a view of the log
			must(t)(pc.Link(tx, pid, ptr, []byte("x")))
		}
		if _, _, err := pc.Allocate(tx, p.Value[:100]); err != nil {
			t.Error(err)
		}
	})
	resumeTxs()
	resume()
	if n := pc.txs.Domain.Looked() - looked; n != 0 {
		t.Errorf("the calls looked at %d Txs", n)
	}
	tx.End()
}

// longPage is a page of a type that must be encoded.
type longPage struct{ Body []byte }

type longPages struct{}

func (longPages) Merge(frags []*longPage) *longPage {
	return &longPage{bytes.Clone(frags[len(frags)-1].Body)}
}
func (longPages) Size(p *longPage) int { return 24 + len(p.Body) }
func (longPages) Append(dst []byte, p *longPage) []byte {
	b, _ := json.Marshal(p)
	return append(dst, b...)
}
func (longPages) Decode(src []byte) (*longPage, error) {
	p := new(longPage)
	return p, json.Unmarshal(src, p)
}

// The memory in which many Txs have encoded and compressed long values follows the calls, not the Txs: it is limited
// while they are open, and is gone when the store is idle. Stats show it. Trap 48.
func TestScratchMemoryIsLimitedAndReleased(t *testing.T) {
	if apart.Run(t) {
		return
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, c := range []Compression{CompressionNone, CompressionZstd} {
		pc, err := Open(t.TempDir(), longPages{}, &Options{CacheCapacity: 8 << 20, Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		const n = 40
		txs := make([]*Tx[*longPage], n)
		for i := range txs {
			if txs[i], err = pc.Begin(); err != nil {
				t.Fatal(err)
			}
		}
		v := &longPage{make([]byte, 200<<10)}
		for _, tx := range txs {
			pid, ptr, err := pc.Allocate(tx, v)
			if err == nil {
				_, _, err = pc.Free(tx, pid, ptr)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		st := pc.Stats().Scratch
		if st.Bytes == 0 || st.Bytes > st.Limit || st.Limit < keptScratch {
			t.Errorf("%v: scratch %+v", c, st)
		}
		if taken := heap() - before; taken > st.Limit+pc.Stats().Cache.HeapResident+4<<20 {
			t.Errorf("%v: %d bytes are taken while %d Txs are open, scratch %+v", c, taken, n, st)
		}
		for _, tx := range txs {
			tx.End()
		}
		for start := time.Now(); pc.Stats().Scratch.Bytes > 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > 30*time.Second {
				t.Fatalf("%v: scratch of an idle store: %+v", c, pc.Stats().Scratch)
			}
		}
		if taken := heap() - before; taken > pc.Stats().Cache.HeapResident+4<<20 {
			t.Errorf("%v: %d bytes are taken when idle", c, taken)
		}
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Beside 10 000 blobs, which are all mapped or have been looked up, a call on another page allocates as often as beside
// none, and takes about as long: a scan of the blobs would take a hundred times as long. Trap 40.
func TestCallsCostTheSameBesideManyBlobs(t *testing.T) {
	if apart.Run(t) {
		return
	}
	if raced || invariants.Enabled {
		t.Skip("calls cost more in debug builds")
	}
	const rounds, calls = 8, 100
	measure := func(blobs int) (allocs float64, took time.Duration) {
		o := &Options{SegmentSize: 64 << 10, FlushEvery: -1, CacheCapacity: 1 << 30, Temporary: true} // in memory
		pc := openTest(t, "", o)
		defer closeTest(t, pc)
		defer quiet(pc)()
		pids := some(t, pc, blobs, 17<<10)
		flushTest(t, pc)
		evictAll(t, pc, pids)
		tx := begin(t, pc)
		defer tx.End()
		for _, pid := range pids {
			if _, err := pc.Get(tx, pid); err != nil {
				t.Fatal(err)
			}
		}
		if n, _ := pc.blobs.Count(); n != blobs {
			t.Fatalf("%d blobs, want %d", n, blobs)
		}
		value := make([]byte, 20)
		call := func() {
			pid, ptr, err := pc.Allocate(tx, value)
			if err != nil {
				t.Fatal(err)
			}
			ptr = must(t)(pc.Link(tx, pid, ptr, value))
			must(t)(pc.Replace(tx, pid, ptr, value))
			if _, err := pc.Get(tx, pid); err != nil {
				t.Fatal(err)
			}
		}
		took = time.Hour
		for range rounds {
			start := time.Now()
			allocs = testing.AllocsPerRun(calls, call)
			took = min(took, time.Since(start))
		}
		return allocs, took
	}
	few, quick := measure(0)
	many := 10_000
	if testing.Short() {
		many = 1000
	}
	allocs, took := measure(many)
	t.Logf("%d blobs: %v allocations and %v for %d calls of each kind; without: %v, %v", many, allocs, took, calls, few,
		quick)
	if allocs > few+1 || took > 20*quick {
		t.Error("calls beside blobs cost more")
	}
}
