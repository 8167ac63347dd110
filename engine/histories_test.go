package engine_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/history"
	"pagecache/internal/simdisk"
)

var (
	historyTxns = flag.Int("histories.txns", 0,
		"TestTransactionHistories, and the one over kills, end after so many transactions; 0: after some seeds")
	historyFirst = flag.Uint64("histories.first", 0, "the first seed of both")
)

// lists is a store of lists, as package history wants them, on a simulated disk.
type lists struct {
	t     *testing.T
	pc    *engine.PageCache[[]byte]
	pages int
	// rooted is the number of lists, the last ones, that lie on a page that a root names. Each append writes another
	// page, and an empty list has no root.
	rooted int
	blobs  bool // short lists are blobs, too
	// resident says that no page is evicted: after a crash nothing can be read from the disk.
	resident bool
	// note, if it is set, is called before changes of a transaction or of a call can become visible to others.
	note  func(*listTxn)
	value atomic.Uint64
	time  atomic.Int64
}

func (l *lists) pid(page int) engine.PageID { return engine.FirstUserPage + engine.PageID(page) }

func (l *lists) isRooted(page int) bool { return page >= l.pages-l.rooted }

func listName(page int) string { return fmt.Sprintf("list %d", page) }

// read reads a list, with the page that has it; 0 if no page does.
func (l *lists) read(tx *engine.Tx[[]byte], page int) (list []uint64, pid engine.PageID, err error) {
	pid = l.pid(page)
	if l.isRooted(page) {
		if pid, err = tx.Root(listName(page)); errors.Is(err, engine.ErrRootNotFound) {
			return nil, 0, nil
		} else if err != nil {
			return nil, 0, err
		}
	}
	p, err := tx.Get(pid)
	if err == nil && p.Kind != engine.KindMaterialized {
		l.t.Errorf("list %d is on page %d, which is %v", page, pid, p.Kind)
	}
	return listIn(p.Value), pid, err
}

// move appends to a list that lies on page old, which a root names, or on none.
func (l *lists) move(tx *engine.Tx[[]byte], page int, old engine.PageID, list []uint64) error {
	pid, err := tx.Allocate(bytesOf(list...))
	if err == nil {
		err = tx.SetRoot(listName(page), pid)
	}
	if err == nil && old != 0 {
		err = tx.Free(old)
	}
	return err
}

// openLists opens the store on a disk, and makes the pages that it lacks.
func openLists(t *testing.T, d *simdisk.Disk, pages, rooted int, blobs bool) *lists {
	o := enginetest.SimOptions(d)
	o.ConsolidateAfter = 5
	return openListsIn(t, "/store", o, &lists{pages: pages, rooted: rooted, blobs: blobs})
}

