package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/lru"
)

// grown allocates a page, links a delta, reads it, so that it gets room, and links more deltas. It returns the page and
// its value.
func grown(t testing.TB, pc *PageCache[[]byte], size, more int) (PageID, []byte) {
	t.Helper()
	want := bytes.Repeat([]byte("x"), size)
	pid, _ := allocate(t, pc, want)
	tx := begin(t, pc)
	defer tx.End()
	for n := range 1 + more {
		p := get1(t, pc, pid)
		delta := []byte{'d', byte('0' + n), '.'}
		must(t)(pc.Link(tx, pid, p.Ptr, delta))
		want = append(want, delta...)
	}
	if p, err := pc.Get(tx, pid); err != nil || !bytes.Equal(p.Value, want) || cap(p.Value) != len(want) {
		t.Fatalf("%q, room for %d, %v, want %q", p.Value, cap(p.Value), err, want)
	}
	return pid, want
}

// headOf returns the head of a page.
func headOf(pc *PageCache[[]byte], pid PageID) *head {
	return pc.pages.Clock.Load(pc.pages.Table.Get(pid))
}

// A read after a change costs no merge once the page has room for its deltas, within a transaction and outside. Proves
// K4.
func TestReadAfterLinkMergesNothing(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 100, 0)
	before := pc.mem.counts.merges.Load()
	for n := range 4 {
		if h := headOf(pc, pid); !h.IsWhole() || h.IsGrown() != (n > 0) {
			t.Fatalf("link %d: the head is a %v", n, h.Kind())
		}
		delta := []byte{byte('A' + n)}
		if n%2 == 0 {
			tx := begin(t, pc)
			must(t)(pc.Link(tx, pid, get1(t, pc, pid).Ptr, delta))
			tx.End()
		} else {
			link := func(tx *Tx[[]byte]) error { return tx.Link(pid, delta) }
			if _, err := pc.Update(t.Context(), link); err != nil {
				t.Fatal(err)
			}
		}
		delta[0] = 'z' // the store has copied it
		want = append(want, byte('A'+n))
		if p := get1(t, pc, pid); !bytes.Equal(p.Value, want) {
			t.Fatalf("%q, want %q", p.Value, want)
		}
	}
	if n := pc.mem.counts.merges.Load() - before; n != 0 {
		t.Errorf("%d merges", n)
	}
}

// Fragments of a page that has grown are its deltas, and the value that they were appended to.
func TestFragmentsOfGrownPage(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 50, 2)
	tx := begin(t, pc)
	defer tx.End()
	_, frags, err := pc.Fragments(tx, pid)
	if err != nil || len(frags) != 3 || string(frags[0]) != "d2." || string(frags[1]) != "d1." ||
		!bytes.Equal(frags[2], want[:53]) {
		t.Errorf("%q, %v", frags, err)
	}
	for _, f := range frags {
		if len(f) != cap(f) {
			t.Errorf("%q has room for %d bytes", f, cap(f))
		}
	}
}

