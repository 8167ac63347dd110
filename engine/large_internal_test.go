package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pagecache/engine/internal/large"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/engine/internal/txn"
	"pagecache/lru"
)

// openLargeTest opens a store with slabs whose background work does not run by itself.
func openLargeTest(t testing.TB) *PageCache[[]byte] {
	t.Helper()
	pc := openTest(t, t.TempDir(), &Options{CacheCapacity: 256 << 20, FlushEvery: time.Millisecond,
		seam: seam.Options{Foreground: true}})
	if b := pc.mem.large.Alloc(0, large.Least); b == nil {
		t.Skip("no slabs on this system")
	} else {
		pc.mem.large.Drop(0, b)
	}
	return pc
}

// fragment returns n bytes that say where they end and what they are. n is at least 12.
func fragment(n int, seed uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(n))
	b = binary.LittleEndian.AppendUint64(b, seed)
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n]
}

// checkFragments returns an error if a value is not a sequence of fragments.
func checkFragments(b []byte) error {
	for at := 0; at < len(b); {
		n := 0
		if len(b)-at >= 12 {
			n = int(binary.LittleEndian.Uint32(b[at:]))
		}
		if n < 12 || n > len(b)-at {
			return fmt.Errorf("no fragment at byte %d of %d", at, len(b))
		}
		seed := binary.LittleEndian.Uint64(b[at+4:])
		if !bytes.Equal(b[at:at+n], fragment(n, seed)) {
			return fmt.Errorf("the fragment %d at byte %d of %d has changed", seed, at, len(b))
		}
		at += n
	}
	return nil
}

// checkLarge reports values in slabs that belong to no page, or to two, and retired values that are not released. No
// call may be under way, and no Tx be open. Proves D1, D2 and D4 of package large.
func checkLarge(t *testing.T, pc *PageCache[[]byte]) {
	t.Helper()
	pool := pc.mem.large.Pool()
	owners, sum := map[*byte]PageID{}, int64(0)
	for pid := PageID(0); pid < pc.pages.IDs.Next(); pid++ {
		s := pc.pages.Table.Get(pid)
		if s == nil {
			continue
		}
		for h := txn.Load(s); h != nil && (h.Kind() == pagestack.KindDelta || isWhole(h.Kind())); h = h.Next() {
			if b := pagestack.EntryOf[[]byte](h).Frag; pool.Holds(b) {
				if other, found := owners[&b[0]]; found {
					t.Errorf("page %d has a value of page %d", pid, other)
				}
				owners[&b[0]], sum = pid, sum+int64(len(b))
			}
			if h.Kind() != pagestack.KindDelta {
				break
			}
		}
	}
	pool.Flush()
	st := pc.mem.large.Stats()
	if st.Live != sum || st.Pinned != 0 || pool.Stats().Live < sum || pool.Stats().Live > sum+sum/8 {
		t.Errorf("%+v, %+v, and the pages have %d bytes", st, pool.Stats(), sum)
	}
}

// churnLarge replaces a page so often that all memory that was released is used again.
func churnLarge(t *testing.T, pc *PageCache[[]byte], sizes ...int) {
	t.Helper()
	tx := begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, fragment(20_000, 1))
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	for i := range 60 {
		for _, n := range sizes {
			tx := begin(t, pc)
			ptr = must(t)(pc.Replace(tx, pid, ptr, fragment(n, uint64(i))))
			tx.End()
		}
		pc.mem.large.Pool().Flush()
	}
}