// openListsIn opens the store l in a directory, and makes the pages that it lacks.
func openListsIn(t *testing.T, dir string, o *engine.Options, l *lists) *lists {
	l.t, l.pc = t, enginetest.Open(t, dir, o)
	if l.blobs {
		engine.SetInline(l.pc, 64)
	}
	if enginetest.NextPage(l.pc) > engine.FirstUserPage {
		return l
	}
	lsn := update(t, l.pc, func(tx *engine.Tx[[]byte]) error {
		for range l.pages {
			if _, err := tx.Allocate(nil); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := l.pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	return l
}

// listIn and bytesOf convert a list from and to the value of a page.
func listIn(b []byte) (list []uint64) {
	for ; len(b) > 0; b = b[8:] {
		list = append(list, binary.LittleEndian.Uint64(b))
	}
	return list
}

func bytesOf(list ...uint64) (b []byte) {
	for _, v := range list {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// listTxn is a transaction and what the test knows of it.
type listTxn struct {
	history.Txn
	Durable bool
}

func (l *lists) noted(x *listTxn) {
	if l.note != nil {
		l.note(x)
	}
}

// all reads the lists of all pages.
func (l *lists) all() (ops []history.Op) {
	l.t.Helper()
	if err := l.pc.View(l.t.Context(), func(tx *engine.Tx[[]byte]) error {
		for page := range l.pages {
			list, _, err := l.read(tx, page)
			if err != nil {
				return err
			}
			ops = append(ops, history.Op{Page: page, List: list})
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
	return ops
}

// attempt is one attempt at a transaction of random operations.
func (l *lists) attempt(rng *rand.Rand) (x listTxn, err error) {
	x.Begin = l.time.Add(1)
	defer func() {
		if x.End = l.time.Add(1); err != nil {
			x.Outcome = history.OutcomeAborted
		}
	}()
	tx, err := l.pc.Begin()
	if err != nil {
		return x, err
	}
	defer tx.End()
	for range 1 + rng.IntN(6) {
		page, v := rng.IntN(l.pages), uint64(0)
		var old []uint64
		var pid engine.PageID
		if kind := rng.IntN(4); kind != 3 || l.isRooted(page) { // otherwise it is appended to without a read
			if old, pid, err = l.read(tx, page); err != nil {
				return x, err
			}
			x.Ops = append(x.Ops, history.Op{Page: page, List: old})
			if kind < 2 {
				continue
			}
		}
		v = l.value.Add(1)
		if l.isRooted(page) {
			err = l.move(tx, page, pid, append(slices.Clone(old), v))
		} else if old != nil && len(old) < 60 && rng.IntN(3) == 0 {
			err = tx.Replace(l.pid(page), bytesOf(append(slices.Clone(old), v)...))
		} else {
			err = tx.Link(l.pid(page), bytesOf(v))
		}
		if err != nil {
			return x, err
		}
		x.Ops = append(x.Ops, history.Op{Page: page, Value: v})
	}
	l.noted(&x)
	lsn, err := tx.Commit()
	if err == nil && lsn != 0 && rng.IntN(4) == 0 {
		_, stable := l.pc.MakeStable(lsn)
		x.Durable = stable == nil
	}
	return x, err
}

// single is a call on a single page: an append, or a read.
func (l *lists) single(rng *rand.Rand, page int) (x listTxn, err error) {
	x.Begin = l.time.Add(1)
	defer func() {
		if x.End = l.time.Add(1); err != nil {
			x.Outcome = history.OutcomeAborted
		}
	}()
	tx, err := l.pc.Begin()
	if err != nil {
		return x, err
	}
	defer tx.End()
	if l.isRooted(page) {
		return x, l.singleRoot(tx, page, rng.IntN(2) == 0, &x)
	}
	if rng.IntN(2) == 0 {
		p, err := l.pc.Get(tx, l.pid(page))
		if err == nil {
			x.Ops = []history.Op{{Page: page, List: listIn(p.Value)}}
		}
		return x, err
	}
	v := l.value.Add(1)
	x.Ops = []history.Op{{Page: page, Value: v}}
	l.noted(&x)
	ptr, _, err := l.pc.State(tx, l.pid(page))
	for won := false; !won && err == nil; {
		ptr, won, err = l.pc.Link(tx, l.pid(page), ptr, bytesOf(v))
	}
	return x, err
}

// singleRoot is single for a list that a root names: the call is the change of the root, or the look at it. Pages that
// a root names are not changed.
func (l *lists) singleRoot(tx *engine.Tx[[]byte], page int, read bool, x *listTxn) error {
	v := l.value.Add(1)
	for { // ends: each turn but the last finds that another goroutine has changed the root
		old, err := l.pc.Root(tx, listName(page))
		if err != nil && !errors.Is(err, engine.ErrRootNotFound) {
			return err
		}
		var list []uint64
		if old != 0 {
			p, err := l.pc.Get(tx, old)
			if err != nil {
				return err
			}
			if p.Kind == engine.KindFree {
				continue
			}
			list = listIn(p.Value)
		}
		if read {
			x.Ops = []history.Op{{Page: page, List: list}}
			return nil
		}
		pid, ptr, err := l.pc.Allocate(tx, bytesOf(append(slices.Clone(list), v)...))
		if err != nil {
			return err
		}
		// It may be there although the call fails, since the disk has crashed.
		x.Ops = []history.Op{{Page: page, List: list}, {Page: page, Value: v}}
		l.noted(x)
		_, won, err := l.pc.CASRoot(tx, listName(page), old, pid)
		if err != nil || won {
			return err
		}
		if _, _, err := l.pc.Free(tx, pid, ptr); err != nil {
			return err
		}
	}
}

// view reads random lists with a View, and lets others go on meanwhile.
func (l *lists) view(rng *rand.Rand) (x listTxn, err error) {
	x.Begin = l.time.Add(1)
	err = l.pc.View(l.t.Context(), func(tx *engine.Tx[[]byte]) error {
		for range 1 + rng.IntN(8) {
			if rng.IntN(3) == 0 {
				runtime.Gosched()
			}
			page := rng.IntN(l.pages)
			list, _, err := l.read(tx, page)
			if err != nil {
				return err
			}
			x.Ops = append(x.Ops, history.Op{Page: page, List: list})
		}
		return nil
	})
	if x.End = l.time.Add(1); errors.Is(err, engine.ErrConflict) {
		l.t.Errorf("a View has a conflict: %v", err)
	}
	return x, err
}

// step does something, and appends to txns what it saw.
func (l *lists) step(rng *rand.Rand, txns *[]listTxn) error {
	page := rng.IntN(l.pages)
	switch k := rng.IntN(28); {
	case k >= 24:
		x, err := l.view(rng)
		*txns = append(*txns, x)
		return err
	case k < 6:
		x, err := l.single(rng, page)
		*txns = append(*txns, x)
		return err
	case k < 8 && !l.resident:
		tx, err := l.pc.Begin()
		if err == nil {
			engine.Evict(l.pc, tx, l.pid(page))
			tx.End()
		}
		return err
	case k < 9:
		_, err := l.pc.AttemptGC()
		return err
	case k < 10:
		return l.pc.Snapshot()
	}
	for {
		x, err := l.attempt(rng)
		*txns = append(*txns, x)
		if ce := (*engine.ConflictError)(nil); !errors.As(err, &ce) {
			return err
		} else if l.rooted == 0 && int(ce.Page-engine.FirstUserPage) >= l.pages {
			l.t.Errorf("%v", err)
		}
	}
}

// work lets goroutines do n steps each, or as many as they can before the disk crashes, and returns what they saw.
func (l *lists) work(seed uint64, goroutines, n int) (all []listTxn) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			var mine []listTxn
			for range n {
				if err := l.step(rng, &mine); err != nil {
					if !errors.Is(err, engine.ErrFailed) && !errors.Is(err, simdisk.ErrCrashed) {
						l.t.Errorf("seed %d: %v", seed, err)
					}
					break
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return all
}

// Transactions are strictly serializable, beside calls on single pages, evictions, cleaning, consolidation and
// snapshots. A crash at any time leaves of each all changes or none, all that were acknowledged, and with a transaction
// all those that it has read from. Accounts and blobs agree with the pages. Proves P11, Q1, Q2, Q3, Q6 and rule 7.
func TestTransactionHistories(t *testing.T) {
	t.Parallel()
	seeds, each := uint64(60), 120
	if testing.Short() {
		seeds, each = 8, 60
	}
	total, survived, failed := 0, 0, 0
	for seed := *historyFirst; seed < *historyFirst+seeds || total < *historyTxns; seed++ {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		pages := 3 + int(seed%4)*3
		l := openLists(t, d, pages, int(seed%2)*pages/3, seed%3 == 2)
		if l.resident = seed%4 > 0; l.resident {
			d.CrashAfter(1 + rand.New(rand.NewPCG(seed, 99)).IntN(300))
		}
		txns := l.work(seed, 2+int(seed%3)*3, each)
		before := history.Txn{Begin: l.time.Add(1), Ops: l.all()}
		before.End = l.time.Add(1)
		plain := []history.Txn{before}
		for _, x := range txns {
			plain = append(plain, x.Txn)
		}
		if err := history.Check(plain); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !d.Crashed() {
			if err := engine.ExactAccounts(l.pc); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		enginetest.NoCheck(t, l.pc)
		_ = l.pc.Close()
		again := openLists(t, d.Crash(seed), l.pages, l.rooted, false)
		if err := engine.ExactAccounts(again.pc); err != nil {
			t.Errorf("seed %d, reopened: %v", seed, err)
		}
		if _, err := engine.ExactBlobs(again.pc); err != nil {
			t.Errorf("seed %d, reopened: %v", seed, err)
		}
		there := survivors(t, seed, before.Ops, again.all())
		for _, x := range txns {
			if x.Outcome == history.OutcomeAborted {
				failed++
				continue
			}
			kept, err := x.survived(there)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if total++; kept {
				survived++
			}
		}
		enginetest.Close(t, again.pc)
	}
	t.Logf("%d transactions, %d with changes survived, %d attempts failed", total, survived, failed)
	if survived == 0 || survived == total || failed == 0 {
		t.Error("that proves little")
	}
}

// survivors returns the values that were in the store after a crash. Each list must be the beginning of what it was.
func survivors(t *testing.T, seed uint64, before, after []history.Op) map[uint64]bool {
	there := map[uint64]bool{}
	for page, op := range after {
		if was := before[page].List; len(op.List) > len(was) || !slices.Equal(op.List, was[:len(op.List)]) {
			t.Fatalf("seed %d: page %d was %v, and is %v", seed, page, was, op.List)
		}
		for _, v := range op.List {
			there[v] = true
		}
	}
	return there
}

// survived reports whether a transaction with changes has survived a crash. It returns a Violation if that holds for
// some of its changes, if the transaction was acknowledged as durable and is gone, or if it has read from one that is
// gone.
func (x listTxn) survived(there map[uint64]bool) (bool, error) {
	kept, missing, own := 0, 0, map[uint64]bool{}
	for _, op := range x.Ops {
		switch own[op.Value] = true; {
		case op.Value == 0:
		case there[op.Value]:
			kept++
		default:
			missing++
		}
	}
	if kept > 0 && missing > 0 || x.Durable && missing > 0 {
		const text = "of a transaction %d changes survived, %d did not (durable: %v)"
		return false, enginetest.Violated(text, kept, missing, x.Durable)
	}
	for _, op := range x.Ops {
		for _, v := range op.List {
			if kept > 0 && !there[v] && !own[v] {
				return false, enginetest.Violated("a transaction survived, and %d, which it has read, did not", v)
			}
		}
	}
	return kept > 0, nil
}
