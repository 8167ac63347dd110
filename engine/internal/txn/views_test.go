package txn

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"weak"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/invariants"
	"pagecache/segments/format"
)

// changes are the ways in which a page changes.
var changes = map[string]func(s *store, page int, v uint64) bool{
	"swap": func(s *store, page int, v uint64) bool {
		h := s.clock.Claim(&s.slots[page])
		return s.clock.Swap(&s.slots[page], h, s.entry(h, appended(listOf(h), v)))
	},
	"wrapped": func(s *store, page int, v uint64) bool {
		h := s.clock.Claim(&s.slots[page])
		return s.clock.wrap(&s.slots[page], h, s.entry(h, appended(listOf(h), v)))
	},
	"transaction": func(s *store, page int, _ uint64) bool {
		a := s.begin(s.value.Add(1))
		return a.append(page) && a.append(len(s.slots)-1) && a.end(nowhere)
	},
}

// lengths returns how many values each page has that a View sees.
func (s *store) lengths(w *View) (all []int) {
	for page := range s.slots {
		h, _ := w.Read(&s.slots[page])
		all = append(all, len(listOf(h)))
	}
	return all
}

// A View sees pages as they were when it began, whatever changes them, how often, and which other Views begin and end
// meanwhile. For each View at most one version of a page is kept, and none when no View needs it. Proves Q8 and Q9.
func TestViewSeesItsCut(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			const pages = 4
			s := newStore(pages + 1)
			type open struct {
				w    *View
				want []int
			}
			var views []open
			rng := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				switch n := rng.IntN(10); {
				case n < 6:
					if !change(s, rng.IntN(pages), s.value.Add(1)) {
						t.Fatal("conflict without a reason")
					}
				case n == 6:
					s.move(rng.IntN(pages))
				case n < 9 && len(views) < 5:
					w := s.clock.BeginView()
					views = append(views, open{w, s.lengths(w)})
					for page := range s.slots {
						if n := len(s.load(page)); n != views[len(views)-1].want[page] {
							t.Fatalf("page %d has %d values, a View that begins sees %v", page, n, s.lengths(w))
						}
					}
				case len(views) > 0:
					i := rng.IntN(len(views))
					views[i].w.End()
					views[i].w.End() // does nothing
					views = slices.Delete(views, i, i+1)
				}
				for _, o := range views {
					if got := s.lengths(o.w); !slices.Equal(got, o.want) {
						t.Fatalf("a View sees %v, and has seen %v", got, o.want)
					}
				}
				if n := s.clock.Kept(); n > int64(len(views)*len(s.slots)) {
					t.Fatalf("%d versions are kept for %d Views of %d pages", n, len(views), len(s.slots))
				}
			}
			for _, o := range views {
				o.w.End()
			}
			if n, m := s.clock.Kept(), s.clock.Open(); n != 0 || m != 0 {
				t.Errorf("%d versions are kept, %d Views are open", n, m)
			}
			s.clock.kept.Range(func(any, any) bool {
				t.Error("the chain of a page is left")
				return false
			})
		})
	}
}

// Without an open View nothing is kept, and an entry that has replaced another one does not refer to it, unless it is a
// delta.
func TestNothingIsKeptWithoutViews(t *testing.T) {
	s := newStore(2)
	for _, change := range changes {
		if !change(s, 0, s.value.Add(1)) {
			t.Fatal("conflict without a reason")
		}
		if h := s.slots[0].Word(); h.IsIntent() || h.IsUnstamped() || h.Replaced() != nil {
			t.Error("the entry is unstamped, or refers to the one before it")
		}
	}
	if s.clock.Kept() != 0 {
		t.Errorf("%d versions are kept", s.clock.Kept())
	}
}

// A View that needs the entry below releases it, and not what another View needs; and the place where it is kept is the
// one that Place returns.
func TestVersionsAreReleasedOneByOne(t *testing.T) {
	s := newStore(1)
	placed := 0
	s.clock.Place = func(h *Head) *Head {
		placed++
		return h
	}
	add := func() { s.single(0, s.value.Add(2)) }
	var views []*View
	for range 4 {
		add()
		views = append(views, s.clock.BeginView(), s.clock.BeginView())
	}
	add()
	add()
	if n := s.clock.Kept(); n != 4 || placed != 4 { // two Views see the same version
		t.Errorf("%d versions are kept, %d were placed", n, placed)
	}
	for i, n := range []int64{4, 3, 3, 2, 2, 1, 1, 0} {
		views[i].End()
		if got := s.clock.Kept(); got != n {
			t.Errorf("after the end of %d Views %d versions are kept, want %d", i+1, got, n)
		}
		for j, w := range views[i+1:] {
			if got := s.lengths(w)[0]; got != (i+1+j)/2+1 {
				t.Errorf("View %d sees %d values", i+1+j, got)
			}
		}
	}
}

