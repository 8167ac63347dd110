package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
)

// scene is a store that random calls change, with what must be in it.
type scene struct {
	t     *testing.T
	pc    *engine.PageCache[[]byte]
	rng   *rand.Rand
	pages map[engine.PageID]string // "": the page was freed
	roots map[string]engine.PageID // 0: the root was removed
	n     int                      // values that were written
}

// value returns a new value: short, long enough for a blob, or one that compresses well.
func (s *scene) value() string {
	s.n++
	v := fmt.Sprintf("value %d", s.n)
	switch s.rng.IntN(4) {
	case 0:
		return v + strings.Repeat(".", 2000)
	case 1:
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte('a' + s.rng.IntN(26))
		}
		return v + string(b)
	}
	return v
}

// page returns a page that exists.
func (s *scene) page() engine.PageID {
	for {
		pids := slices.Sorted(maps.Keys(s.pages))
		if pid := pids[s.rng.IntN(len(pids))]; s.pages[pid] != "" {
			return pid
		}
	}
}

// link makes the calls that append to a page, and replace makes those that replace it: alone, or in a transaction.
func (s *scene) link(tx *engine.Tx[[]byte], pid engine.PageID) error {
	v := s.value()
	s.pages[pid] += v
	if s.rng.IntN(2) == 0 {
		return tx.Link(pid, []byte(v))
	}
	s.pages[pid] = v
	return tx.Replace(pid, []byte(v))
}

// alone makes a call on one page.
func (s *scene) alone() error {
	tx, err := s.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid, v := s.page(), s.value()
	ptr, _, err := s.pc.State(tx, pid)
	if err != nil {
		return err
	}
	won := true
	switch k := s.rng.IntN(8); {
	case k < 3:
		s.pages[pid] += v
		_, won, err = s.pc.Link(tx, pid, ptr, []byte(v))
	case k < 6 || len(s.pages) < 5:
		s.pages[pid] = v
		_, won, err = s.pc.Replace(tx, pid, ptr, []byte(v))
	case k == 6:
		s.pages[pid] = ""
		_, won, err = s.pc.Free(tx, pid, ptr)
	default:
		pid, _, err = s.pc.Allocate(tx, []byte(v))
		s.pages[pid] = v
	}
	if err == nil && !won {
		err = errors.New("a call has lost that nobody competes with")
	}
	return err
}

// together changes pages and roots in a transaction.
func (s *scene) together() error {
	pages, roots := s.pages, s.roots
	_, err := s.pc.Update(s.t.Context(), func(tx *engine.Tx[[]byte]) error {
		s.pages, s.roots = maps.Clone(pages), maps.Clone(roots) // the cleaner may abort an attempt
		a, b := s.page(), s.page()
		err := errors.Join(s.link(tx, a), s.link(tx, b))
		name := fmt.Sprintf("root %d", s.rng.IntN(5))
		switch s.rng.IntN(4) {
		case 0:
			s.roots[name] = a
			err = errors.Join(err, tx.SetRoot(name, a))
		case 1:
			s.roots[name] = 0
			err = errors.Join(err, tx.SetRoot(name, 0))
		case 2:
			v := s.value()
			pid, e := tx.Allocate([]byte(v))
			s.pages[pid] = v
			err = errors.Join(err, e)
		}
		return err
	})
	return err
}

// root changes a root by itself.
func (s *scene) root() error {
	tx, err := s.pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	name := fmt.Sprintf("root %d", s.rng.IntN(5))
	to := s.page()
	if s.rng.IntN(3) == 0 {
		to = 0
	}
	_, won, err := s.pc.CASRoot(tx, name, s.roots[name], to)
	if err == nil && !won {
		err = errors.New("a call has lost that nobody competes with")
	}
	s.roots[name] = to
	return err
}

// keepHouse evicts, moves or describes pages, which changes no state.
func (s *scene) keepHouse() (err error) {
	switch s.rng.IntN(5) {
	case 0:
		return engine.EvictAll(s.pc, []engine.PageID{s.page(), s.page()})
	case 1:
		_, err = s.pc.AttemptGC()
	case 2:
		err = s.pc.Snapshot()
	case 3:
		_, err = s.pc.Flush()
	default:
		tx := enginetest.Begin(s.t, s.pc)
		defer tx.End()
		_, _, err = s.pc.Fragments(tx, s.page())
	}
	return err
}