// A page that has grown is consolidated, moved and evicted like any other: its value stays, in memory of its own, and
// the accounts are right. Proves K2 and M1.
func TestHousekeepingOfGrownPages(t *testing.T) {
	dir := t.TempDir()
	o := &Options{FlushEvery: -1, SegmentSize: 64 << 10, EvictionWrites: 1000, seam: seam.Options{Foreground: true}}
	pc := openTest(t, dir, o)
	v := evictor[[]byte]{pc}
	pages := map[PageID][]byte{}
	add := func(size, more int) PageID {
		pid, want := grown(t, pc, size, more)
		pages[pid] = want
		return pid
	}
	same := func(what string) {
		t.Helper()
		settleAll(pc)
		heap, mapped := residentTruth(t, pc)
		if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
			t.Errorf("%s: %d and %d bytes are resident, counted are %d and %d", what, heap, mapped, h, m)
		}
		for pid, want := range pages {
			if p := get1(t, pc, pid); !bytes.Equal(p.Value, want) {
				t.Errorf("%s: page %d is %q, want %q", what, pid, p.Value, want)
			}
		}
	}
	consolidated := add(1000, pc.limit+1)
	h := headOf(pc, consolidated)
	if h.Depth() > pc.limit || !h.IsGrown() || h.TailEntry().Kind() != pagestack.KindBase { // which kept its room
		t.Errorf("the page has %d messages, has grown: %v, on a %v", h.Depth(), h.IsGrown(), h.TailEntry().Kind())
	}
	same("consolidated")
	small := add(100, 2)
	flushTest(t, pc)
	for range 2 { // the first one writes it anew
		v.Evict(uint64(small))
		flushTest(t, pc)
	}
	if h := headOf(pc, small); h.Kind() != pagestack.KindOnDisk {
		t.Errorf("after evictions the head is a %v", h.Kind())
	}
	same("evicted")
	large := add(5000, 3) // its base is dropped, and its deltas stay
	flushTest(t, pc)
	pc.mem.allowance.Wrote(1 << 40)
	if out := v.Evict(uint64(large)); out != lru.OutcomeEvicted {
		t.Errorf("evict a page with small deltas: %v", out)
	}
	if h := headOf(pc, large); h.Kind() != pagestack.KindDelta || h.IsWhole() ||
		h.TailEntry().Kind() != pagestack.KindOnDisk {
		t.Errorf("after dropping the base the head is a %v on a %v", h.Kind(), h.TailEntry().Kind())
	}
	same("base dropped")
	moved := add(200, 3)
	tx, c := begin(t, pc), change[[]byte]{}
	h = headOf(pc, moved)
	if err := pc.prepareMove(tx.base(), moved, h, &c); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.frag, pages[moved]) || &c.frag[0] == &pagestack.EntryOf[[]byte](h).Frag[0] {
		t.Errorf("a page that is moved is %q, or shares memory with its old entries", c.frag)
	}
	e := movedTo(h, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()}, &c)
	if e.Kind() != pagestack.KindBase || e.TS() != h.TS() || e.Depth() != 1 || !pagestack.CanGrow(e, 1) {
		t.Errorf("a page that is moved becomes a %v of %d messages", e.Kind(), e.Depth())
	}
	if n := pc.mem.sizeOf(e); c.size != n {
		t.Errorf("a page that is moved takes %d bytes, counted are %d", n, c.size)
	}
	plain, _ := allocate(t, pc, []byte("plain")) // which the next turn finds in place of a page with room
	h = headOf(pc, plain)
	if err := pc.prepareMove(tx.base(), plain, h, &c); err != nil {
		t.Fatal(err)
	}
	e = movedTo(h, pagestack.Ref{LSN: h.LSN, Ptr: h.Ptr()}, &c)
	if v := pagestack.EntryOf[[]byte](e).Frag; string(v) != "plain" {
		t.Errorf("a page without room that is moved is %q", v)
	}
	tx.base().Release()
	tx.End()
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	same("reopened")
	closeTest(t, pc)
}

// A transaction that conflicts leaves a page the room for other deltas. Proves K4.
func TestConflictLeavesTheRoom(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	pid, want := grown(t, pc, 100, 1)
	other, _ := grown(t, pc, 100, 1)
	read, _ := allocate(t, pc, []byte("read"))
	tx := begin(t, pc)
	if _, err := tx.Get(read); err != nil {
		t.Fatal(err)
	}
	for _, page := range []PageID{pid, other} {
		if err := errors.Join(tx.Link(page, []byte("lost")), tx.Link(page, []byte("twice"))); err != nil {
			t.Fatal(err)
		}
	}
	single := begin(t, pc)
	must(t)(pc.Link(single, read, get1(t, pc, read).Ptr, []byte("er")))
	single.End()
	if _, err := tx.Commit(); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	tx.End()
	if !pagestack.CanGrow(headOf(pc, pid), 1) {
		t.Error("the room was not given back")
	}
	if _, err := pc.Update(t.Context(), func(tx *Tx[[]byte]) error {
		return errors.Join(tx.Link(pid, []byte("+")), tx.Link(other, []byte("-")))
	}); err != nil {
		t.Fatal(err)
	}
	if p := get1(t, pc, pid); !bytes.Equal(p.Value, append(want, '+')) || !headOf(pc, pid).IsGrown() {
		t.Errorf("%q", p.Value)
	}
}

