package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/scope"
	"pagecache/internal/apart"
	"pagecache/lru"
)

// residentTruth adds up the resident bytes of all pages. It fails the test if a page with resident bytes is not marked.
// Nothing may use the store meanwhile.
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
		h, m := pc.mem.weigh(pc.pages.Clock.Load(s))
		heap, mapped = heap+h, mapped+m
		if h+m > 0 && !marked[pid] {
			t.Errorf("page %d has %d bytes in memory and no mark", pid, h+m)
		}
	}
	return heap, mapped
}

// settleAll settles all accounts except the cleaner's, which the cleaner settles after each step. No Tx may be in use.
func settleAll(pc *PageCache[[]byte]) {
	for start := time.Now(); pc.aheadInBlobs.Load(); time.Sleep(time.Millisecond) { // which has Txs of its own
		if time.Since(start) > 30*time.Second {
			panic("reading ahead in blobs does not end")
		}
	}
	defer pc.snaps.Pause()() // a snapshot has a Tx, too
	pc.txs.Each(func(tx *scope.Scope) { pc.mem.budget.Settle(&tx.S().Account) })
}

// quiet ends the policy and pauses the cleaner, which goes on with resume.
func quiet(pc *PageCache[[]byte]) (resume func()) {
	pc.mem.policy.Close()
	return pc.cleaner.Pause()
}

// churner changes and reads pages of its own at random and checks their values.
type churner struct {
	pc    *PageCache[[]byte]
	rng   *rand.Rand
	pids  []PageID
	vals  map[PageID][]byte
	pages int // the most pages that it allocates
	most  int // the most bytes of a value; Links make values four times as long
}

func newChurner(pc *PageCache[[]byte], seed uint64, pages, most int) *churner {
	return &churner{pc: pc, rng: rand.New(rand.NewPCG(seed, 5)), vals: map[PageID][]byte{}, pages: pages, most: most}
}

func (c *churner) value() []byte {
	return bytes.Repeat([]byte{byte(c.rng.Uint32())}, 1+c.rng.IntN(c.most))
}

// read returns the state and the value of a page: with Get, from its fragments, or what the value must be, without a
// read.
func (c *churner) read(tx *Tx[[]byte], pid PageID) (PagePtr[[]byte], []byte, error) {
	switch c.rng.IntN(4) {
	case 0:
		ptr, _, err := c.pc.State(tx, pid)
		return ptr, c.vals[pid], err
	case 1:
		ptr, frags, err := c.pc.Fragments(tx, pid)
		slices.Reverse(frags)
		return ptr, slices.Concat(frags...), err
	}
	p, err := c.pc.Get(tx, pid)
	return p.Ptr, p.Value, err
}

// step reads, changes or allocates one page.
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
	ptr, value, err := c.read(tx, pid)
	if err != nil || !bytes.Equal(value, c.vals[pid]) {
		return fmt.Errorf("page %d: %d bytes, want %d: %w", pid, len(value), len(c.vals[pid]), err)
	}
	won, v := true, c.value()
	switch n := c.rng.IntN(10); {
	case n < 2:
		_, won, err = c.pc.Replace(tx, pid, ptr, v)
		c.vals[pid] = v
	case n < 4 && len(c.vals[pid]) < 4*c.most:
		d := v[:1+len(v)/8]
		_, won, err = c.pc.Link(tx, pid, ptr, d)
		c.vals[pid] = append(bytes.Clone(c.vals[pid]), d...)
	case n == 4:
		_, won, err = c.pc.Free(tx, pid, ptr)
		c.pids = append(c.pids[:i], c.pids[i+1:]...)
		delete(c.vals, pid)
	}
	if err == nil && !won {
		err = fmt.Errorf("page %d: a swap lost without a competitor", pid)
	}
	return err
}

