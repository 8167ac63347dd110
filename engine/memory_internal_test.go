package engine

import (
	"bytes"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/pagetable"
	"pagecache/engine/internal/seam"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

// A resident view of a long value does not change when its segment is cleaned, even if the value is longer than the
// scratch memory that a Tx keeps. Proves rule 3.
func TestCleaningKeepsLongViews(t *testing.T) {
	t.Parallel()
	const size = 1<<20 + 4096
	dir := t.TempDir()
	o := &Options{SegmentSize: 8 << 20, FlushEvery: -1, seam: seam.Options{Eager: true}}
	pc := openTest(t, dir, o)
	resume := pc.cleaner.Pause()
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, want)
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	filler := some(t, pc, 12, 1<<20) // fills two segments
	flushTest(t, pc)
	tx = begin(t, pc)
	pc.mem.evict(tx.base(), pid, true)
	tx.End()
	tx = begin(t, pc)
	p, err := pc.Get(tx, pid) // a view
	if err != nil || !bytes.Equal(p.Value, want) {
		t.Fatalf("get: %d bytes, want %d, %v", len(p.Value), len(want), err)
	}
	if !pc.core.store.View.Holds(int64(headOf(pc, pid).Ptr().Off), p.Value) {
		t.Fatal("the value is not a view")
	}
	tx.End()
	for _, f := range filler { // leaves the page alone in its segment
		tx := begin(t, pc)
		p, err := pc.Get(tx, f)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Replace(tx, f, p.Ptr, []byte("x")))
		tx.End()
	}
	flushTest(t, pc)
	before := headOf(pc, pid).Ptr()
	resume() // from now on the cleaner may move the page before cleanAll does
	cleanAll(t, pc)
	if headOf(pc, pid).Ptr() == before {
		t.Fatal("cleaning did not move the page")
	}
	tx = begin(t, pc)
	p, err = pc.Get(tx, pid)
	if err != nil || !bytes.Equal(p.Value, want) {
		t.Errorf("after moving: %d bytes, want %d, %v", len(p.Value), len(want), err)
	}
	ptr := p.Ptr
	for range 11 { // until it is consolidated
		ptr = must(t)(pc.Link(tx, pid, ptr, []byte("d")))
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, &Options{})
	tx = begin(t, pc)
	p, err = pc.Get(tx, pid)
	if err != nil || len(p.Value) != size+11 {
		t.Errorf("after linking, consolidating and reopening: %d bytes, want %d, %v", len(p.Value), size+11, err)
	}
	tx.End()
	closeTest(t, pc)
}

// Gets that consolidate pages keep the resident bytes within the capacity, even while a batch is open. Trap 8.
func TestConsolidatingGetsKeepTheCapacity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pc := openTest(t, dir, &Options{ConsolidateAfter: 10})
	var pids []PageID
	for range 3000 {
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, make([]byte, 4000))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ptr = must(t)(pc.Link(tx, pid, ptr, make([]byte, 100)))
		}
		pids = append(pids, pid)
		tx.End()
	}
	closeTest(t, pc)
	const capacity = 1 << 20
	pc = openTest(t, dir, &Options{ConsolidateAfter: 1, CacheCapacity: capacity, FlushEvery: -1})
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	worst := int64(0)
	for _, pid := range pids {
		tx := begin(t, pc)
		if _, err := pc.Get(tx, pid); err != nil {
			t.Fatal(err)
		}
		tx.End()
		h, m := pc.mem.budget.Resident()
		worst = max(worst, h+m)
	}
	if worst > capacity+capacity/10 {
		t.Errorf("at worst %.2f of the capacity were resident", float64(worst)/capacity)
	}
	if err := batch.Seal(); err != nil {
		t.Fatal(err)
	}
	closeTest(t, pc)
}

