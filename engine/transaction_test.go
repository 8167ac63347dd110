package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// update is Update that fails the test.
func update(t testing.TB, pc *engine.PageCache[[]byte], f func(tx *engine.Tx[[]byte]) error) engine.LSN {
	t.Helper()
	lsn, err := pc.Update(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// wantTx fails the test unless the transaction reads these values; "" stands for a page that does not exist.
func wantTx(t testing.TB, tx *engine.Tx[[]byte], want map[engine.PageID]string) {
	t.Helper()
	for pid, v := range want {
		p, err := tx.Get(pid)
		if err != nil || string(p.Value) != v || (p.Kind == engine.KindMaterialized) != (v != "") {
			t.Errorf("page %d: kind %v, value %.40q, %v; want %.40q", pid, p.Kind, p.Value, err, v)
		}
	}
}

// want is wantTx in a View.
func want(t testing.TB, pc *engine.PageCache[[]byte], values map[engine.PageID]string) {
	t.Helper()
	if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
		wantTx(t, tx, values)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A transaction sees its own changes, and nobody else does before Commit. All of them take effect, also on disk.
func TestTransactionChangesPagesTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	var a, b, c, d engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		for i, pid := range []*engine.PageID{&a, &b, &c} {
			if *pid, err = tx.Allocate([]byte{byte('a' + i)}); err != nil {
				return err
			}
		}
		return nil
	})
	want(t, pc, map[engine.PageID]string{a: "a", b: "b", c: "c"})
	tx := enginetest.Begin(t, pc)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := string(bytes.Repeat([]byte("-"), 30))
	ok(tx.Link(a, []byte("1")))
	ok(tx.Link(a, []byte("2")))
	ok(tx.Replace(b, []byte("B")))
	for _, x := range long {
		ok(tx.Link(b, []byte(string(x))))
	}
	ok(tx.Free(c))
	var err error
	if d, err = tx.Allocate([]byte("d")); err != nil {
		t.Fatal(err)
	}
	ok(tx.Link(d, []byte("e")))
	e, err := tx.Allocate([]byte("gone"))
	if err != nil {
		t.Fatal(err)
	}
	ok(tx.Free(e))
	after := map[engine.PageID]string{a: "a12", b: "B" + long, c: "", d: "de", e: ""}
	wantTx(t, tx, after)
	for _, f := range []func() error{func() error { return tx.Link(c, nil) }, func() error { return tx.Free(e) },
		func() error { return tx.Replace(e+100, nil) }} {
		if err := f(); !errors.Is(err, engine.ErrNoPage) {
			t.Errorf("a change of no page: %v", err)
		}
	}
	want(t, pc, map[engine.PageID]string{a: "a", b: "b", c: "c", d: "", e: ""})
	lsn, err := tx.Commit()
	if err != nil || lsn == 0 {
		t.Fatal(lsn, err)
	}
	tx.End()
	want(t, pc, after)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Error(err)
	}
	if err := engine.ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, nil)
	want(t, pc, after)
	if err := engine.ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	enginetest.Close(t, pc)
}

