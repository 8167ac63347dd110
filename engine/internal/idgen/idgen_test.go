package idgen

import (
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pagecache/engine/internal/iobuf"
	"pagecache/segments/format"
)

// notes is the log that a Generator writes to. A note counts once MakeDurable has returned.
type notes struct {
	mu      sync.Mutex
	written []uint64
	durable uint64 // the highest note that is durable
	count   int    // of durable notes
	err     error  // what Write and MakeDurable fail with
}

func (n *notes) Write(v uint64) (format.LSN, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return 0, n.err
	}
	n.written = append(n.written, v)
	return format.LSN(len(n.written)), nil
}

func (n *notes) MakeDurable(lsn format.LSN) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return n.err
	}
	n.durable = max(n.durable, n.written[lsn-1])
	n.count++
	return nil
}

func (n *notes) fail(err error) {
	n.mu.Lock()
	n.err = err
	n.mu.Unlock()
}

// limit returns the first id that must not be handed out, as an opening after a crash would compute it.
func (n *notes) limit(first, interval uint64) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(first, n.durable+2*interval)
}

func started(n *notes, next, interval uint64) *Generator {
	g := new(Generator)
	g.Start(Config{Next: next, Limit: next + 2*interval, Interval: interval, Closed: new(atomic.Bool),
		Write: n.Write, MakeDurable: n.MakeDurable})
	return g
}

// Ids rise by one from Next on, and notes keep ahead of them.
func TestIdsRise(t *testing.T) {
	n := new(notes)
	g := started(n, 100, 8)
	for want := uint64(100); want < 1100; want++ {
		if g.Next() != want {
			t.Fatalf("the next id is %d, want %d", g.Next(), want)
		}
		id, err := g.Draw()
		if err != nil || id != want {
			t.Fatalf("id %d, want %d: %v", id, want, err)
		}
		if id >= n.limit(116, 8) {
			t.Fatalf("id %d was handed out, and an opening after a crash would go on at %d", id, n.limit(116, 8))
		}
	}
	g.Stop()
	if !slices.IsSorted(n.written) || n.count < 1000/17 || n.count > 1000/8 {
		t.Errorf("%d notes: %d", n.count, n.written)
	}
}

// Goroutines that draw at once never get the same id, nor one that an opening after a crash at that moment would hand
// out again.
func TestNoIdRepeats(t *testing.T) {
	for seed := range uint64(5) {
		const goroutines, each, first = 4, 3000, 7
		interval := 1 + rand.New(rand.NewPCG(seed, 1)).Uint64N(50)
		n := new(notes)
		g := started(n, first, interval)
		var wg sync.WaitGroup
		ids := make([][]uint64, goroutines)
		for i := range goroutines {
			wg.Go(func() {
				for range each {
					id, err := g.Draw()
					if err != nil || id >= n.limit(first+2*interval, interval) {
						t.Errorf("id %d at or above what is noted: %v", id, err)
						return
					}
					ids[i] = append(ids[i], id)
				}
			})
		}
		wg.Wait()
		g.Stop()
		all := slices.Concat(ids...)
		slices.Sort(all)
		distinct, last := slices.Compact(slices.Clone(all)), all[len(all)-1]
		if len(distinct) != goroutines*each || all[0] != first || last != first+goroutines*each-1 {
			t.Errorf("interval %d: ids repeat or are missing: %d of %d in %d…%d", interval, len(distinct), len(all),
				all[0], last)
		}
		for i := range ids {
			if !slices.IsSorted(ids[i]) {
				t.Errorf("the ids of one goroutine do not rise")
			}
		}
	}
}