// Cleaning makes nothing resident that was not. Trap 8.
func TestCleaningMakesNothingResident(t *testing.T) {
	t.Parallel()
	const capacity = 1 << 20
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, CacheCapacity: capacity, FlushEvery: -1,
		seam: seam.Options{Eager: true}})
	resume := quiet(pc)
	type page struct {
		pid PageID
		ptr PagePtr[[]byte]
	}
	var pages []page
	for range 100 {
		tx := begin(t, pc)
		pid, ptr, err := pc.Allocate(tx, make([]byte, 100_000))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, page{pid, ptr})
		junk, jp, err := pc.Allocate(tx, make([]byte, 100_000))
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Free(tx, junk, jp))
		tx.End()
	}
	flushTest(t, pc)
	tx := begin(t, pc)
	for _, p := range pages {
		pc.mem.evict(tx.base(), p.pid, true)
		must(t)(pc.Link(tx, p.pid, p.ptr, []byte("delta"))) // the base is on disk
	}
	tx.End()
	flushTest(t, pc)
	settleAll(pc)
	h, m := pc.mem.budget.Resident()
	before := h + m
	resume()
	for range 40 {
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		flushTest(t, pc)
	}
	settleAll(pc)
	h, m = pc.mem.budget.Resident()
	if n := pc.cleaner.Stats().Cleaned; h+m > before || n == 0 {
		t.Errorf("%d bytes resident before cleaning, %d after %d segments", before, h+m, n)
	}
	closeTest(t, pc)
}

// Prefetch of pages in blobs takes few goroutines and Txs, however many pages there are.
func TestPrefetchOfBlobsTakesFewGoroutines(t *testing.T) {
	if apart.Run(t) {
		return
	}
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 16 << 10, FlushEvery: -1})
	pids := some(t, pc, 300, 5000)
	flushTest(t, pc)
	evictAll(t, pc, pids)
	var many []PageID
	for range 20 {
		many = append(many, pids...)
	}
	before, goroutines := pc.txs.Look().Kept, runtime.NumGoroutine()
	tx := begin(t, pc)
	if err := pc.Prefetch(tx, many...); err != nil {
		t.Fatal(err)
	}
	during := runtime.NumGoroutine()
	tx.End()
	for start := time.Now(); pc.txs.Domain.Readers() > 0 || runtime.NumGoroutine() > 30; time.Sleep(time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%d Txs stay open, %d goroutines", pc.txs.Domain.Readers(), runtime.NumGoroutine())
		}
	}
	after := pc.txs.Look().Kept
	if after > before+4 || during > 40 {
		t.Errorf("%d Txs, %d before; %d goroutines, %d before", after, before, during, goroutines)
	}
	closeTest(t, pc)
}

// Small deltas, and pages merged from several messages, take no more memory than the bytes that are counted for them.
// Trap 22.
func TestCountedBytesCoverTheMemory(t *testing.T) {
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
	for _, deltas := range []int{1, 3} {
		pc := openTest(t, t.TempDir(), &Options{})
		pids := some(t, pc, 100_000, 10)
		flushTest(t, pc)
		evictAll(t, pc, pids)
		settleAll(pc)
		before := heap()
		for _, pid := range pids {
			tx := begin(t, pc)
			p := ptrTo[[]byte](pid, headOf(pc, pid))
			for range deltas {
				p = must(t)(pc.Link(tx, pid, p, make([]byte, 8)))
			}
			tx.End()
		}
		settleAll(pc)
		h, _ := pc.mem.budget.Resident()
		if taken := heap() - before; taken > h {
			t.Errorf("%d deltas: %.0f bytes a page are counted, %.0f taken", deltas, float64(h)/1e5, float64(taken)/1e5)
		}
		tx := begin(t, pc)
		for _, pid := range pids {
			if _, err := pc.Get(tx, pid); err != nil {
				t.Fatal(err)
			}
		}
		tx.End()
		settleAll(pc)
		h2, _ := pc.mem.budget.Resident()
		if taken := heap() - before; taken > h2 {
			t.Errorf("merged: %.0f bytes a page are counted, %.0f taken", float64(h2)/1e5, float64(taken)/1e5)
		}
		closeTest(t, pc)
	}
}