// step makes random calls.
func (s *scene) step() {
	s.t.Helper()
	var err error
	switch k := s.rng.IntN(10); {
	case k < 4:
		err = s.alone()
	case k < 7:
		err = s.together()
	case k < 8:
		err = s.root()
	default:
		err = s.keepHouse()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// in opens a View, checks it after each change, and opens others inside, until depth are open.
func (s *scene) in(depth int) {
	if err := s.pc.View(s.t.Context(), func(tx *engine.Tx[[]byte]) error {
		pages, roots := maps.Clone(s.pages), maps.Clone(s.roots)
		for range 4 + s.rng.IntN(12) {
			if s.step(); depth > 1 && s.rng.IntN(5) == 0 {
				s.in(depth - 1)
			}
			for pid := range s.pages {
				pages[pid] = pages[pid] + "" // a page that was made meanwhile does not exist
			}
			for name := range s.roots {
				wantRoot(s.t, tx, name, roots[name])
			}
			wantTx(s.t, tx, pages)
			if s.t.Failed() {
				return errors.New("the View sees something else")
			}
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

// A View sees pages and roots as they were when it began, however they change: by calls alone and in transactions,
// allocated, freed, in blobs and compressed, evicted, moved and consolidated; also if other Views are open. The
// versions that are kept for it are gone afterwards. Proves P11 and Q8.
func TestViewSeesOneMoment(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if testing.Short() || invariants.Enabled {
		seeds = 3
	}
	most := int64(0)
	for seed := range seeds {
		dir := t.TempDir()
		o := &engine.Options{SegmentSize: 16 << 10, ConsolidateAfter: 3, CacheCapacity: 20 << 10, SnapshotEvery: 200,
			Compression: engine.Compression(seed % 2), CompressionLevel: 1}
		s := &scene{t: t, pc: enginetest.Open(t, dir, o), rng: rand.New(rand.NewPCG(seed, 8)),
			pages: map[engine.PageID]string{}, roots: map[string]engine.PageID{}}
		engine.SetInline(s.pc, 1000)
		for range 12 {
			pid, _ := enginetest.Allocate(t, s.pc, []byte("first"))
			s.pages[pid] = "first"
		}
		if seed%3 == 0 { // a View is the first that looks at pages after Open
			enginetest.Close(t, s.pc)
			s.pc = enginetest.Open(t, dir, o)
		}
		for range 20 {
			s.in(1 + s.rng.IntN(3))
			enginetest.Soon(t, "the release of all versions", func() { // the cleaner may just be at one
				for s.pc.Stats().Txs.Versions > 0 {
					runtime.Gosched()
				}
			})
			if n := s.pc.Stats().Txs.Views; n != 0 {
				t.Errorf("seed %d: %d Views are open", seed, n)
			}
			if err := s.pc.View(t.Context(), func(*engine.Tx[[]byte]) error {
				for range 5 {
					s.step()
				}
				st := s.pc.Stats().Txs
				if most = max(most, st.Versions); st.Views != 1 {
					t.Errorf("seed %d: %d Views are open", seed, st.Views)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		enginetest.Close(t, s.pc)
	}
	if most == 0 {
		t.Error("no version was kept")
	}
}

// A View that fails, or panics, ends, and what was kept for it is gone. A View reads from a store that is open for
// reading only. Errors of f are returned, also those of conflicts of other transactions.
func TestViewEnds(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	pid, _ := enginetest.Allocate(t, pc, []byte("a"))
	reason := errors.New("reason")
	for _, wanted := range []error{reason, engine.ErrConflict} {
		calls := 0
		if err := pc.View(t.Context(), func(*engine.Tx[[]byte]) error {
			calls++
			return wanted
		}); err != wanted || calls != 1 {
			t.Errorf("%d calls, %v", calls, err)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_ = pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
			update(t, pc, func(tx *engine.Tx[[]byte]) error { return tx.Link(pid, []byte("+")) })
			wantTx(t, tx, map[engine.PageID]string{pid: "a"})
			panic("in f")
		})
	}()
	if st := pc.Stats().Txs; st.Open != 0 || st.Views != 0 || st.Versions != 0 {
		t.Errorf("%+v", st)
	}
	want(t, pc, map[engine.PageID]string{pid: "a+"})
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, &engine.Options{ReadOnly: true})
	want(t, pc, map[engine.PageID]string{pid: "a+"})
	enginetest.Close(t, pc)
}

// A View and the calls of PageCache with its Tx: those see pages as they are now.
func TestCallsInAView(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	pid, _ := enginetest.Allocate(t, pc, bytes.Repeat([]byte("a"), 100))
	if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if _, won, err := pc.Replace(tx, pid, p.Ptr, []byte("b")); err != nil || !won {
			t.Errorf("Replace: %v, %v", won, err)
		}
		wantTx(t, tx, map[engine.PageID]string{pid: string(bytes.Repeat([]byte("a"), 100))})
		if p, err = pc.Get(tx, pid); err != nil || string(p.Value) != "b" {
			t.Errorf("Get: %q, %v", p.Value, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Close waits for a View, whose calls fail, and whose values stay as they are.
func TestCloseWaitsForView(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	pid, _ := enginetest.Allocate(t, pc, []byte("a"))
	if err := engine.EvictAll(pc, []engine.PageID{pid}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
		p, err := tx.Get(pid)
		if err != nil {
			return err
		}
		go func() { done <- pc.Close() }()
		enginetest.Soon(t, "a View beside Close", func() {
			for err == nil {
				err = pc.View(t.Context(), func(*engine.Tx[[]byte]) error { return nil })
			}
		})
		_, get := tx.Get(pid)
		_, root := tx.Root("r")
		for _, err := range []error{err, get, root} {
			if !errors.Is(err, engine.ErrClosed) {
				t.Errorf("beside Close: %v", err)
			}
		}
		select {
		case err := <-done:
			t.Errorf("Close has returned: %v", err)
		default:
		}
		if string(p.Value) != "a" {
			t.Errorf("the value is %q", p.Value)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	enginetest.Soon(t, "Close after the View", func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A View of 100 resident pages costs little more than a hundred Gets.
//
//	go test ./engine -run NONE -bench View
func BenchmarkView(b *testing.B) {
	pc := enginetest.Open(b, "", &engine.Options{Temporary: true})
	defer enginetest.Close(b, pc)
	pids := fewBytes(b, pc, 100)
	b.Run("gets", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tx, err := pc.Begin()
			if err != nil {
				b.Fatal(err)
			}
			for _, pid := range pids {
				if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != 100 {
					b.Fatal(p.Kind, err)
				}
			}
			tx.End()
		}
	})
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := pc.View(b.Context(), func(tx *engine.Tx[[]byte]) error {
				for _, pid := range pids {
					if p, err := tx.Get(pid); err != nil || len(p.Value) != 100 {
						b.Fatal(p.Kind, err)
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
