package txn

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/history"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// hostile runs goroutines that do random transactions on few pages, with single appends and reads, Views, moves, and
// goroutines that stop for ever, and returns what they saw.
func hostile(s *store, seed uint64, goroutines, each int) []history.Txn {
	var mu sync.Mutex
	var all []history.Txn
	var age atomic.Uint64
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			var mine []history.Txn
			for range each {
				if rng.IntN(8) == 0 {
					runtime.Gosched()
				}
				page := rng.IntN(len(s.slots))
				switch n := rng.IntN(24); {
				case n == 23 && rng.IntN(4) == 0:
					mine = append(mine, s.stopSingle(page, s.value.Add(1), rng.IntN(singleStops)))
				case n >= 20:
					pages := make([]int, 1+rng.IntN(8))
					for i := range pages {
						pages[i] = rng.IntN(len(s.slots))
					}
					mine = append(mine, s.view(rng, pages))
				case n < 3:
					mine = append(mine, s.single(page, s.value.Add(1)))
				case n < 6:
					mine = append(mine, s.single(page, 0))
				case n < 8:
					s.move(page)
				default:
					at := nowhere
					if rng.IntN(20) == 0 {
						at = stop(rng.IntN(int(stops)))
					}
					pages := make([]int, 1+rng.IntN(5))
					for i := range pages {
						pages[i] = rng.IntN(len(s.slots))
					}
					mine = append(mine, s.run(rng, age.Add(1), at, pages)...)
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	last := history.Txn{Begin: s.time.Add(1)}
	for page := range s.slots { // which also decides what was left
		last.Ops = append(last.Ops, history.Op{Page: page, List: listOf(s.clock.Claim(&s.slots[page]))})
	}
	last.End = s.time.Add(1)
	return append(all, last)
}

// Histories of many goroutines on few pages have no anomaly, from G0 to G2 and in real time, and those of transactions
// that fail have none either (opacity). Each stops some goroutines for ever in the middle of a change. Proves Q1 to Q4,
// Q6 and Q8.
func TestHistoriesAreStrictlySerializable(t *testing.T) {
	seeds, each := uint64(40), 250
	if testing.Short() {
		seeds = 8
	}
	aborted, committed := 0, 0
	for seed := range seeds {
		s := newStore(2 + int(seed%7)*2)
		txns := hostile(s, seed, 2+int(seed%5)*2, each)
		if msg := s.wrong.Load(); msg != nil {
			t.Fatalf("seed %d: %s", seed, *msg)
		}
		if err := history.Check(txns); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if n := s.clock.Kept(); n > s.stopped.Load() || s.clock.Open() != 0 {
			t.Errorf("seed %d: %d versions are kept, %d goroutines have stopped, %d Views are open", seed, n,
				s.stopped.Load(), s.clock.Open())
		}
		for _, x := range txns {
			if x.Outcome == history.OutcomeAborted {
				aborted++
			} else {
				committed++
			}
		}
	}
	t.Logf("%d attempts have committed, %d have not", committed, aborted)
	if aborted == 0 && runtime.GOMAXPROCS(0) > 1 {
		t.Error("no two transactions met")
	}
}

// Two transactions that each read what the other one writes do not both commit (write skew), at whatever step the first
// is when the second runs. Proves Q2.
func TestNoWriteSkew(t *testing.T) {
	for at := installing; at < stops; at++ {
		for _, ages := range [][2]uint64{{1, 2}, {2, 1}} {
			s := newStore(2)
			first, second := s.begin(ages[0]), s.begin(ages[1])
			for i, a := range []*attempt{first, second} {
				if !a.read(i) || !a.append(1-i) {
					t.Fatal("conflict without a reason")
				}
			}
			first.end(at)
			ok := second.end(nowhere)
			x, y := s.load(0), s.load(1)
			if len(x)+len(y) > 1 || ok && len(x) == 0 {
				t.Errorf("first stops at %d, ages %v: second committed: %v, lists %v and %v", at, ages, ok, x, y)
			}
		}
	}
}

// A goroutine that stops anywhere in its commit delays nobody: reads and single changes of its pages work, and find all
// of its changes or none. Proves Q1 and Q4.
func TestStoppedGoroutineDelaysNobody(t *testing.T) {
	for at := installing; at < stops; at++ {
		for _, write := range []bool{false, true} {
			s := newStore(3)
			a := s.begin(1)
			if !a.read(2) || !a.append(0) || !a.append(1) {
				t.Fatal("conflict without a reason")
			}
			a.end(at)
			want := 0
			if at >= checked { // its moment has passed
				want = 1
			}
			if write {
				s.single(0, s.value.Add(1))
			}
			x, y := len(s.load(0)), len(s.load(1))
			if write {
				x--
			}
			if x != want || y != want {
				t.Errorf("stopped at %d, then written %v: %d and %d changes, want %d", at, write, x, y, want)
			}
			if at >= checked && IsClaimed(&s.slots[0]) {
				t.Errorf("stopped at %d: the page is still claimed", at)
			}
			b := s.begin(2)
			if ok := b.read(0) && b.append(1) && b.end(nowhere); !ok {
				t.Errorf("stopped at %d: the next transaction has a conflict", at)
			}
		}
	}
}

// A check decides an older transaction, and aborts a younger one, each of which has read what the other one writes.
// Proves Q5.
func TestOlderTransactionWins(t *testing.T) {
	for _, ages := range [][2]uint64{{1, 2}, {2, 1}} {
		s := newStore(2)
		first, second := s.begin(ages[0]), s.begin(ages[1])
		for i, a := range []*attempt{first, second} {
			if !a.read(i) || !a.append(1-i) {
				t.Fatal("conflict without a reason")
			}
		}
		first.end(checked)
		if won, want := second.end(nowhere), ages[1] < ages[0]; won != want {
			t.Errorf("ages %v: the second has committed: %v", ages, won)
		}
		if n := len(s.load(0)) + len(s.load(1)); n != 1 {
			t.Errorf("ages %v: %d changes", ages, n)
		}
	}
	// A younger one yields for a while to an older one that prepares; it is not delayed for ever.
	s := newStore(1)
	old := s.begin(1)
	if !old.append(0) {
		t.Fatal("conflict without a reason")
	}
	old.end(installed)
	young := s.begin(2)
	if !young.append(0) || !young.end(nowhere) {
		t.Error("a stopped transaction holds up a younger one")
	}
}

// A younger transaction yields to an older one that is just preparing, so the older one commits. Proves Q5.
func TestYoungerTransactionYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := newStore(1)
	old, young := s.begin(1), s.begin(2)
	if !old.append(0) || !young.append(0) {
		t.Fatal("conflict without a reason")
	}
	rec := s.clock.Record(old.age, 1)
	h, ok := rec.Install(&old.writes[0].read)
	if !ok {
		t.Fatal("conflict without a reason")
	}
	committed := make(chan bool, 1)
	go func() {
		rec.SetResult(0, s.entry(h, old.writes[0].list))
		committed <- rec.Decide(nil)
	}()
	if young.end(nowhere) || !<-committed {
		t.Error("the younger transaction has aborted the older one")
	}
}

// Of many goroutines that all append to the same page in transactions, each gets on: with one page there is always one
// attempt that commits, and older transactions win.
func TestManyGoroutinesOnOnePage(t *testing.T) {
	const goroutines = 64
	each := 30
	if testing.Short() {
		each = 5
	}
	s := newStore(2)
	var age atomic.Uint64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				var b Backoff
				for mine := age.Add(1); ; {
					if a := s.begin(mine); a.append(0) && a.append(1) && a.end(nowhere) {
						break
					}
					if err := b.Wait(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for page := range s.slots {
		if n := len(s.load(page)); n != goroutines*each {
			t.Errorf("page %d has %d values, want %d", page, n, goroutines*each)
		}
	}
}

// A transaction that has read many pages reads more of them without looking at all of them again, although other pages
// change. Readers of pages that change find one moment at which all were current. Proves Q3.
func TestReadsAreNotValidatedAgain(t *testing.T) {
	const pages = 2000
	s := newStore(pages)
	var r Reads
	r.Reset(&s.clock)
	for page := range pages / 2 {
		if _, _, ok := r.Read(format.PageID(page), &s.slots[page]); !ok {
			t.Fatal("conflict without a reason")
		}
		s.single(pages/2+page, s.value.Add(1))
	}
	t.Logf("%d versions were validated", r.validated)
	if r.validated > pages*20 {
		t.Errorf("%d versions were validated for %d reads", r.validated, pages/2)
	}
	if _, changed := Changed(r.All()); changed || len(r.All()) != pages/2 {
		t.Error("pages count as changed")
	}
	// A page that has changed since the first read is read only if none of those has changed.
	if h, _, ok := r.Read(pages-1, &s.slots[pages-1]); !ok || len(listOf(h)) != 1 {
		t.Error("a page that has changed is not read")
	}
	s.single(7, s.value.Add(1))
	if _, _, ok := r.Read(pages-3, &s.slots[pages-3]); !ok && r.list[0].Page == 7 {
		t.Error("page 7 is not the first one")
	}
	s.single(pages-4, s.value.Add(1))
	if _, page, ok := r.Read(pages-4, &s.slots[pages-4]); ok || page != 7 {
		t.Errorf("a read that goes with no earlier one: %v, page %d", ok, page)
	}
	if page, changed := Changed(r.All()); !changed || page != 7 {
		t.Errorf("changed: %v, page %d", changed, page)
	}
}

// A change that has begun and not ended makes readers validate, and never makes them take a newer version for one of
// their moment. Proves Q3.
func TestChangeInProgressIsValidated(t *testing.T) {
	s := newStore(4)
	var r Reads
	r.Reset(&s.clock)
	for page := range 2 {
		if _, _, ok := r.Read(format.PageID(page), &s.slots[page]); !ok {
			t.Fatal("conflict without a reason")
		}
	}
	s.clock.Begin(2)
	h := s.slots[2].Word()
	s.slots[2].Store(s.entry(h, []uint64{1})) // and does not end
	s.single(0, 2)
	if _, page, ok := r.Read(2, &s.slots[2]); ok || page != 0 {
		t.Errorf("a version is read that was never current with the one of page 0: %v, page %d", ok, page)
	}
	r.Reset(&s.clock)
	for page := range 4 {
		if _, _, ok := r.Read(format.PageID(page), &s.slots[page]); !ok {
			t.Errorf("page %d: conflict without a reason", page)
		}
	}
}

// Transfers between accounts keep the sum, which concurrent readers see throughout.
func TestTransfersKeepTheSum(t *testing.T) {
	const accounts = 20
	transfers := 4000
	if testing.Short() || invariants.Enabled {
		transfers = 800
	}
	s := newStore(accounts)
	for page := range s.slots {
		s.slots[page].Store(s.entry(nil, []uint64{100}))
	}
	balance := func(h *Head) int { return int(listOf(h)[0]) }
	var age atomic.Uint64
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	for g := range 4 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(g)))
			for range transfers {
				for mine := age.Add(1); ; {
					from := rng.IntN(accounts - 1)
					if s.transfer(mine, from, from+1+rng.IntN(accounts-1-from)) {
						break
					}
				}
			}
		})
	}
	sums := 0
	readers.Go(func() {
		for !stop.Load() || sums == 0 {
			var r Reads
			r.Reset(&s.clock)
			sum, whole := 0, true
			for page := range s.slots {
				h, _, ok := r.Read(format.PageID(page), &s.slots[page])
				if whole = ok; !ok {
					break
				}
				sum += balance(h)
			}
			if whole && sum != accounts*100 {
				t.Errorf("the sum is %d", sum)
				return
			}
			if whole {
				sums++
			}
		}
	})
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	t.Logf("%d sums", sums)
}