// processorTime returns the processor time that the process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// If a store exceeds its capacity and can evict nothing, no call searches the page table more than a few times, and an
// idle store does not search at all. The clock's hand counts the search.
func TestNothingEvictableEndsTheSearch(t *testing.T) {
	if apart.Run(t) {
		return
	}
	capacity, pages := int64(64<<20), 600_000
	if raced {
		capacity, pages = capacity/4, pages/4
	}
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1, CacheCapacity: capacity})
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	n, most := 0, uint64(0) // words of the table that the hand passed in one call
	for ; n < pages+pages/6; n++ {
		tx := begin(t, pc)
		hand := pc.mem.evictions.hand.Load()
		if _, _, err := pc.Allocate(tx, make([]byte, 20)); err != nil {
			t.Fatal(err)
		}
		most = max(most, pc.mem.evictions.hand.Load()-hand)
		tx.End()
		if pc.mem.budget.Excess() > capacity/100 && n > pages {
			break
		}
	}
	if pc.mem.budget.Excess() <= 0 {
		t.Errorf("%d pages do not exceed the capacity", n)
	}
	round := uint64(n) / pagetable.ClockPages
	t.Logf("the hand passed %d words of %d at most in one Allocate", most, round)
	if most > 8*round { // twice for stable pages, twice for unstable ones, and the policy moves it at the same time
		t.Errorf("the hand passed %d words of the table in one Allocate, a round has %d", most, round)
	}
	// Without calls the hand rests. The garbage collector and other tests' leftovers take processor time too, but not
	// in every second; a search without end does.
	seconds := []time.Duration{}
	for len(seconds) < 10 && (len(seconds) == 0 || seconds[len(seconds)-1] > 200*time.Millisecond) {
		hand := pc.mem.evictions.hand.Load()
		before := processorTime()
		time.Sleep(time.Second)
		seconds = append(seconds, processorTime()-before)
		if passed := pc.mem.evictions.hand.Load() - hand; passed > 2*round {
			t.Errorf("the hand passed %d words in a second without calls, a round has %d", passed, round)
		}
	}
	if last := seconds[len(seconds)-1]; last > 200*time.Millisecond {
		t.Errorf("%v of processor time in the seconds without calls", seconds)
	}
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	closeTest(t, pc)
}

// The cleaner does not read a segment because of evicted pages whose messages lie in other segments.
func TestCleaningReadsNoSegmentInVain(t *testing.T) {
	t.Parallel()
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, FlushEvery: -1, seam: seam.Options{Eager: true}})
	resume := quiet(pc)
	some(t, pc, 1, 10)
	if err := pc.mem.store.Log.EndSegment(); err != nil { // the first one of a new store is short
		t.Fatal(err)
	}
	pids := some(t, pc, 200, 5000) // a segment
	flushTest(t, pc)
	tx := begin(t, pc)
	for _, pid := range pids[1:] {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 5000)))
	}
	tx.End()
	some(t, pc, 200, 5000)
	flushTest(t, pc)
	tx = begin(t, pc)
	for _, pid := range pids[1:] {
		pc.mem.evict(tx.base(), pid, true)
	}
	tx.End()
	resume()
	if _, err := pc.AttemptGC(); err != nil {
		t.Fatal(err)
	}
	resume = pc.cleaner.Pause()
	read := pc.cleaner.HasBuffer()
	resume()
	if pc.cleaner.Stats().Cleaned == 0 || read {
		t.Errorf("%d segments were cleaned; a segment was read: %v", pc.cleaner.Stats().Cleaned, read)
	}
	closeTest(t, pc)
}

