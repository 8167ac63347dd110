package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/lru"
)

// residentTruth adds up what is resident of all pages, and fails where a page that has anything in memory is not marked. Nothing else is at work.
func residentTruth(t testing.TB, pc *PageCache[[]byte]) (heap, mapped int64) {
	t.Helper()
	marked := map[PageID]bool{}
	pc.pages.Table.EachMarked(pc.pages.IDs.Next(), func(pid PageID) bool {
		marked[pid] = true
		return true
	})
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		s := pc.pages.Table.Get(pid)
		if s == nil {
			continue
		}
		h, m := pc.mem.weigh(s.Load())
		heap, mapped = heap+h, mapped+m
		if h+m > 0 && !marked[pid] {
			t.Errorf("page %d has %d bytes in memory and no mark", pid, h+m)
		}
	}
	return heap, mapped
}

// settleAll has all accounts told but the cleaner's, which tells itself after each step. No Tx is at work.
func settleAll(pc *PageCache[[]byte]) {
	for pc.aheadInBlobs.Load() { // what a Prefetch has begun has Txs of its own
		time.Sleep(time.Millisecond)
	}
	defer pc.snaps.Pause()() // a snapshot has one, too
	pc.txs.mu.Lock()
	defer pc.txs.mu.Unlock()
	for _, tx := range pc.txs.all {
		pc.mem.budget.Settle(&tx.s().account)
	}
}

// quiet ends what works on a store by itself. The cleaner goes on with resume.
func quiet(pc *PageCache[[]byte]) (resume func()) {
	pc.mem.policy.Close()
	return pc.cleaner.Pause()
}

// churner changes and reads pages of its own at random and checks them.
type churner struct {
	pc    *PageCache[[]byte]
	rng   *rand.Rand
	pids  []PageID
	vals  map[PageID][]byte
	pages int // at most
	most  int // bytes of a value
}

func (c *churner) value() []byte {
	return bytes.Repeat([]byte{byte(c.rng.Uint32())}, 1+c.rng.IntN(c.most))
}

// step does one thing.
func (c *churner) step() error {
	tx, err := c.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	if len(c.pids) == 0 || len(c.pids) < c.pages && c.rng.IntN(4) == 0 {
		v := c.value()
		pid, _, err := c.pc.Allocate(tx, v)
		if err == nil {
			c.pids, c.vals[pid] = append(c.pids, pid), v
		}
		return err
	}
	i := c.rng.IntN(len(c.pids))
	pid := c.pids[i]
	p, err := c.pc.Get(tx, pid)
	if err != nil || !bytes.Equal(p.Value, c.vals[pid]) {
		return fmt.Errorf("page %d: %d bytes, want %d, %w", pid, len(p.Value), len(c.vals[pid]), err)
	}
	won, v := true, c.value()
	switch n := c.rng.IntN(10); {
	case n < 2:
		_, won, err = c.pc.Replace(tx, pid, p.Ptr, v)
		c.vals[pid] = v
	case n < 4 && len(c.vals[pid]) < 4*c.most:
		d := v[:1+len(v)/8]
		_, won, err = c.pc.Link(tx, pid, p.Ptr, d)
		c.vals[pid] = append(bytes.Clone(c.vals[pid]), d...)
	case n == 4:
		_, won, err = c.pc.Free(tx, pid, p.Ptr)
		c.pids = append(c.pids[:i], c.pids[i+1:]...)
		delete(c.vals, pid)
	}
	if err == nil && !won {
		err = fmt.Errorf("page %d: lost a swap against nobody", pid)
	}
	return err
}