// A value in a slab stays as it is until the Tx ends that has found it, however it leaves its page, and its memory is
// used again after that. Proves rule 20, and D3 of package large.
func TestLargeValueOutlivesItsPage(t *testing.T) {
	const size, delta = 64 << 10, 20_000
	for name, leave := range map[string]func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]){
		"replaced": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			must(t)(pc.Replace(tx, pid, ptr, []byte("short")))
		},
		"replaced by itself": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(tx, pid, ptr, p.Value))
		},
		"freed": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			must(t)(pc.Free(tx, pid, ptr))
		},
		"evicted": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, _ PagePtr[[]byte]) {
			if _, out := pc.mem.evict(tx.base(), pid, true); out != lru.OutcomeEvicted {
				t.Errorf("evict: %v", out)
			}
		},
		"evicted below a delta": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			must(t)(pc.Link(tx, pid, ptr, []byte("d")))
			flushTest(t, pc)
			if !pc.dropBase(tx.base(), pid) {
				t.Error("the base was not evicted")
			}
		},
		"merged": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			must(t)(pc.Link(tx, pid, ptr, fragment(delta, 4)))
			if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != size+delta {
				t.Errorf("%d bytes, %v", len(p.Value), err)
			}
		},
		"consolidated": func(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID, ptr PagePtr[[]byte]) {
			for range pc.limit {
				ptr = must(t)(pc.Link(tx, pid, ptr, fragment(delta, 5)))
			}
		},
		"committed": func(pc *PageCache[[]byte], _ *Tx[[]byte], pid PageID, _ PagePtr[[]byte]) {
			_, err := pc.Update(context.Background(), func(tx *Tx[[]byte]) error {
				if err := tx.Replace(pid, fragment(delta, 6)); err != nil {
					return err
				}
				if err := tx.Link(pid, fragment(delta, 7)); err != nil {
					return err
				}
				_, err := tx.Allocate(fragment(delta, 8))
				return err
			})
			if err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			pc := openLargeTest(t)
			tx := begin(t, pc)
			pid, ptr, err := pc.Allocate(tx, fragment(size, 3))
			tx.End()
			if err != nil {
				t.Fatal(err)
			}
			reader := begin(t, pc)
			p, err := pc.Get(reader, pid)
			if err != nil || !pc.mem.large.Pool().Holds(p.Value) {
				t.Fatalf("the value is not in a slab: %v", err)
			}
			_, frags, err := pc.Fragments(reader, pid)
			if err != nil {
				t.Fatal(err)
			}
			tx = begin(t, pc)
			leave(pc, tx, pid, ptr)
			tx.End()
			churnLarge(t, pc, size, delta)
			if err := checkFragments(p.Value); err != nil || !bytes.Equal(frags[0], p.Value) {
				t.Errorf("while the Tx is open: %v", err)
			}
			if st := pc.mem.large.Stats(); st.Pinned < size {
				t.Errorf("%+v while the Tx is open", st)
			}
			reader.End()
			checkLarge(t, pc)
			closeTest(t, pc)
		})
	}
}

// What a transaction has written and then returned by Get stays as it is until the transaction ends, also if it is
// overwritten in the transaction, or rolled back after a conflict. Proves D3 of package large.
func TestLargeValuesOfTransactionsStay(t *testing.T) {
	const size = 48 << 10
	pc := openLargeTest(t)
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, fragment(size, 1))
	tx.End()
	if err != nil {
		t.Fatal(err)
	}
	for _, conflict := range []bool{false, true} {
		tx = begin(t, pc)
		var got [][]byte
		for i := range uint64(4) {
			if err := tx.Replace(pid, fragment(size, 10+i)); err != nil {
				t.Fatal(err)
			}
			p, err := tx.Get(pid)
			if err != nil || !pc.mem.large.Pool().Holds(p.Value) {
				t.Fatalf("the value is not in a slab: %v", err)
			}
			got = append(got, p.Value)
			churnLarge(t, pc, size)
		}
		if conflict {
			other := begin(t, pc)
			p, err := pc.Get(other, pid)
			if err != nil {
				t.Fatal(err)
			}
			must(t)(pc.Replace(other, pid, p.Ptr, fragment(size, 20)))
			other.End()
		}
		if _, err := tx.Commit(); errors.Is(err, ErrConflict) != conflict {
			t.Fatalf("commit: %v", err)
		}
		churnLarge(t, pc, size)
		for i, b := range got {
			if err := checkFragments(b); err != nil {
				t.Errorf("conflict %v, value %d: %v", conflict, i, err)
			}
		}
		tx.End()
		checkLarge(t, pc)
	}
	closeTest(t, pc)
}

// Calls that cannot win copy nothing.
func TestLosersCopyNothing(t *testing.T) {
	pc := openLargeTest(t)
	tx := begin(t, pc)
	pid, old, err := pc.Allocate(tx, fragment(20_000, 1))
	if err != nil {
		t.Fatal(err)
	}
	must(t)(pc.Replace(tx, pid, old, fragment(20_000, 2)))
	before := pc.mem.large.Stats()
	for range 10 {
		if _, won, err := pc.Replace(tx, pid, old, fragment(20_000, 3)); won || err != nil {
			t.Fatal(won, err)
		}
		if _, won, err := pc.Link(tx, pid, old, fragment(20_000, 4)); won || err != nil {
			t.Fatal(won, err)
		}
	}
	if st := pc.mem.large.Stats(); st != before {
		t.Errorf("%+v after calls that did not win, %+v before", st, before)
	}
	tx.End()
	checkLarge(t, pc)
	closeTest(t, pc)
}