// A version keeps no other entry in memory: not the one that has replaced it either, once that was replaced or evicted.
// Proves Q9.
func TestVersionKeepsNoOtherEntry(t *testing.T) {
	for name, change := range changes {
		s := newStore(2)
		s.clock.Place = func(*Head) *Head { return pagestack.NewFree(1, 8, format.DiskPtr{}) }
		w := s.clock.BeginView()
		var old []weak.Pointer[Head]
		for range 3 {
			old = append(old, weak.Make(s.slots[0].Word()))
			if !change(s, 0, s.value.Add(1)) {
				t.Fatal("conflict without a reason")
			}
		}
		runtime.GC()
		for i, p := range old {
			if p.Value() != nil {
				t.Errorf("%s: the entry after %d changes is in memory, and 3 were made", name, i)
			}
		}
		if n := s.clock.Kept(); n == 0 {
			t.Errorf("%s: no version is kept", name)
		}
		w.End()
		runtime.KeepAlive(s)
	}
}

// A goroutine that stops anywhere in a change of a page delays no View, and every View sees the change or not, for as
// long as it is open, and so do all that begin later if a caller has seen it. Proves Q4 and Q8.
func TestStoppedChangeDelaysNoView(t *testing.T) {
	for at := range singleStops {
		for _, early := range []bool{false, true} { // a View was open when the change began
			for _, read := range []bool{false, true} { // a caller reads the page before the next View
				s := newStore(1)
				var first *View
				if early {
					first = s.clock.BeginView()
				}
				s.stopSingle(0, s.value.Add(1), at)
				seen := 0
				if read {
					seen = len(s.load(0))
				}
				second := s.clock.BeginView()
				before := s.lengths(second)[0]
				if before < seen {
					t.Errorf("stopped at %d: a View that begins later does not see the change", at)
				}
				if got := len(s.load(0)); got != 1 {
					t.Errorf("stopped at %d: %d values", at, got)
				}
				third := s.clock.BeginView()
				s.single(0, s.value.Add(1))
				if early && s.lengths(first)[0] != 0 {
					t.Errorf("stopped at %d: a View sees a change that began later", at)
				}
				if got := s.lengths(second)[0]; got != before {
					t.Errorf("stopped at %d: a View sees %d values, and then %d", at, before, got)
				}
				if got := s.lengths(third)[0]; got != 1 {
					t.Errorf("stopped at %d: a View sees %d values that begins after a read", at, got)
				}
			}
		}
	}
}

// A goroutine that stops in the middle of a transaction of several pages delays no View, and every View sees all of its
// changes or none. Proves Q4 and Q8.
func TestViewSeesAllOfATransaction(t *testing.T) {
	for at := nowhere; at < stops; at++ {
		for first := range 2 { // the page that is looked at first
			s := newStore(3)
			early := s.clock.BeginView()
			a := s.begin(1)
			if !a.read(2) || !a.append(0) || !a.append(1) {
				t.Fatal("conflict without a reason")
			}
			a.end(at)
			w := s.clock.BeginView()
			h, _ := w.Read(&s.slots[first])
			late := s.clock.BeginView()
			n := len(listOf(h))
			if h, _ = w.Read(&s.slots[1-first]); len(listOf(h)) != n || at == nowhere && n == 0 {
				t.Errorf("stopped at %d: a View sees %d and %d changes", at, n, len(listOf(h)))
			}
			want := len(s.load(0))
			for name, got := range map[string][]int{"early": s.lengths(early), "late": s.lengths(late)} {
				if name == "early" && (got[0] != 0 || got[1] != 0) || got[0] != got[1] || got[0] > want ||
					name == "late" && got[0] != want {
					t.Errorf("stopped at %d: the %s View sees %v, there is %d", at, name, got, want)
				}
			}
		}
	}
}

// A change that overwrites what a transaction has read comes after the transaction for every View, even if the
// goroutine of the transaction stops before it has removed its intents. Proves Q8.
func TestOverwrittenReadComesFirst(t *testing.T) {
	for at := checked; at < stops; at++ {
		s := newStore(3)
		early := s.clock.BeginView()
		a := s.begin(1)
		if !a.read(0) || !a.append(1) || !a.append(2) {
			t.Fatal("conflict without a reason")
		}
		a.end(at)
		s.single(0, s.value.Add(1))
		w := s.clock.BeginView()
		got := s.lengths(w)
		if got[0] != 1 || got[1] != got[2] || at == decided && got[1] != 1 {
			t.Errorf("stopped at %d: a View sees %v", at, got)
		}
		if got := s.lengths(early); got[0] != 0 || got[1] != 0 || got[2] != 0 {
			t.Errorf("stopped at %d: an early View sees %v", at, got)
		}
	}
}