// chained is a value of which each link of 12 bytes fits only behind the bytes before it: 8 random bytes, and the
// checksum of the 4 bytes before and them. The first two bytes are the length of the part without links.
type chained []byte

const linkLen = 12

// newChained returns a value of n bytes without links.
func newChained(n int) chained {
	return append(binary.LittleEndian.AppendUint16(nil, uint16(n)), bytes.Repeat([]byte("b"), n-2)...)
}

// next returns n links that fit behind the value.
func (v chained) next(n int, rng *rand.Rand) (links []byte) {
	last := v[len(v)-4:]
	for range n {
		link := binary.LittleEndian.AppendUint64(slices.Clone(last), rng.Uint64())
		link = binary.LittleEndian.AppendUint32(link, crc32.ChecksumIEEE(link))
		links, last = append(links, link[4:]...), link[linkLen:]
	}
	return links
}

// check returns an error unless each link fits.
func (v chained) check() error {
	at := int(binary.LittleEndian.Uint16(v))
	if (len(v)-at)%linkLen != 0 {
		return fmt.Errorf("%d bytes with links from %d on", len(v), at)
	}
	for ; at < len(v); at += linkLen {
		if sum := crc32.ChecksumIEEE(v[at-4 : at+linkLen-4]); sum != binary.LittleEndian.Uint32(v[at+linkLen-4:]) {
			return fmt.Errorf("the link at byte %d of %d does not fit", at, len(v))
		}
	}
	return nil
}