// A value, or a part of it, that is given to another page, or to its own, is copied: each page keeps its value, whatever
// happens to the other. Proves rule 20, and D1 of package large.
func TestLargeValueIsOfOnePage(t *testing.T) {
	const size = 40 << 10
	pc := openLargeTest(t)
	tx := begin(t, pc)
	a, ptrA, err := pc.Allocate(tx, fragment(size, 1))
	if err != nil {
		t.Fatal(err)
	}
	p, err := pc.Get(tx, a)
	if err != nil {
		t.Fatal(err)
	}
	b, ptrB, err := pc.Allocate(tx, p.Value)
	if err != nil {
		t.Fatal(err)
	}
	ptrB = must(t)(pc.Link(tx, b, ptrB, p.Value))
	ptrA = must(t)(pc.Link(tx, a, ptrA, p.Value)) // its own
	c, _, err := pc.Allocate(tx, p.Value[:size:size])
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := pc.Allocate(tx, p.Value[size/2:]) // the second half of a fragment
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	tx = begin(t, pc)
	must(t)(pc.Replace(tx, a, ptrA, fragment(size, 2)))
	tx.End()
	churnLarge(t, pc, size, size/2)
	checkLarge(t, pc)
	tx = begin(t, pc)
	for pid, want := range map[PageID][]byte{
		a: fragment(size, 2), b: bytes.Repeat(fragment(size, 1), 2), c: fragment(size, 1),
		d: fragment(size, 1)[size/2:],
	} {
		if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, want) {
			t.Errorf("page %d: %d bytes, want %d, %v", pid, len(p.Value), len(want), err)
		}
	}
	must(t)(pc.Free(tx, b, ptrB))
	tx.End()
	checkLarge(t, pc)
	closeTest(t, pc)
}