// transfer moves 1 from one account to another of a higher number, false after a conflict.
func (s *store) transfer(age uint64, from, to int) bool {
	a := s.begin(age)
	for _, page := range []int{from, to} {
		list, ok := a.list(page)
		if !ok {
			return false
		}
		v, all := list[0]+1, a.reads.All()
		if page == from {
			v = list[0] - 1
		}
		a.writes = append(a.writes, pageWrite{page: page, read: all[len(all)-1], list: []uint64{v}})
	}
	return a.end(nowhere)
}

// The protocol alone, without a log: 4 pages read and 2 of them changed, uniform over 10 000.
func BenchmarkTwoOfFour(b *testing.B) {
	s := newStore(10000)
	for page := range s.slots {
		s.slots[page].Store(s.entry(nil, []uint64{100}))
	}
	var seed, age atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(seed.Add(1), 0))
		var r Reads
		for pb.Next() {
			mine := age.Add(1)
			for !s.twoOfFour(rng, mine, &r) {
				runtime.Gosched()
			}
		}
	})
}

// twoOfFour is one attempt at a transaction that reads four pages and changes two, false after a conflict.
func (s *store) twoOfFour(rng *rand.Rand, age uint64, r *Reads) bool {
	r.Reset(&s.clock)
	first := rng.IntN(len(s.slots) / 4)
	var pages [4]format.PageID
	for i := range pages {
		pages[i] = format.PageID(first + i*len(s.slots)/4)
		if _, _, ok := r.Read(pages[i], &s.slots[pages[i]]); !ok {
			return false
		}
	}
	rec := s.clock.Record(age, 2)
	for n := range 2 {
		h, ok := rec.Install(&r.All()[n])
		if !ok {
			rec.Abort()
			return false
		}
		rec.SetResult(n, s.entry(h, []uint64{age}))
		s.clock.Begin(pages[n])
	}
	won := rec.Decide([]Read{r.All()[2], r.All()[3]})
	for n := range 2 {
		if won {
			s.clock.Stamp(pages[n])
		}
		s.clock.End(pages[n])
	}
	return won
}
