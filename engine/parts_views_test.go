package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A View that is open while a transaction is written in parts, or begins between two of them, sees nothing of it, also
// if pages are evicted, cleaned, consolidated and described by a snapshot meanwhile; one that begins later sees all of
// it. After a crash all is there if the transaction was acknowledged, and all or nothing if it was not. Proves Q8, D1
// and D4.
func TestViewBesideParts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		pc := openParts(t, d)
		between := 0
		var look func()
		engine.BetweenParts(pc, func() {
			if between++; look != nil {
				look()
			}
		})
		const size = 2000
		pids := make([]engine.PageID, 12)
		first := bigCommit(t, pc, pids, 'a', size)
		if _, err := pc.MakeStable(first); err != nil {
			t.Fatal(err)
		}
		before := inEach(pids, 'a', size)
		look = func() { // a View that begins now
			if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
				wantTx(t, tx, before)
				wantRoot(t, tx, "root", 0)
				return keepHouse(pc, pids, between)
			}); err != nil {
				t.Error(err)
			}
		}
		between = 0
		var lsn engine.LSN
		if err := pc.View(t.Context(), func(early *engine.Tx[[]byte]) error {
			after := slices.Clone(pids)
			lsn = update(t, pc, func(tx *engine.Tx[[]byte]) error {
				for i, pid := range pids {
					err := tx.Replace(pid, bytes.Repeat([]byte{'b'}, size))
					if i%3 == 0 {
						err = errors.Join(err, tx.Link(pid, []byte("b")))
					}
					if err != nil {
						return err
					}
				}
				made, err := tx.Allocate(bytes.Repeat([]byte{'b'}, size))
				after = append(after[:len(pids)], made)
				return errors.Join(err, tx.SetRoot("root", made))
			})
			if between < 3 {
				t.Errorf("seed %d: the transaction has %d parts", seed, between+1)
			}
			look = nil
			now := inEach(after, 'b', size)
			for i, pid := range pids {
				if i%3 == 0 {
					now[pid] += "b"
				}
			}
			before[after[len(pids)]] = ""
			for i := range 6 {
				if err := keepHouse(pc, after, i); err != nil {
					return err
				}
				wantTx(t, early, before)
				wantRoot(t, early, "root", 0)
				if err := pc.View(t.Context(), func(late *engine.Tx[[]byte]) error {
					wantTx(t, late, now)
					wantRoot(t, late, "root", after[len(pids)])
					return nil
				}); err != nil {
					return err
				}
			}
			pids = after
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		acked := seed%2 == 0
		if acked {
			if _, err := pc.MakeStable(lsn); err != nil {
				t.Fatal(err)
			}
		}
		enginetest.NoCheck(t, pc)
		d = d.Crash(seed)
		_ = pc.Close()
		pc = openParts(t, d)
		tx := enginetest.Begin(t, pc)
		p, err := pc.Get(tx, pids[1])
		if err != nil {
			t.Fatal(err)
		}
		made, err := pc.Get(tx, pids[len(pids)-1])
		tx.End()
		if err != nil {
			t.Fatal(err)
		}
		fill := p.Value[0]
		if acked && fill != 'b' || (fill == 'b') != (made.Kind == engine.KindMaterialized) {
			const text = "seed %d: acknowledged: %v, the pages have %q, and the new one is %v"
			t.Errorf(text, seed, acked, fill, made.Kind)
		}
		for i, pid := range pids[:12] {
			value := string(bytes.Repeat([]byte{fill}, size))
			if fill == 'b' && i%3 == 0 {
				value += "b"
			}
			want(t, pc, map[engine.PageID]string{pid: value})
		}
		enginetest.Close(t, pc)
	}
}

// inEach returns a value of the given length for each page.
func inEach(pids []engine.PageID, fill byte, size int) map[engine.PageID]string {
	values := map[engine.PageID]string{}
	for _, pid := range pids {
		values[pid] = string(bytes.Repeat([]byte{fill}, size))
	}
	return values
}

// keepHouse does the n-th of some things that change no page.
func keepHouse(pc *engine.PageCache[[]byte], pids []engine.PageID, n int) error {
	var err error
	switch n % 5 {
	case 0:
		err = engine.EvictAll(pc, pids)
	case 1:
		_, err = pc.Flush()
	case 2:
		err = pc.Snapshot()
	case 3:
		for did := true; did && err == nil; {
			did, err = pc.AttemptGC()
		}
	default:
		err = readAll(pc, pids)
	}
	if err != nil {
		return fmt.Errorf("housekeeping %d: %w", n%5, err)
	}
	return nil
}

// readAll reads the fragments of pages, which may consolidate them.
func readAll(pc *engine.PageCache[[]byte], pids []engine.PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for _, pid := range pids {
		if _, _, err := pc.Fragments(tx, pid); err != nil {
			return err
		}
	}
	return nil
}

// In a View, the PagePtr of a page that was written in an early part names the LSN of the last part until that is
// stable: of the state that the View sees, also if that is not the page's any more, and is resident or not. Proves D5.
func TestLastLSNOfPartInView(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		pc := openParts(t, simdisk.New(1, simdisk.Options{Block: 512}))
		engine.SetGroupLimit(pc, 300)
		batch, err := pc.PinLog() // nothing behind it is stable
		if err != nil {
			t.Fatal(err)
		}
		pids := make([]engine.PageID, 12)
		wantLSN := func(tx *engine.Tx[[]byte], lsn engine.LSN) {
			t.Helper()
			for _, pid := range pids {
				if p, err := tx.Get(pid); err != nil || p.Ptr.LastLSN() != lsn {
					t.Errorf("evicted %v: page %d: LastLSN %v, want %v (%v)", evicted, pid, p.Ptr.LastLSN(), lsn, err)
				}
			}
		}
		first := bigCommit(t, pc, pids, 'a', 100)
		if err := pc.View(t.Context(), func(early *engine.Tx[[]byte]) error {
			wantLSN(early, first)
			for _, pid := range pids[:3] {
				replaceAlone(t, pc, pid, "alone")
			}
			if evicted {
				if err := engine.EvictAll(pc, pids); err != nil {
					return err
				}
			}
			wantLSN(early, first)
			second := bigCommit(t, pc, pids, 'b', 100)
			wantLSN(early, first)
			return pc.View(t.Context(), func(late *engine.Tx[[]byte]) error {
				wantLSN(late, second)
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := batch.Seal(); err != nil {
			t.Fatal(err)
		}
		enginetest.Close(t, pc)
	}
}