// After the log has failed, pages that were evicted before they were stable can be read. Proves rule 8.
func TestUnstablePagesAreReadAfterLogFailure(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		d := simdisk.New(seed, simdisk.Options{})
		pc := openTest(t, "/store", &Options{SegmentSize: 16 << 10, IOBuffers: 3, FlushEvery: -1, CacheCapacity: 8000,
			seam: seam.Options{FS: d}})
		n := 0
		vals := map[PageID]byte{}
		d.FailFrom(simdisk.OpDeviceWrite, 5, syscall.EIO)
		for ; n < 400; n++ {
			tx := begin(t, pc)
			pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(n)}, 300))
			if err == nil {
				vals[pid] = byte(n)
				_, _, _ = pc.Link(tx, pid, ptr, bytes.Repeat([]byte{byte(n)}, 30)) // may fail
			} else if !errors.Is(err, ErrFailed) {
				t.Fatal(err)
			}
			tx.End()
			if err != nil {
				break
			}
		}
		tx := begin(t, pc)
		for round := range 3 {
			for pid, v := range vals {
				if round > 0 {
					pc.mem.evict(tx.base(), pid, true)
				}
				p, err := pc.Get(tx, pid)
				if err != nil || len(p.Value) < 300 || bytes.Count(p.Value, []byte{v}) != len(p.Value) {
					t.Fatalf("page %d: %d bytes, %v", pid, len(p.Value), err)
				}
			}
		}
		tx.End()
		_ = pc.Close()
	}
}

// A sweep that was asked for no bytes does not note that nothing is evictable. If the capacity is lowered afterwards,
// an idle store evicts down to it.
func TestIdleStoreEvictsToLoweredCapacity(t *testing.T) {
	t.Parallel()
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, CacheCapacity: 64 << 20, FlushEvery: -1})
	some(t, pc, 8000, 1000)
	flushTest(t, pc)
	tx := begin(t, pc)
	pc.mem.sweep(tx.base(), pc.mem.budget.Excess(), false, func(PageID) {})
	if pc.mem.exhausted.Load() >= 0 {
		t.Error("a sweep for no bytes noted that nothing is evictable")
	}
	tx.End()
	if err := pc.SetCacheCapacity(1 << 20); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); pc.mem.budget.Excess() > 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d bytes above the capacity stay resident", pc.mem.budget.Excess())
		}
	}
	closeTest(t, pc)
}

// If the capacity is lowered, bytes that idle Txs have not settled are settled and evicted.
func TestIdleTxsAreSettled(t *testing.T) {
	t.Parallel()
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, CacheCapacity: 1 << 30, FlushEvery: -1})
	var txs []*Tx[[]byte]
	for range 16 {
		tx := begin(t, pc)
		if _, _, err := pc.Allocate(tx, make([]byte, 400<<10)); err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	for _, tx := range txs {
		tx.End()
	}
	flushTest(t, pc)
	const capacity = 1 << 20
	if err := pc.SetCacheCapacity(capacity); err != nil {
		t.Fatal(err)
	}
	resident := func() (n int64) {
		for pid := range pc.pages.IDs.Next() {
			if s := pc.pages.Table.Get(pid); s != nil {
				heap, mapped := pc.mem.weigh(pc.pages.Clock.Load(s))
				n += heap + mapped
			}
		}
		return n
	}
	for start := time.Now(); resident() > capacity+capacity/20; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d bytes stay resident, the capacity is %d", resident(), capacity)
		}
	}
	closeTest(t, pc)
}

// A value that is longer than the bytes that one call evicts does not stay resident if it exceeds the capacity. Trap 8.
func TestLongValuesKeepTheCapacity(t *testing.T) {
	t.Parallel()
	const capacity = 32 << 20
	pc := openTest(t, t.TempDir(), &Options{SegmentSize: 1 << 20, CacheCapacity: capacity})
	some(t, pc, 30_000, 1000)
	tx := begin(t, pc)
	for range 4 {
		if _, _, err := pc.Allocate(tx, make([]byte, 24<<20)); err != nil {
			t.Fatal(err)
		}
		if h, m := pc.mem.budget.Resident(); h+m > capacity+capacity/20 {
			t.Errorf("%.2f of the capacity are resident", float64(h+m)/capacity)
		}
	}
	tx.End()
	closeTest(t, pc)
}