// A transaction that is not committed leaves nothing behind: no change, no id, no blob.
func TestRollbackLeavesNothing(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 64 << 10})
	defer enginetest.Close(t, pc)
	var a, b engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		if a, err = tx.Allocate([]byte("a")); err == nil {
			b, err = tx.Allocate([]byte("b"))
		}
		return err
	})
	long := make([]byte, 100<<10)
	change := func(tx *engine.Tx[[]byte]) error {
		pid, err := tx.Allocate(long)
		if err == nil && pid <= b {
			err = fmt.Errorf("page %d is allocated again", pid)
		}
		return errors.Join(err, tx.Link(a, long), tx.Replace(b, long), tx.Replace(b, []byte("B")), tx.Link(b, long))
	}
	reason := errors.New("reason")
	for name, end := range map[string]func(tx *engine.Tx[[]byte]) error{
		"error": func(*engine.Tx[[]byte]) error { return reason },
		"conflict": func(tx *engine.Tx[[]byte]) error {
			p, err := pc.Get(tx, a)
			if err == nil {
				_, _, err = pc.Replace(tx, a, p.Ptr, []byte("a"))
			}
			return err
		},
		"conflict in parts": func(tx *engine.Tx[[]byte]) error {
			for range 20 {
				if _, err := tx.Allocate(long[:3<<10]); err != nil {
					return err
				}
			}
			p, err := pc.Get(tx, a)
			if err == nil {
				_, _, err = pc.Replace(tx, a, p.Ptr, []byte("a"))
			}
			return err
		},
	} {
		tx := enginetest.Begin(t, pc)
		if err := change(tx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := pc.Stats().Space.Blobs; n < 3 {
			t.Errorf("%s: %d blobs before the end", name, n)
		}
		err := end(tx)
		if err == nil {
			_, err = tx.Commit()
		}
		ok := errors.Is(err, reason)
		switch ce := (*engine.ConflictError)(nil); name {
		case "conflict", "conflict in parts":
			ok = errors.Is(err, engine.ErrConflict) && errors.As(err, &ce) && ce.Page == a
		}
		if !ok {
			t.Errorf("%s: %v", name, err)
		}
		tx.End()
		if n := pc.Stats().Space.Blobs; n != 0 {
			t.Errorf("%s: %d blobs are left", name, n)
		}
		want(t, pc, map[engine.PageID]string{a: "a", b: "b", b + 1: ""})
		if err := engine.ExactAccounts(pc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pc.Update(t.Context(), func(*engine.Tx[[]byte]) error { return reason }); err != reason {
		t.Errorf("Update: %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
			if err := change(tx); err != nil {
				t.Error(err)
			}
			panic("in f")
		})
	}()
	if st := pc.Stats(); st.Txs.Open != 0 || st.Space.Blobs != 0 {
		t.Errorf("after a panic: %d Txs are open, %d blobs are left", st.Txs.Open, st.Space.Blobs)
	}
}

// Wrong uses of a transaction are errors.
func TestMisuseOfTransaction(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	var a engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		a, err = tx.Allocate([]byte("a"))
		return err
	})
	all := func(tx *engine.Tx[[]byte], pid engine.PageID) []error {
		_, get := tx.Get(pid)
		return []error{get, tx.Link(pid, nil), tx.Replace(pid, nil), tx.Free(pid)}
	}
	wantAll := func(name string, errs []error, wanted error) {
		t.Helper()
		for i, err := range errs {
			if !errors.Is(err, wanted) {
				t.Errorf("%s, call %d: %v, want %v", name, i, err, wanted)
			}
		}
	}
	tx := enginetest.Begin(t, pc)
	for pid := range engine.FirstUserPage {
		wantAll("reserved", all(tx, pid), engine.ErrReserved)
	}
	if p, err := tx.Get(1 << 60); err != nil || p.Kind != engine.KindUnallocated {
		t.Errorf("a page that cannot be: %v, %v", p.Kind, err)
	}
	if err := tx.Link(1<<60, nil); !errors.Is(err, engine.ErrNoPage) {
		t.Errorf("a page that cannot be: %v", err)
	}
	if lsn, err := tx.Commit(); lsn != 0 || err != nil {
		t.Errorf("nothing: %d, %v", lsn, err)
	}
	wantAll("committed", all(tx, a), engine.ErrTxEnded)
	_, err := tx.Allocate(nil)
	_, again := tx.Commit()
	wantAll("committed", []error{err, again}, engine.ErrTxEnded)
	if p, err := pc.Get(tx, a); err != nil || string(p.Value) != "a" {
		t.Errorf("Get with a Tx that was committed: %v", err)
	}
	tx.End()
	var none *engine.Tx[[]byte]
	wantAll("nil", all(none, a), engine.ErrTxEnded)
	wantAll("zero", all(new(engine.Tx[[]byte]), a), engine.ErrTxEnded)
	_, err = none.Commit()
	wantAll("nil", []error{err}, engine.ErrTxEnded)

	if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
		_, err := tx.Allocate(nil)
		wantAll("View", append(all(tx, a)[1:], err), engine.ErrReadOnly)
		tx.End()
		wantTx(t, tx, map[engine.PageID]string{a: "a"})
		_, err = tx.Commit()
		wantAll("View", []error{err}, engine.ErrTxEnded)
		return nil
	}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pc.View(ctx, func(*engine.Tx[[]byte]) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ctx has ended: %v", err)
	}
	enginetest.Close(t, pc)
	if err := pc.View(t.Context(), nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	pc = enginetest.Open(t, dir, &engine.Options{ReadOnly: true})
	want(t, pc, map[engine.PageID]string{a: "a"})
	_, err = pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error { return tx.Link(a, nil) })
	wantAll("read only", []error{err}, engine.ErrReadOnly)
	enginetest.Close(t, pc)
}