// Every byte that becomes resident is counted then, and none stays counted that is not; every page with something in memory can be found by the clock. Proves
// rule 6 for paging out, since no caller loses a swap to it. Traps 8 and 21.
func TestResidentIsCounted(t *testing.T) {
	steps := 20_000
	if testing.Short() {
		steps = 4000
	}
	for name, o := range map[string]Options{
		"plain":      {SegmentSize: 64 << 10, CacheCapacity: 64 << 10, ConsolidateAfter: 4},
		"large":      {SegmentSize: 16 << 10, CacheCapacity: 1 << 20, FlushEvery: time.Millisecond},
		"nothing":    {SegmentSize: 64 << 10, CacheCapacity: 1},
		"copied":     {SegmentSize: 64 << 10, CacheCapacity: 64 << 10, CopyOnRead: true, FlushEvery: time.Millisecond},
		"compressed": {SegmentSize: 64 << 10, CacheCapacity: 64 << 10, Compression: CompressionZstd, CompressionLevel: 1},
	} {
		t.Run(name, func(t *testing.T) {
			pc := openTest(t, t.TempDir(), &o)
			var wg sync.WaitGroup
			for g := range uint64(3) {
				wg.Go(func() {
					c := &churner{pc: pc, rng: rand.New(rand.NewPCG(g, 5)), vals: map[PageID][]byte{}, pages: 200, most: 2000}
					for range steps / 3 {
						if err := c.step(); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			resume := quiet(pc)
			heap, mapped := residentTruth(t, pc)
			settleAll(pc)
			if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
				t.Errorf("counted %d and %d, resident are %d and %d", h, m, heap, mapped)
			}
			if st := pc.Stats(); st.Cache.HeapResident != heap || st.Cache.MappedResident != mapped || st.Cache.Evictions == 0 && name != "large" || name == "copied" && mapped != 0 {
				t.Errorf("%d and %d resident, Stats say %+v", heap, mapped, st)
			}
			resume()
			closeTest(t, pc)
		})
	}
}

// The bound holds at every moment, whatever the pages are like and the policy makes of it: a twentieth above the capacity at most, and a page in the hands of
// each goroutine. Traps 8 and 22.
func TestResidentIsBounded(t *testing.T) {
	steps := 6000
	if testing.Short() {
		steps = 1500
	}
	for name, c := range map[string]struct {
		o    Options
		most int
	}{
		"small pages":   {Options{CacheCapacity: 256 << 10, FlushEvery: 5 * time.Millisecond}, 100},
		"pages":         {Options{CacheCapacity: 1 << 20, FlushEvery: 5 * time.Millisecond, SegmentSize: 256 << 10}, 4000},
		"never flushed": {Options{CacheCapacity: 512 << 10, FlushEvery: -1, SegmentSize: 64 << 10}, 2000},
		"large pages":   {Options{CacheCapacity: 1 << 20, FlushEvery: 5 * time.Millisecond}, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			pc := openTest(t, t.TempDir(), &c.o)
			const goroutines = 4
			var wg sync.WaitGroup
			var worst atomic.Int64
			stop := make(chan struct{})
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				for {
					select {
					case <-stop:
						return
					default:
						h, m := pc.mem.budget.Resident()
						worst.Store(max(worst.Load(), h+m))
						runtime.Gosched()
					}
				}
			}()
			for g := range uint64(goroutines) {
				wg.Go(func() {
					c := &churner{pc: pc, rng: rand.New(rand.NewPCG(g, 9)), vals: map[PageID][]byte{}, pages: 3000, most: c.most}
					for range steps {
						if err := c.step(); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			close(stop)
			<-watched
			const entry = 4 // of the largest value, which Links make
			if limit := c.o.CacheCapacity + c.o.CacheCapacity/20 + goroutines*int64(entry*c.most); worst.Load() > limit {
				t.Errorf("%d bytes resident at worst, at most %d", worst.Load(), limit)
			}
			t.Logf("%.3f of the capacity at worst; %+v", float64(worst.Load())/float64(c.o.CacheCapacity), pc.Stats().Cache.Policy)
			closeTest(t, pc)
		})
	}
}

// Paging out leaves a page's state as it is: the same timestamp and LSN, so that a swap from the state that was seen before wins, and the same value. Proves rule 6.
func TestPagingOutKeepsStates(t *testing.T) {
	pc := openTest(t, t.TempDir(), nil)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	want := "base"
	for i := range 3 {
		pc.mem.evict(tx, pid, true)
		if h := pc.pages.Table.Get(pid).Load(); h.Kind() != pagestack.KindOnDisk || ptrTo[[]byte](pid, h) != ptr || h.Depth() != i+1 {
			t.Fatalf("paged out %d times: %v of %d messages", i+1, h.Kind(), h.Depth())
		}
		ptr = must(t)(pc.Link(tx, pid, ptr, fmt.Append(nil, i)))
		want += fmt.Sprint(i)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want || p.Ptr != ptr {
			t.Fatalf("%q, want %q, %v", p.Value, want, err)
		}
	}
	if n, out := pc.mem.evict(tx, pid+1, true); n != 0 || out != lru.OutcomeNotResident {
		t.Errorf("a page that does not exist: %d bytes, %v", n, out)
	}
	tx.End()
	closeTest(t, pc)
}

// What is not stable is passed over by the policy, and so are the store's own pages by everybody.
func TestUnstableIsPassedOver(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1})
	v := evictor[[]byte]{pc}
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	if out := v.Evict(uint64(pid)); out != lru.OutcomeBusy || v.Cost(uint64(pid)) == 0 {
		t.Errorf("unstable: %v", out)
	}
	if freed, more := v.Sweep(1<<20, func(uint64) {}); freed != 0 || more {
		t.Errorf("swept %d unstable bytes", freed)
	}
	if _, err := pc.MakeStable(ptr.LastLSN()); err != nil {
		t.Fatal(err)
	}
	if out := v.Evict(uint64(pid)); out != lru.OutcomeEvicted || v.Cost(uint64(pid)) != 0 {
		t.Errorf("stable: %v", out)
	}
	for own := range FirstUserPage {
		if out := v.Evict(uint64(own)); out != lru.OutcomeNotResident {
			t.Errorf("page %d: %v", own, out)
		}
	}
	tx.End()
	closeTest(t, pc)
}

// A page in several messages is written as one before it is paged out, if it is small; of a large one with small deltas only the base goes, and the next Get reads one
// message; the next time the rest goes too.
func TestPagingOutOfChains(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1})
	defer closeTest(t, pc)
	v := evictor[[]byte]{pc}
	flush := func() {
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	chain := func(size int) (PageID, PagePtr[[]byte]) {
		tx := begin(t, pc)
		defer tx.End()
		pid, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte("x"), size))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ptr = must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
		}
		flush()
		return pid, ptr
	}
	see := func(pid PageID, ptr PagePtr[[]byte], kind pagestack.Kind, depth, fetches int) {
		t.Helper()
		if h := pc.pages.Table.Get(pid).Load(); h.Kind() != kind || h.Depth() != depth || h.TS() != ptr.ts {
			t.Errorf("%v of %d messages, want %v of %d", h.Kind(), h.Depth(), kind, depth)
		}
		tx := begin(t, pc)
		defer tx.End()
		before := pc.Stats().Pages.Fetches
		p, err := pc.Get(tx, pid)
		if err != nil || !bytes.HasSuffix(p.Value, []byte("xdeltadeltadelta")) {
			t.Errorf("%d bytes, %v", len(p.Value), err)
		}
		if n := pc.Stats().Pages.Fetches - before; n != int64(fetches) {
			t.Errorf("read %d messages, want %d", n, fetches)
		}
	}
	small, ptr := chain(100)
	if out := v.Evict(uint64(small)); out != lru.OutcomeBusy {
		t.Errorf("a small page: %v", out)
	}
	flush()
	if out := v.Evict(uint64(small)); out != lru.OutcomeEvicted {
		t.Errorf("a small page, written as one: %v", out)
	}
	see(small, ptr, pagestack.KindOnDisk, 1, 1)

	large, ptr := chain(200_000)
	if out := v.Evict(uint64(large)); out != lru.OutcomeEvicted || v.Cost(uint64(large)) > 1000 || v.Cost(uint64(large)) == 0 {
		t.Errorf("a large page: %v, %d bytes stay", out, v.Cost(uint64(large)))
	}
	see(large, ptr, pagestack.KindDelta, 4, 1)
	if out := v.Evict(uint64(large)); out != lru.OutcomeEvicted || v.Cost(uint64(large)) != 0 {
		t.Errorf("a large page, merged: %v, %d bytes stay", out, v.Cost(uint64(large)))
	}
	see(large, ptr, pagestack.KindOnDisk, 4, 4)
}