// An id at the limit is not returned before its note is durable.
func TestLimitWaitsForTheNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(notes)
		n.fail(errors.New("not yet")) // no note in the background
		durable := make(chan struct{})
		g := new(Generator)
		g.Start(Config{Limit: 20, Interval: 10, Closed: new(atomic.Bool), Write: n.Write,
			MakeDurable: func(lsn format.LSN) error { <-durable; return n.MakeDurable(lsn) }})
		for want := range uint64(20) {
			if id, err := g.Draw(); id != want || err != nil {
				t.Fatalf("id %d, want %d: %v", id, want, err)
			}
		}
		synctest.Wait()
		n.fail(nil)
		var returned atomic.Bool
		go func() {
			if id, err := g.Draw(); id != 20 || err != nil {
				t.Errorf("id %d, want 20: %v", id, err)
			}
			returned.Store(true)
		}()
		synctest.Wait()
		if returned.Load() {
			t.Error("an id at the limit did not wait for the note")
		}
		close(durable)
		synctest.Wait()
		if !returned.Load() {
			t.Error("an id at the limit waits for a note that is durable")
		}
		g.Stop()
	})
}

// If notes cannot be written, ids below the limit are handed out, the ids from there on fail with the reason, and
// writing is tried again for each.
func TestNotesFail(t *testing.T) {
	n := new(notes)
	broken := errors.New("disk is on fire")
	n.fail(broken)
	g := started(n, 0, 4)
	for want := range uint64(8) {
		if id, err := g.Draw(); id != want || err != nil {
			t.Fatalf("id %d, want %d: %v", id, want, err)
		}
	}
	for range 3 {
		if id, err := g.Draw(); !errors.Is(err, broken) || id != 0 {
			t.Fatalf("id %d: %v", id, err)
		}
	}
	n.fail(nil)
	if id, err := g.Draw(); id != 11 || err != nil {
		t.Errorf("id %d, want 11: %v", id, err)
	}
	g.Stop()
}

// A store that is open read-only hands out ids and notes none.
func TestReadOnlyNotesNothing(t *testing.T) {
	g := new(Generator)
	// A note would call a nil function.
	g.Start(Config{Next: 5, Limit: 6, Interval: 3, ReadOnly: true, Closed: new(atomic.Bool)})
	for want := uint64(5); want < 1000; want++ {
		if id, err := g.Draw(); id != want || err != nil {
			t.Fatalf("id %d, want %d: %v", id, want, err)
		}
	}
	if g.hard.Load() != math.MaxUint64 {
		t.Errorf("the limit is %d", g.hard.Load())
	}
}

// Draw returns no id of a store that is being closed, even if closing begins while it waits for a note. Take does.
func TestDrawWhileClosing(t *testing.T) {
	n := new(notes)
	var closed atomic.Bool
	var atClose uint64
	g := new(Generator)
	c := Config{Next: 7, Limit: 7, Interval: 10, Closed: &closed, MakeDurable: n.MakeDurable}
	c.Write = func(v uint64) (format.LSN, error) { // the store closes in the middle of drawing an id
		closed.Store(true)
		atClose = g.Next()
		return n.Write(v)
	}
	g.Start(c)
	if id, err := g.Draw(); !errors.Is(err, iobuf.ErrClosed) || id != 0 {
		t.Errorf("id %d of a store that was closed meanwhile: %v", id, err)
	}
	if id, err := g.Draw(); !errors.Is(err, iobuf.ErrClosed) || id != 0 {
		t.Errorf("id %d of a closed store: %v", id, err)
	}
	if id, err := g.Take(); err != nil || id < atClose {
		t.Errorf("id %d, noted were those below %d: %v", id, atClose, err)
	}
	g.Stop()
}

// An id that Draw returns was counted by every Next that follows the setting of Closed.
func TestNextCountsWhatDrawReturned(t *testing.T) {
	for range 200 {
		n := new(notes)
		var closed atomic.Bool
		g := new(Generator)
		g.Start(Config{Limit: 1 << 40, Interval: 1, Closed: &closed, Write: n.Write, MakeDurable: n.MakeDurable})
		var wg sync.WaitGroup
		var highest [3]uint64
		for i := range highest {
			wg.Go(func() {
				for {
					id, err := g.Draw()
					if err != nil {
						return
					}
					highest[i] = id
					if id%256 == 0 { // with one processor, the others would wait for the scheduler
						runtime.Gosched()
					}
				}
			})
		}
		for g.Next() < 10 {
			runtime.Gosched()
		}
		closed.Store(true)
		noted := g.Next()
		wg.Wait()
		if m := slices.Max(highest[:]); m >= noted {
			t.Fatalf("id %d was returned, noted were those below %d", m, noted)
		}
	}
}