// The counted bytes are the resident bytes, and the clock finds every page with resident bytes. No caller loses a swap
// to eviction, which proves rule 6 for it. Traps 8 and 21.
func TestResidentBytesAreCounted(t *testing.T) {
	t.Parallel()
	steps := 20_000
	if testing.Short() {
		steps = 4000
	}
	for name, o := range map[string]Options{
		"plain":   {SegmentSize: 64 << 10, CacheCapacity: 64 << 10, ConsolidateAfter: 4},
		"large":   {SegmentSize: 16 << 10, CacheCapacity: 1 << 20, FlushEvery: time.Millisecond},
		"nothing": {SegmentSize: 64 << 10, CacheCapacity: 1},
		"copied":  {SegmentSize: 64 << 10, CacheCapacity: 64 << 10, CopyOnRead: true, FlushEvery: time.Millisecond},
		"compressed": {SegmentSize: 64 << 10, CacheCapacity: 64 << 10,
			Compression: CompressionZstd, CompressionLevel: 1},
	} {
		t.Run(name, func(t *testing.T) {
			pc := openTest(t, t.TempDir(), &o)
			var wg sync.WaitGroup
			for g := range uint64(3) {
				wg.Go(func() {
					c := newChurner(pc, g, 200, 2000)
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
				t.Errorf("counted %d bytes on the heap and %d mapped, want %d and %d", h, m, heap, mapped)
			}
			st := pc.Stats().Cache
			if st.HeapResident != heap || st.MappedResident != mapped {
				t.Errorf("%d bytes on the heap and %d mapped, Stats say %+v", heap, mapped, st)
			}
			if st.Evictions == 0 && name != "large" {
				t.Errorf("nothing was evicted: %+v", st)
			}
			if name == "copied" && mapped != 0 {
				t.Errorf("%d bytes are mapped in spite of CopyOnRead", mapped)
			}
			resume()
			closeTest(t, pc)
		})
	}
}

// At every moment, the resident bytes exceed the capacity by a twentieth at most, and by one value for each goroutine,
// whatever the pages are like and whatever the policy does. Traps 8 and 22.
func TestResidentBytesStayWithinCapacity(t *testing.T) {
	t.Parallel()
	steps := 6000
	if testing.Short() {
		steps = 1500
	}
	for name, c := range map[string]struct {
		capacity    int64
		flushEvery  time.Duration
		segmentSize int
		most        int // bytes of a value
	}{
		"small pages":   {256 << 10, 5 * time.Millisecond, 0, 100},
		"pages":         {1 << 20, 5 * time.Millisecond, 256 << 10, 4000},
		"never flushed": {512 << 10, -1, 64 << 10, 2000},
		"large pages":   {1 << 20, 5 * time.Millisecond, 0, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			pc := openTest(t, t.TempDir(),
				&Options{CacheCapacity: c.capacity, FlushEvery: c.flushEvery, SegmentSize: c.segmentSize})
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
					c := newChurner(pc, 100+g, 3000, c.most)
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
			const longest = 4 // times most, by Links
			if limit := c.capacity + c.capacity/20 + goroutines*int64(longest*c.most); worst.Load() > limit {
				t.Errorf("at worst %d bytes were resident, the limit is %d", worst.Load(), limit)
			}
			share := float64(worst.Load()) / float64(c.capacity)
			t.Logf("%.3f of the capacity at worst; %+v", share, pc.Stats().Cache.Policy)
			closeTest(t, pc)
		})
	}
}

// Eviction keeps a page's state, with timestamp and LSN, and its value. A swap from the state before the eviction wins.
// Proves rule 6.
func TestEvictionKeepsStates(t *testing.T) {
	pc := openTest(t, t.TempDir(), nil)
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	want := "base"
	for i := range 3 {
		pc.mem.evict(tx.base(), pid, true)
		h := headOf(pc, pid)
		if h.Kind() != pagestack.KindOnDisk || ptrTo[[]byte](pid, h) != ptr || h.Depth() != i+1 {
			t.Fatalf("after %d evictions: %v of %d messages, state %v, want %v",
				i+1, h.Kind(), h.Depth(), ptrTo[[]byte](pid, h), ptr)
		}
		ptr = must(t)(pc.Link(tx, pid, ptr, fmt.Append(nil, i)))
		want += fmt.Sprint(i)
		if p, err := pc.Get(tx, pid); err != nil || string(p.Value) != want || p.Ptr != ptr {
			t.Fatalf("after %d evictions: %q, want %q: %v", i+1, p.Value, want, err)
		}
	}
	if n, out := pc.mem.evict(tx.base(), pid+1, true); n != 0 || out != lru.OutcomeNotResident {
		t.Errorf("evicted a page that does not exist: %d bytes, %v", n, out)
	}
	tx.End()
	closeTest(t, pc)
}

// The policy evicts no page that is not stable. Reserved pages are never evicted.
func TestPolicyKeepsUnstablePages(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1})
	v := evictor[[]byte]{pc}
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	if out := v.Evict(uint64(pid)); out != lru.OutcomeBusy || v.Cost(uint64(pid)) == 0 {
		t.Errorf("evict an unstable page: %v", out)
	}
	if freed, more := v.Sweep(1<<20, func(uint64) {}); freed != 0 || more {
		t.Errorf("a sweep evicted %d unstable bytes, more %v", freed, more)
	}
	if _, err := pc.MakeStable(ptr.LastLSN()); err != nil {
		t.Fatal(err)
	}
	if out := v.Evict(uint64(pid)); out != lru.OutcomeEvicted || v.Cost(uint64(pid)) != 0 {
		t.Errorf("evict a stable page: %v", out)
	}
	for own := range FirstUserPage {
		if out := v.Evict(uint64(own)); out != lru.OutcomeNotResident {
			t.Errorf("evict reserved page %d: %v", own, out)
		}
	}
	tx.End()
	closeTest(t, pc)
}