// Many goroutines do everything at once to pages with large values: every value is intact whenever a Tx looks at it,
// and in the end each belongs to one page and none is lost. Proves D1 to D4 of package large.
func TestLargeValuesUnderLoad(t *testing.T) {
	const workers, pages = 6, 24
	limit := 2 * time.Second
	if testing.Short() {
		limit /= 4
	}
	pc := openLargeTest(t)
	w := &largeLoad{t: t, pc: pc, end: time.Now().Add(limit)}
	tx := begin(t, pc)
	for i := range pages {
		pid, _, err := pc.Allocate(tx, fragment(16<<10+i*3000, uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		w.pids = append(w.pids, pid)
	}
	tx.End()
	var wg sync.WaitGroup
	for i := range uint64(workers) {
		wg.Go(func() { w.run(rand.New(rand.NewPCG(7, i))) })
	}
	wg.Wait()
	checkLarge(t, pc)
	closeTest(t, pc)
}

// largeLoad is what the goroutines of TestLargeValuesUnderLoad share.
type largeLoad struct {
	t    *testing.T
	pc   *PageCache[[]byte]
	end  time.Time
	pids []PageID
}

func (w *largeLoad) run(rng *rand.Rand) {
	for time.Now().Before(w.end) && !w.t.Failed() {
		if rng.IntN(4) == 0 {
			w.update(rng)
			continue
		}
		tx, err := w.pc.Begin()
		if err != nil {
			w.t.Error(err)
			return
		}
		var seen [][]byte
		for range 1 + rng.IntN(6) {
			seen = w.call(rng, tx, seen)
		}
		for _, b := range seen {
			if err := checkFragments(b); err != nil {
				w.t.Error(err)
			}
		}
		tx.End()
	}
}

// call does something to a page, and appends values that it has seen to seen.
func (w *largeLoad) call(rng *rand.Rand, tx *Tx[[]byte], seen [][]byte) [][]byte {
	pc, pid := w.pc, w.pids[rng.IntN(len(w.pids))]
	p, err := pc.Get(tx, pid)
	if err != nil {
		w.t.Error(err)
		return seen
	}
	seen = append(seen, p.Value)
	size := 8<<10 + rng.IntN(60<<10)
	switch rng.IntN(9) {
	case 0, 1:
		_, _, err = pc.Replace(tx, pid, p.Ptr, fragment(size, rng.Uint64()))
	case 2:
		_, _, err = pc.Replace(tx, pid, p.Ptr, p.Value[:len(p.Value):len(p.Value)])
	case 3:
		if len(p.Value) < 200<<10 {
			_, _, err = pc.Link(tx, pid, p.Ptr, fragment(size, rng.Uint64()))
		}
	case 4:
		pc.mem.evict(tx.base(), pid, true)
	case 5:
		var frags [][]byte
		_, frags, err = pc.Fragments(tx, pid)
		seen = append(seen, frags...)
	case 6:
		pc.dropBase(tx.base(), pid)
	case 7:
		_, err = pc.AttemptGC()
	case 8:
		var ptr PagePtr[[]byte]
		var own PageID
		if own, ptr, err = pc.Allocate(tx, p.Value); err == nil {
			_, _, err = pc.Free(tx, own, ptr)
		}
	}
	if err != nil {
		w.t.Error(err)
	}
	return seen
}

// update changes two pages in a transaction.
func (w *largeLoad) update(rng *rand.Rand) {
	_, err := w.pc.Update(context.Background(), func(tx *Tx[[]byte]) error {
		var seen [][]byte
		for range 2 {
			pid := w.pids[rng.IntN(len(w.pids))]
			if err := tx.Replace(pid, fragment(16<<10+rng.IntN(20<<10), rng.Uint64())); err != nil {
				return err
			}
			for range rng.IntN(3) {
				if err := tx.Link(pid, fragment(16<<10+rng.IntN(9<<10), rng.Uint64())); err != nil {
					return err
				}
			}
			p, err := tx.Get(pid)
			if err != nil {
				return err
			}
			seen = append(seen, p.Value)
		}
		for _, b := range seen {
			if err := checkFragments(b); err != nil {
				w.t.Error(err)
			}
		}
		if rng.IntN(4) == 0 {
			return errRolledBack
		}
		return nil
	})
	if err != nil && !errors.Is(err, errRolledBack) {
		w.t.Error(err)
	}
}

var errRolledBack = errors.New("rolled back by the test")

// While values of 16 KiB to 256 KiB are replaced and evicted, slabs take at most 1.15 times the bytes of the values in
// them, and all resident bytes keep within the capacity.
func TestLargeMemoryIsBounded(t *testing.T) {
	const capacity, pages = 64 << 20, 500
	rounds := 2500
	if testing.Short() {
		rounds = 800
	}
	pc := openTest(t, t.TempDir(), &Options{CacheCapacity: capacity, FlushEvery: time.Millisecond})
	rng := rand.New(rand.NewPCG(3, 4))
	value := make([]byte, 256<<10)
	var pids []PageID
	tx := begin(t, pc)
	for range pages {
		pid, _, err := pc.Allocate(tx, value[:16<<10+rng.IntN(240<<10)])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
		tx.End()
		tx = begin(t, pc)
	}
	worst, most := 0.0, 0.0
	for i := range rounds {
		size := 16<<10 + rng.IntN(240<<10)
		if i%1000 > 500 { // for a time they have other lengths
			size = 16<<10 + rng.IntN(32<<10)
		}
		pid := pids[rng.IntN(len(pids))]
		ptr, _, err := pc.State(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		must(t)(pc.Replace(tx, pid, ptr, value[:size]))
		tx.End()
		tx = begin(t, pc)
		st, c := pc.mem.large.Stats(), pc.Stats().Cache
		if st.Live > capacity/4 {
			worst = max(worst, float64(st.Resident)/float64(st.Live))
		}
		most = max(most, float64(c.HeapResident+c.MappedResident+c.SlabResident)/capacity)
	}
	tx.End()
	t.Logf("slabs take %.3f of their values at worst, the cache %.3f of the capacity", worst, most)
	if worst > 1.15 {
		t.Errorf("slabs take %.3f times the bytes of their values", worst)
	}
	if most > 1.05 {
		t.Errorf("the cache takes %.3f of its capacity", most)
	}
	closeTest(t, pc)
}

// A cache too small for slabs keeps its values on the Go heap, and gets slabs when it grows.
func TestLargeValuesInSmallCache(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{CacheCapacity: 8 << 20, seam: seam.Options{Foreground: true}})
	for _, slabs := range []bool{false, true} {
		tx := begin(t, pc)
		pid, _, err := pc.Allocate(tx, fragment(20_000, 1))
		if err != nil {
			t.Fatal(err)
		}
		p, err := pc.Get(tx, pid)
		if err != nil || checkFragments(p.Value) != nil || pc.mem.large.Pool().Holds(p.Value) != slabs {
			t.Errorf("slabs %v: %v", slabs, err)
		}
		tx.End()
		if err := pc.SetCacheCapacity(64 << 20); err != nil {
			t.Fatal(err)
		}
	}
	checkLarge(t, pc)
	closeTest(t, pc)
}

// A value that a Tx holds stays as it is when the store is closed, until the Tx ends; then all memory is given back.
func TestCloseKeepsLargeValues(t *testing.T) {
	pc := openLargeTest(t)
	tx := begin(t, pc)
	pid, _, err := pc.Allocate(tx, fragment(64<<10, 1))
	if err != nil {
		t.Fatal(err)
	}
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	if err := pc.CloseContext(ctx); err == nil {
		t.Error("a store was closed while a Tx is open")
	}
	if err := checkFragments(p.Value); err != nil {
		t.Error(err)
	}
	tx.End()
	if st := pc.mem.large.Stats(); st.Resident != 0 {
		t.Errorf("%+v after the last Tx has ended", st)
	}
}