// A goroutine that has found an entry unstamped, and goes on after the entry was settled and what was kept of it
// released, leaves nothing, and changes nothing for Views that are open then.
func TestLateGoroutineEntersNothing(t *testing.T) {
	s := newStore(1)
	slot := &s.slots[0]
	first := s.clock.BeginView()
	h := s.clock.Claim(slot)
	e := s.entry(h, []uint64{1})
	e.SetUnstamped(h)
	slot.Store(e)
	if !e.BeginStamping() {
		t.Fatal("the entry is settled")
	}
	if n := len(s.load(0)); n != 1 || s.clock.Kept() != 1 {
		t.Fatalf("%d values, %d versions kept", n, s.clock.Kept())
	}
	first.End()
	second := s.clock.BeginView()
	s.clock.enter(slot, e, h)
	i := s.clock.committed(slot, h, e) // of a change whose intent was removed long ago
	s.clock.keep(i, 1)
	if got := s.lengths(second)[0]; got != 1 || s.clock.Kept() != 0 {
		t.Errorf("%d values, %d versions kept", got, s.clock.Kept())
	}
	s.single(0, 2)
	s.clock.enter(slot, e, h)
	if got := s.lengths(second)[0]; got != 1 || s.clock.Kept() != 1 {
		t.Errorf("%d values, %d versions kept", got, s.clock.Kept())
	}
	second.End()
	if s.clock.Kept() != 0 {
		t.Errorf("%d versions kept", s.clock.Kept())
	}
}

// Goroutines that enter the version of one change have one version, so that it gets one stamp. Proves Q8.
func TestVersionIsEnteredOnce(t *testing.T) {
	s := newStore(1)
	slot := &s.slots[0]
	w := s.clock.BeginView()
	h := s.clock.Claim(slot)
	e := s.entry(h, []uint64{1})
	one, entered := s.clock.insert(slot, e, h, 0)
	other, again := s.clock.insert(slot, e, h, 7)
	if !entered || again || one != other || s.clock.Kept() != 1 {
		t.Errorf("entered %v and %v, %d versions kept", entered, again, s.clock.Kept())
	}
	s.clock.remove(one)
	w.End()
	if s.clock.Kept() != 0 {
		t.Errorf("%d versions kept", s.clock.Kept())
	}
}

// Transfers between accounts keep the sum, which each View sees at its first attempt, and again when it looks again.
// Proves Q8.
func TestViewsSumAtOnce(t *testing.T) {
	const accounts = 20
	transfers := 4000
	if testing.Short() || invariants.Enabled {
		transfers = 800
	}
	s := newStore(accounts)
	for page := range s.slots {
		s.slots[page].Store(s.entry(nil, []uint64{100}))
	}
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
	var sums atomic.Int64
	for g := range 2 {
		readers.Go(func() {
			for n := 0; !stop.Load() || n == 0; n++ {
				w := s.clock.BeginView()
				for range 1 + g {
					sum := uint64(0)
					for page := range s.slots {
						h, _ := w.Read(&s.slots[page])
						sum += listOf(h)[0]
					}
					if sum != accounts*100 {
						t.Errorf("the sum is %d", sum)
						return
					}
				}
				w.End()
				sums.Add(1)
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	t.Logf("%d sums", sums.Load())
	if n := s.clock.Kept(); n != 0 {
		t.Errorf("%d versions are kept", n)
	}
}

// Many goroutines change the same pages while Views begin and end: all versions are released, also by goroutines that
// enter one for a View that has just ended. Proves Q9.
func TestVersionsAreReleased(t *testing.T) {
	each := 3000
	if testing.Short() || invariants.Enabled {
		each = 500
	}
	s := newStore(5)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(11, uint64(g)))
			for range each {
				page := rng.IntN(len(s.slots))
				h := s.clock.Claim(&s.slots[page])
				s.clock.Swap(&s.slots[page], h, s.entry(h, nil))
				if rng.IntN(4) == 0 {
					w := s.clock.BeginView()
					s.lengths(w)
					w.End()
				}
			}
		})
	}
	wg.Wait()
	if n := s.clock.Kept(); n != 0 {
		t.Errorf("%d versions are kept", n)
	}
}

// What a change of one page costs: a compare-and-swap alone, Swap without a View, and Swap beside an open View.
func BenchmarkSwap(b *testing.B) {
	for _, name := range []string{"alone", "swap", "wrapped", "view"} {
		b.Run(name, func(b *testing.B) {
			s := newStore(1000)
			if name == "view" {
				defer s.clock.BeginView().End()
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				slot := &s.slots[i%len(s.slots)]
				h := s.clock.Claim(slot)
				e := s.entry(h, nil)
				page := format.PageID(i % len(s.slots))
				s.clock.Begin(page)
				switch name {
				case "alone":
					slot.CompareAndSwap(h, e)
				case "wrapped":
					s.clock.wrap(slot, h, e)
				default:
					s.clock.Swap(slot, h, e)
				}
				s.clock.Stamp(page)
				s.clock.End(page)
			}
		})
	}
}