// Several goroutines link to the same pages, alone and in transactions, some of which conflict or are dropped. Others
// read them, also in Views, and hold the values, and pages are evicted, consolidated and moved. Each value is a chain
// of links, and does not change as long as it is held. Afterwards the bytes that are counted are those that are
// resident. Proves K4 and M1.
func TestReadersHoldGrowingPages(t *testing.T) {
	const pages, longest = 12, 1500
	steps := 6000
	if testing.Short() {
		steps = 1000
	}
	dir := t.TempDir()
	o := &Options{SegmentSize: 64 << 10, CacheCapacity: 1 << 20, FlushEvery: time.Millisecond}
	pc := openTest(t, dir, o)
	pids := make([]PageID, pages)
	for i := range pids {
		pids[i], _ = allocate(t, pc, newChained(20+i*i))
	}
	var grew, lost, changed atomic.Int64
	// write links to one page or two, or begins a page that has become long anew. Most transactions that lose have
	// copied their deltas behind the value of their pages.
	write := func(rng *rand.Rand) error {
		tx := begin(t, pc)
		defer tx.End()
		single := rng.IntN(3) == 0
		for _, i := range rng.Perm(pages)[:1+rng.IntN(2)] {
			p, err := tx.Get(pids[i])
			if err == nil {
				err = chained(p.Value).check()
			}
			if err != nil {
				return err
			}
			if headOf(pc, pids[i]).IsGrown() {
				grew.Add(1)
			}
			won, links := true, chained(p.Value).next(1+rng.IntN(7), rng) // some exceed shortDelta
			switch {
			case len(p.Value) > longest && single:
				_, won, err = pc.Replace(tx, pids[i], p.Ptr, newChained(20+i*i))
			case len(p.Value) > longest:
				err = tx.Replace(pids[i], newChained(20+i*i))
			case single:
				_, won, err = pc.Link(tx, pids[i], p.Ptr, links)
			default:
				first := linkLen * rng.IntN(len(links)/linkLen)
				err = errors.Join(tx.Link(pids[i], links[:first]), tx.Link(pids[i], links[first:]))
			}
			clear(links) // the store has copied them
			if err != nil {
				return err
			}
			if single {
				changed.Add(1)
				if !won {
					lost.Add(1)
				}
				return nil
			}
		}
		switch rng.IntN(8) {
		case 0:
			return nil // rolled back
		case 1, 2:
			runtime.Gosched()
		}
		changed.Add(1)
		_, err := tx.Commit()
		return err
	}
	// read holds values of some pages, and looks whether they change.
	read := func(rng *rand.Rand) error {
		tx := begin(t, pc)
		defer tx.End()
		var held, copies [][]byte
		for range 8 {
			pid := pids[rng.IntN(pages)]
			if rng.IntN(4) > 0 {
				p, err := pc.Get(tx, pid)
				if err != nil {
					return err
				}
				held = append(held, p.Value)
			} else if _, frags, err := pc.Fragments(tx, pid); err == nil {
				slices.Reverse(frags)
				held = append(held, slices.Concat(frags...))
			} else {
				return err
			}
			v := chained(held[len(held)-1])
			if err := v.check(); err != nil {
				return err
			}
			copies = append(copies, slices.Clone(v))
		}
		if rng.IntN(16) == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		for i, v := range held {
			if !bytes.Equal(v, copies[i]) {
				return fmt.Errorf("a value has changed from %q to %q", copies[i], v)
			}
		}
		return nil
	}
	// view reads all pages twice, at one moment.
	view := func(rng *rand.Rand) error {
		return pc.View(t.Context(), func(tx *Tx[[]byte]) error {
			var first, copies [pages][]byte
			for n := range 2 {
				for _, i := range rng.Perm(pages) {
					p, err := tx.Get(pids[i])
					if err == nil {
						err = chained(p.Value).check()
					}
					if err != nil {
						return err
					}
					if n == 0 {
						first[i], copies[i] = p.Value, slices.Clone(p.Value)
					} else if !bytes.Equal(p.Value, copies[i]) || !bytes.Equal(first[i], copies[i]) {
						return fmt.Errorf("in a View page %d was %q, was read again as %q, and is held as %q", pids[i],
							copies[i], p.Value, first[i])
					}
				}
				runtime.Gosched()
			}
			return nil
		})
	}
	keep := func(rng *rand.Rand) error {
		pid := pids[rng.IntN(pages)]
		switch tx := begin(t, pc); rng.IntN(3) {
		case 0:
			pc.mem.evict(tx.base(), pid, true)
			tx.End()
		case 1:
			tx.End()
			evictor[[]byte]{pc}.Evict(uint64(pid))
		default:
			tx.End()
			if _, err := pc.AttemptGC(); !errors.Is(err, logstore.ErrLater) {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for g, f := range []func(*rand.Rand) error{write, write, write, write, read, view, keep} {
		rng := rand.New(rand.NewPCG(uint64(g), 3))
		wg.Go(func() {
			for range steps {
				switch err := f(rng); {
				case errors.Is(err, ErrConflict):
					lost.Add(1)
				case err != nil:
					t.Errorf("goroutine %d: %v", g, err)
					return
				}
			}
		})
	}
	soon(t, "goroutines that link and read", wg.Wait)
	t.Logf("%d changes, %d of them lost, %d saw a page that had grown", changed.Load(), lost.Load(), grew.Load())
	if grew.Load() < int64(steps)/10 {
		t.Errorf("%d of %d changes saw a page that had grown", grew.Load(), changed.Load())
	}
	resume := quiet(pc)
	heap, mapped := residentTruth(t, pc)
	settleAll(pc)
	if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
		t.Errorf("counted %d bytes on the heap and %d mapped, want %d and %d", h, m, heap, mapped)
	}
	resume()
	values := map[PageID][]byte{}
	for _, pid := range pids {
		values[pid] = bytes.Clone(get1(t, pc, pid).Value)
	}
	closeTest(t, pc)
	pc = openTest(t, dir, o)
	defer closeTest(t, pc)
	for pid, want := range values {
		if p := get1(t, pc, pid); !bytes.Equal(p.Value, want) {
			t.Errorf("page %d is %q after reopening, want %q", pid, p.Value, want)
		}
	}
}