// A page that was paged out costs no more than 48 bytes, its slot included, and one that was not touched since the opening nothing but that.
func TestPagesOutOfMemoryAreSmall(t *testing.T) {
	count := 400_000
	if testing.Short() {
		count = 100_000
	}
	dir := t.TempDir()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	o := &Options{} // room for all, so that the policy does not begin to keep books
	before := heap()
	pc := openTest(t, dir, o)
	for i := 0; i < count; {
		tx := begin(t, pc)
		for range 1000 {
			if _, _, err := pc.Allocate(tx, fmt.Append(nil, "page", i)); err != nil {
				t.Fatal(err)
			}
			i++
		}
		tx.End()
	}
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, pc)
	pc.mem.sweep(tx, 1<<40, true, func(PageID) {})
	tx.End()
	if per := float64(heap()-before) / float64(count); per > 48 {
		t.Errorf("%.1f bytes for each page", per)
	} else {
		t.Logf("%.1f bytes for each page that was paged out", per)
	}
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	if per := float64(heap()-before) / float64(count); per > 8 {
		t.Errorf("%.1f bytes for each page that was not touched", per)
	}
	tx = begin(t, pc)
	if p, err := pc.Get(tx, FirstUserPage+PageID(count/2)); err != nil || string(p.Value) != fmt.Sprint("page", count/2) {
		t.Errorf("%q %v", p.Value, err)
	}
	tx.End()
	closeTest(t, pc)
}