// A small page of several messages is consolidated before it is evicted. Of a large page with small deltas, the first
// eviction drops only the base, so that the next Get reads one message; the second eviction drops the deltas too.
func TestEvictionOfChains(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{FlushEvery: -1, EvictionWrites: 1000})
	defer closeTest(t, pc)
	v := evictor[[]byte]{pc}
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
		flushTest(t, pc)
		return pid, ptr
	}
	see := func(pid PageID, ptr PagePtr[[]byte], kind pagestack.Kind, depth, fetches int) {
		t.Helper()
		if h := headOf(pc, pid); h.Kind() != kind || h.Depth() != depth || h.TS() != ptr.ts {
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
		t.Errorf("evict a small page of several messages: %v", out)
	}
	flushTest(t, pc)
	if out := v.Evict(uint64(small)); out != lru.OutcomeEvicted {
		t.Errorf("evict a small page after its consolidation: %v", out)
	}
	see(small, ptr, pagestack.KindOnDisk, 1, 1)

	large, ptr := chain(200_000)
	out, stay := v.Evict(uint64(large)), v.Cost(uint64(large))
	if out != lru.OutcomeEvicted || stay > 1000 || stay == 0 {
		t.Errorf("evict a large page: %v, %d bytes stay resident, want those of the deltas", out, stay)
	}
	see(large, ptr, pagestack.KindDelta, 4, 1)
	if out := v.Evict(uint64(large)); out != lru.OutcomeEvicted || v.Cost(uint64(large)) != 0 {
		t.Errorf("evict a large page again: %v, %d bytes stay resident", out, v.Cost(uint64(large)))
	}
	see(large, ptr, pagestack.KindOnDisk, 4, 4)
}

// An evicted page takes at most 16 bytes of memory, its slot included. A page that was not used since Open takes only
// its slot.
func TestEvictedPagesAreSmall(t *testing.T) {
	if apart.Run(t) {
		return
	}
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
	o := &Options{} // capacity for all pages, so that the adviser does not run, which takes memory too
	if raced {      // io buffers lie on the heap
		o.SegmentSize, o.IOBuffers = 64<<10, 2
	}
	before := heap()
	pc := openTest(t, dir, o)
	opened := heap()
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
	pc.mem.sweep(tx.base(), 1<<40, true, func(PageID) {})
	tx.End()
	if per := float64(heap()-opened) / float64(count); per > 16 {
		t.Errorf("%.1f bytes for each evicted page", per)
	} else {
		t.Logf("%.1f bytes for each evicted page", per)
	}
	closeTest(t, pc)
	still := *o
	still.seam.Foreground = true // the cleaner uses the pages that it moves
	pc = openTest(t, dir, &still)
	if per := float64(heap()-before) / float64(count); per > 8 {
		t.Errorf("%.1f bytes for each page that was not used since Open", per)
	}
	if p := get1(t, pc, FirstUserPage+PageID(count/2)); string(p.Value) != fmt.Sprint("page", count/2) {
		t.Errorf("a page that was not used since Open: %q", p.Value)
	}
	closeTest(t, pc)
}

// If the log file is truncated under its map, calls that read the missing part return ErrCorrupt, and the process does
// not crash. Values on the heap can still be read. Proves rule 12.
func TestTruncatedFileIsCorrupt(t *testing.T) {
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
			pc.mem.evict(tx.base(), pid, true)
		}
		seen, err := pc.Get(tx, pids[20]) // a view, or a copy
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, logstore.LogName), 4096); err != nil {
			t.Fatal(err)
		}
		if copied && !bytes.Equal(seen.Value, value) {
			t.Error("a copied value has changed")
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
		state := func(pid PageID) PagePtr[[]byte] { return ptrTo[[]byte](pid, headOf(pc, pid)) }
		_, _, err = pc.Replace(tx, pids[99], state(pids[99]), seen.Value)
		if copied && err != nil || !copied && !errors.Is(err, ErrCorrupt) {
			t.Errorf("Replace, copied %v: %v", copied, err)
		}
		p := PagePtr[[]byte]{}
		for range 2 { // more than ConsolidateAfter: Link reads the page to consolidate it, in vain
			if p, _, err = pc.Link(tx, pids[3], state(pids[3]), []byte("delta")); err != nil {
				t.Errorf("Link: %v", err)
			}
		}
		if p.IsZero() {
			t.Error("Link lost its swap without a competitor")
		}
		for _, pid := range pids[50:99] {
			if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, value) {
				t.Errorf("page %d, whose value is on the heap: %v", pid, err)
			}
		}
		tx.End()
		for range 3 {
			_, _ = pc.AttemptGC()
		}
		_ = pc.Close() // it may fail, since the file was truncated
	}
}