// Stop waits for the note under way, and lets no other start.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(notes)
		release := make(chan struct{})
		g := new(Generator)
		g.Start(Config{Limit: 20, Interval: 10, Closed: new(atomic.Bool), MakeDurable: n.MakeDurable,
			Write: func(v uint64) (format.LSN, error) { <-release; return n.Write(v) }})
		for range 11 { // the last one starts a note
			if _, err := g.Take(); err != nil {
				t.Fatal(err)
			}
		}
		var stopped atomic.Bool
		go func() { g.Stop(); stopped.Store(true) }()
		synctest.Wait()
		if stopped.Load() {
			t.Error("Stop did not wait for the note under way")
		}
		close(release)
		synctest.Wait()
		if !stopped.Load() || n.count != 1 {
			t.Errorf("stopped %v with %d notes", stopped.Load(), n.count)
		}
		g.Raise(g.soft.Load() + 1) // a note is due again
		if id, err := g.Take(); err != nil || id < 21 {
			t.Errorf("id %d: %v", id, err)
		}
		synctest.Wait()
		if n.count != 1 || g.busy.Load() {
			t.Errorf("%d notes after Stop, one under way: %v", n.count, g.busy.Load())
		}
	})
}

// Raise moves the next id up, never down. Raised ids are noted like others.
func TestRaise(t *testing.T) {
	n := new(notes)
	g := started(n, 10, 4)
	g.Raise(5)
	if g.Next() != 10 {
		t.Errorf("the next id is %d after Raise to a lower one", g.Next())
	}
	g.Raise(1000)
	if id, err := g.Draw(); id != 1000 || err != nil || n.durable < 1000 {
		t.Errorf("id %d, noted are those below %d: %v", id, n.durable, err)
	}
	g.Stop()
}

// Nothing shares the cache line of next, and taking an id allocates nothing.
func TestCost(t *testing.T) {
	var g Generator
	const line = 64
	if off := unsafe.Offsetof(g.next); off+unsafe.Sizeof(g.next) < line || unsafe.Offsetof(g.soft)-off < line {
		t.Errorf("next at %d, soft at %d", off, unsafe.Offsetof(g.soft))
	}
	g.Start(Config{Limit: 1 << 40, Interval: 1, Closed: new(atomic.Bool)})
	if n := testing.AllocsPerRun(1000, func() { _, _ = g.Take(); _, _ = g.Draw() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// If notes cannot be written, timestamps go on, without waiting and without repeating. Once they can be written again,
// those so far are noted before anything else is written. Proves rule 19, trap 46.
func TestTimestampsNeverFail(t *testing.T) {
	n := new(notes)
	n.fail(errors.New("disk is full"))
	g := started(n, 0, 4)
	for want := range uint64(1000) {
		id, ok := g.Try()
		if id != want {
			t.Fatalf("timestamp %d, want %d", id, want)
		}
		if !ok {
			g.Pass(id)
		}
	}
	if _, err := g.Draw(); err == nil {
		t.Error("an id was handed out without a note")
	}
	g.CatchUp()
	n.fail(nil)
	g.CatchUp()
	if n.durable != g.Next() {
		t.Errorf("%d is noted, the next id is %d", n.durable, g.Next())
	}
	count := n.count
	g.CatchUp()
	if _, err := g.Draw(); err != nil || n.count != count {
		t.Errorf("%d notes, want %d: %v", n.count, count, err)
	}
	g.Stop()
}

// Pass has a refused note tried again.
func TestPassTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(notes)
		n.fail(errors.New("disk is full"))
		g := started(n, 0, 4)
		for range 20 {
			id, _ := g.Try()
			g.Pass(id)
		}
		n.fail(nil)
		time.Sleep(2 * retryAfter)
		id, _ := g.Try()
		g.Pass(id)
		synctest.Wait()
		if n.durable <= id {
			t.Errorf("%d is noted, after timestamp %d", n.durable, id)
		}
		g.Stop()
	})
}