// A transaction that has found a conflict fails in all its calls, and a later attempt succeeds. An Update that always
// meets conflicts ends with its context.
func TestConflictsAreRetried(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	var a, b engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		if a, err = tx.Allocate([]byte("a")); err == nil {
			b, err = tx.Allocate([]byte("b"))
		}
		return err
	})
	attempts := 0
	meddle := func() {
		update(t, pc, func(tx *engine.Tx[[]byte]) error {
			return errors.Join(tx.Link(a, []byte("+")), tx.Link(b, []byte("+")))
		})
	}
	f := func(tx *engine.Tx[[]byte]) error {
		attempts++
		if _, err := tx.Get(a); err != nil {
			return err
		}
		if attempts == 1 {
			meddle()
			_, err := tx.Get(b)
			if ce := (*engine.ConflictError)(nil); !errors.As(err, &ce) || ce.Page != a {
				t.Errorf("a page that does not go with the other: %v", err)
			}
			if err := tx.Link(a, nil); !errors.Is(err, engine.ErrConflict) {
				t.Errorf("after a conflict: %v", err)
			}
			return nil // which does not hide the conflict
		}
		return tx.Link(b, []byte("!"))
	}
	update(t, pc, f)
	want(t, pc, map[engine.PageID]string{a: "a+", b: "b+!"})
	if attempts != 2 {
		t.Errorf("%d attempts", attempts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := pc.Update(ctx, func(tx *engine.Tx[[]byte]) error {
		if n++; n == 20 {
			cancel()
		}
		if err := tx.Link(a, nil); err != nil {
			return err
		}
		meddle()
		return nil
	})
	if !errors.Is(err, engine.ErrConflict) || !errors.Is(err, context.Canceled) || n != 20 {
		t.Errorf("%d attempts: %v", n, err)
	}
}

// 64 goroutines that change one page through Update get on, each of them, and so do those that change two. Proves Q7.
func TestManyGoroutinesUpdateOnePage(t *testing.T) {
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	var pids [2]engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		for i := range pids {
			if pids[i], err = tx.Allocate(nil); err != nil {
				return err
			}
		}
		return nil
	})
	const goroutines = 64
	each := 20
	if testing.Short() {
		each = 4
	}
	for pages := 1; pages <= 2; pages++ {
		var wg sync.WaitGroup
		var attempts atomic.Int64
		for range goroutines {
			wg.Go(func() {
				for range each {
					if _, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
						attempts.Add(1)
						for _, pid := range pids[:pages] {
							if _, err := tx.Get(pid); err != nil {
								return err
							}
						}
						for range 10 { // so that others change the pages meanwhile
							runtime.Gosched()
						}
						for _, pid := range pids[:pages] {
							if err := tx.Link(pid, []byte("x")); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d pages: %d attempts for %d transactions", pages, attempts.Load(), goroutines*each)
	}
	if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
		for i, pid := range pids {
			if p, err := tx.Get(pid); err != nil || len(p.Value) != goroutines*each*(2-i) {
				t.Errorf("page %d has %d bytes, %v; want %d", i, len(p.Value), err, goroutines*each*(2-i))
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Transfers between pages keep the sum, which Views see throughout, while pages are evicted, moved and consolidated.
func TestMoneyStays(t *testing.T) {
	t.Parallel()
	const accounts = 50
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 64 << 10, CacheCapacity: 20 << 10,
		ConsolidateAfter: 3})
	defer enginetest.Close(t, pc)
	pids := make([]engine.PageID, accounts)
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		for i := range pids {
			if pids[i], err = tx.Allocate(bytes.Repeat([]byte("1"), 100)); err != nil {
				return err
			}
		}
		return nil
	})
	transfers, pad := 3000, string(bytes.Repeat([]byte("0"), 200))
	if testing.Short() {
		transfers = 300
	}
	count := func(v []byte) int { return bytes.Count(v, []byte("1")) }
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	for g := range 4 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(g)))
			for range transfers {
				from, to := pids[rng.IntN(accounts)], pids[rng.IntN(accounts)]
				if _, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
					p, err := tx.Get(from)
					if err != nil {
						return err
					}
					n := min(count(p.Value), 1+rng.IntN(5))
					ones := bytes.Repeat([]byte("1"), n)
					rest := append(bytes.Repeat([]byte("1"), count(p.Value)-n), pad...)
					return errors.Join(tx.Replace(from, rest), tx.Link(to, ones))
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sums := 0
	readers.Go(func() {
		for !stop.Load() || sums == 0 {
			sum := 0
			if err := pc.View(t.Context(), func(tx *engine.Tx[[]byte]) error {
				for _, pid := range pids {
					p, err := tx.Get(pid)
					if err != nil {
						return err
					}
					sum += count(p.Value)
				}
				return nil
			}); err != nil || sum != 100*accounts {
				t.Errorf("the sum is %d, %v", sum, err)
				return
			}
			sums++
		}
	})
	readers.Go(func() {
		for !stop.Load() {
			if _, err := pc.AttemptGC(); err != nil {
				t.Error(err)
				return
			}
			if err := pc.Snapshot(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	st := pc.Stats()
	t.Logf("%d sums, %d evictions, %d consolidations", sums, st.Cache.Evictions, st.Pages.Consolidations)
	// Housekeeping may still be at work: wait until nothing changes.
	var err error
	for range 1000 {
		if err = engine.ExactAccounts(pc); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Error(err)
	}
}

// A transaction of one change conflicts if another page that it has read changes, also one that did not exist.
func TestTransactionDependsOnAllReads(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	var a, b engine.PageID
	update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		if a, err = tx.Allocate([]byte("a")); err == nil {
			b, err = tx.Allocate([]byte("b"))
		}
		return err
	})
	for _, c := range []struct {
		read   engine.PageID
		change func(tx *engine.Tx[[]byte]) error
	}{
		{b, func(tx *engine.Tx[[]byte]) error { return tx.Link(b, []byte("+")) }},
		{b + 1, func(tx *engine.Tx[[]byte]) error {
			pid, err := tx.Allocate([]byte("c"))
			if err == nil && pid != b+1 {
				err = fmt.Errorf("page %d is allocated, want %d", pid, b+1)
			}
			return err
		}},
		{b + 1, func(tx *engine.Tx[[]byte]) error { return tx.Free(b + 1) }},
	} {
		tx := enginetest.Begin(t, pc)
		if _, err := tx.Get(c.read); err != nil {
			t.Fatal(err)
		}
		if err := tx.Link(a, []byte("!")); err != nil {
			t.Fatal(err)
		}
		update(t, pc, c.change)
		_, err := tx.Commit()
		if ce := (*engine.ConflictError)(nil); !errors.As(err, &ce) || ce.Page != c.read {
			t.Errorf("page %d: %v", c.read, err)
		}
		tx.End()
	}
	want(t, pc, map[engine.PageID]string{a: "a", b: "b+"})
}

// A transaction that looks again at a page that has changed since it read it shows no other state: it conflicts.
func TestTransactionSeesOneState(t *testing.T) {
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	pid, _ := enginetest.Allocate(t, pc, []byte("a"))
	for name, change := range map[string]func(tx *engine.Tx[[]byte]) error{
		"link":    func(tx *engine.Tx[[]byte]) error { return tx.Link(pid, []byte("+")) },
		"replace": func(tx *engine.Tx[[]byte]) error { return tx.Replace(pid, []byte("b")) },
	} {
		tx := enginetest.Begin(t, pc)
		if _, err := tx.Get(pid); err != nil {
			t.Fatal(err)
		}
		update(t, pc, change)
		p, err := tx.Get(pid)
		if ce := (*engine.ConflictError)(nil); !errors.As(err, &ce) || ce.Page != pid {
			t.Errorf("%s: %q, %v", name, p.Value, err)
		}
		tx.End()
	}
}

// Values that are compressed or encoded in scratch memory stay what they are until Commit. Proves rule 20.
func TestTransactionKeepsCompressedValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &engine.Options{Compression: engine.CompressionZstd, CompressionLevel: 1}
	pc := enginetest.Open(t, dir, o)
	values := map[engine.PageID]string{}
	update(t, pc, func(tx *engine.Tx[[]byte]) error {
		clear(values)
		for i := range 5 {
			v := bytes.Repeat([]byte{byte('a' + i)}, 4000-500*i)
			pid, err := tx.Allocate(v)
			if err != nil {
				return err
			}
			values[pid] = string(v)
			clear(v)
		}
		return nil
	})
	want(t, pc, values)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	want(t, pc, values)
	enginetest.Close(t, pc)
}

// An Update that reads pages, and then works until others have changed them, or for 3 ms, gets on: after eight
// conflicts the calls of the others wait for it. Proves Q7.
func TestSlowUpdateGetsOn(t *testing.T) {
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{ConsolidateAfter: 4})
	defer enginetest.Close(t, pc)
	a, _ := enginetest.Allocate(t, pc, nil)
	b, _ := enginetest.Allocate(t, pc, nil)
	setRoot(t, pc, "r", 0, 5)
	var stop atomic.Bool
	var changed atomic.Int64
	var wg sync.WaitGroup
	changes := []func(i int) error{
		func(int) error { return linkAlone(pc, a, nil) },
		func(int) error { return linkInTransaction(pc, a, nil) },
		func(int) error {
			_, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
				return errors.Join(tx.Link(a, nil), tx.Link(b, nil))
			})
			return err
		},
		func(i int) error {
			_, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
				return errors.Join(tx.SetRoot("r", engine.PageID(i%3)), tx.SetRoot(rootName(i%40), engine.PageID(i%2)))
			})
			return err
		},
	}
	for g := range 16 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := changes[g%len(changes)](i); err != nil && !errors.Is(err, engine.ErrConflict) {
					t.Error(err)
					return
				}
				changed.Add(1)
			}
		})
	}
	slow := 20
	if testing.Short() {
		slow = 5
	}
	most := 0
	enginetest.Soon(t, "a slow Update", func() {
		for range slow {
			attempts := 0
			if _, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
				attempts++
				_, err := tx.Get(a)
				if _, rootErr := tx.Root("r"); !errors.Is(rootErr, engine.ErrRootNotFound) {
					err = errors.Join(err, rootErr)
				}
				for before, start := changed.Load(), time.Now(); changed.Load() < before+16 &&
					time.Since(start) < 3*time.Millisecond; {
					time.Sleep(20 * time.Microsecond)
				}
				return errors.Join(err, tx.Link(a, []byte("x")), tx.Link(b, nil))
			}); err != nil {
				t.Error(err)
			}
			most = max(most, attempts)
		}
	})
	stop.Store(true)
	wg.Wait()
	t.Logf("at most %d attempts", most)
	want(t, pc, map[engine.PageID]string{a: string(bytes.Repeat([]byte("x"), slow))})
}

// An error of the function of Update is returned as it is, also if it wraps ErrConflict, as one of another store does:
// the transaction itself has none.
func TestUpdateReturnsForeignConflict(t *testing.T) {
	pc := enginetest.Open(t, "", &engine.Options{Temporary: true})
	own, calls := fmt.Errorf("other store: %w", engine.ErrConflict), 0
	_, err := pc.Update(t.Context(), func(*engine.Tx[[]byte]) error {
		if calls++; calls > 1 {
			return nil
		}
		return own
	})
	if err != own || calls != 1 {
		t.Errorf("%v after %d calls, want %v after one", err, calls, own)
	}
}