// The bound can be lowered and raised while the store is used.
func TestCapacityChanges(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{CacheCapacity: 64 << 20, FlushEvery: time.Millisecond})
	tx := begin(t, pc)
	for i := range 5000 {
		if _, _, err := pc.Allocate(tx, make([]byte, 1000)); err != nil {
			t.Fatal(i, err)
		}
	}
	tx.End()
	for _, capacity := range []int64{4 << 20, 100 << 10, 1 << 20} {
		if err := pc.SetCacheCapacity(capacity); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			st := pc.Stats()
			if st.Cache.HeapResident+st.Cache.MappedResident <= capacity {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("capacity %d: %d bytes stay resident: %+v", capacity, st.Cache.HeapResident+st.Cache.MappedResident, st)
			}
		}
	}
	if err := pc.SetCacheCapacity(0); err == nil {
		t.Error("a capacity of nothing was taken")
	}
	closeTest(t, pc)
	if err := pc.SetCacheCapacity(1 << 20); err == nil {
		t.Error("a closed store took a capacity")
	}
}

// A file that is cut short under the map is an error from the call that meets it, whatever it was at, and the process lives; what is in the heap is served on. Proves
// rule 12.
func TestFileCutShort(t *testing.T) {
	for _, copied := range []bool{false, true} {
		dir := t.TempDir()
		pc := openTest(t, dir, &Options{SegmentSize: 64 << 10, ConsolidateAfter: 2, CopyOnRead: copied})
		tx := begin(t, pc)
		var pids []PageID
		value := bytes.Repeat([]byte("v"), 3000)
		for range 100 {
			pid, _, err := pc.Allocate(tx, value)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		tx.End()
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		tx = begin(t, pc)
		for _, pid := range pids[:50] {
			pc.mem.evict(tx, pid, true)
		}
		seen, err := pc.Get(tx, pids[20]) // a view, or a copy
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, logstore.LogName), 4096); err != nil {
			t.Fatal(err)
		}
		if copied && !bytes.Equal(seen.Value, value) {
			t.Error("a copy has changed")
		}
		if p, err := pc.Get(tx, pids[1]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Get: %d bytes, %v", len(p.Value), err)
		}
		if _, _, err := pc.Fragments(tx, pids[1]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Fragments: %v", err)
		}
		if err := pc.Prefetch(tx, pids[2:10]...); err != nil {
			t.Errorf("Prefetch: %v", err)
		}
		if _, _, err := pc.Replace(tx, pids[99], ptrTo[[]byte](pids[99], pc.pages.Table.Get(pids[99]).Load()), seen.Value); copied && err != nil || !copied && !errors.Is(err, ErrCorrupt) {
			t.Errorf("Replace by a view: %v", err)
		}
		p := PagePtr[[]byte]{}
		for range 2 { // more than ConsolidateAfter in all: the page is read to be written anew, which cannot be
			if p, _, err = pc.Link(tx, pids[3], ptrTo[[]byte](pids[3], pc.pages.Table.Get(pids[3]).Load()), []byte("delta")); err != nil {
				t.Errorf("Link: %v", err)
			}
		}
		if p.IsZero() {
			t.Error("Link lost")
		}
		for _, pid := range pids[50:99] {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, value) {
				t.Errorf("what is in the heap: %v", err)
			}
		}
		tx.End()
		for range 3 {
			_, _ = pc.AttemptGC()
		}
		_ = pc.Close() // what it has to say is another matter
	}
}

// What was prefetched is in the page cache when it is asked for; what is resident or does not exist is passed over.
func TestPrefetch(t *testing.T) {
	dir := t.TempDir()
	o := &Options{SegmentSize: 256 << 10}
	pc := openTest(t, dir, o)
	tx := begin(t, pc)
	var pids []PageID
	for i := range 200 {
		size := 3000
		if i%50 == 0 {
			size = 200 << 10 // a blob
		}
		pid, _, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, size))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	size, err := pc.core.store.File().Size()
	if err == nil {
		err = pc.core.store.File().DropCache(0, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	tx = begin(t, pc)
	if err := pc.Prefetch(tx, append(pids, 1<<30, 0, 1)...); err != nil {
		t.Fatal(err)
	}
	if err := pc.core.store.Reader.Settle(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		if p, err := pc.Get(tx, pid); err != nil || p.Value[0] != byte(i) {
			t.Fatalf("page %d: %v", pid, err)
		}
	}
	tx.End()
	if err := pc.Prefetch(tx, pids...); !errors.Is(err, ErrTxEnded) {
		t.Errorf("in a Tx that has ended: %v", err)
	}
	st, c := pc.Stats(), pc.core.store.View.Counts()
	t.Logf("%d fetches, %d of them cold; %+v", st.Pages.Fetches, st.Pages.FetchesCold, c)
	if c.Ahead == 0 && st.Pages.FetchesCold > 0 {
		t.Error("nothing was begun ahead")
	}
	closeTest(t, pc)
}
