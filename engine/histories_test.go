package engine_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/history"
	"pagecache/internal/simdisk"
)

// lists is a store of lists, as package history wants them, on a simulated disk.
type lists struct {
	t     *testing.T
	pc    *engine.PageCache[[]byte]
	pages int
	// resident says that no page is evicted: after a crash nothing can be read from the disk.
	resident bool
	value    atomic.Uint64
	time     atomic.Int64
}

func (l *lists) pid(page int) engine.PageID { return engine.FirstUserPage + engine.PageID(page) }

// openLists opens the store on a disk, and makes the pages that it lacks.
func openLists(t *testing.T, d *simdisk.Disk, pages int, blobs bool) *lists {
	o := enginetest.SimOptions(d)
	o.ConsolidateAfter = 5
	l := &lists{t: t, pc: enginetest.Open(t, "/store", o), pages: pages}
	if blobs {
		engine.SetInline(l.pc, 64)
	}
	if enginetest.NextPage(l.pc) > engine.FirstUserPage {
		return l
	}
	lsn := update(t, l.pc, func(tx *engine.Tx[[]byte]) error {
		for range pages {
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
	durable bool
}

// all reads the lists of all pages.
func (l *lists) all() (ops []history.Op) {
	l.t.Helper()
	if err := l.pc.View(l.t.Context(), func(tx *engine.Tx[[]byte]) error {
		ops = nil
		for page := range l.pages {
			p, err := tx.Get(l.pid(page))
			if err != nil {
				return err
			}
			ops = append(ops, history.Op{Page: page, List: listIn(p.Value)})
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
		if kind := rng.IntN(4); kind != 3 { // otherwise it is appended to without a read
			p, err := tx.Get(l.pid(page))
			if err != nil {
				return x, err
			}
			old = listIn(p.Value)
			x.Ops = append(x.Ops, history.Op{Page: page, List: old})
			if kind < 2 {
				continue
			}
		}
		v = l.value.Add(1)
		if old != nil && len(old) < 60 && rng.IntN(3) == 0 {
			err = tx.Replace(l.pid(page), bytesOf(append(slices.Clone(old), v)...))
		} else {
			err = tx.Link(l.pid(page), bytesOf(v))
		}
		if err != nil {
			return x, err
		}
		x.Ops = append(x.Ops, history.Op{Page: page, Value: v})
	}
	lsn, err := tx.Commit()
	if err == nil && lsn != 0 && rng.IntN(4) == 0 {
		_, stable := l.pc.MakeStable(lsn)
		x.durable = stable == nil
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
	if rng.IntN(2) == 0 {
		p, err := l.pc.Get(tx, l.pid(page))
		if err == nil {
			x.Ops = []history.Op{{Page: page, List: listIn(p.Value)}}
		}
		return x, err
	}
	v := l.value.Add(1)
	x.Ops = []history.Op{{Page: page, Value: v}}
	ptr, _, err := l.pc.State(tx, l.pid(page))
	for won := false; !won && err == nil; {
		ptr, won, err = l.pc.Link(tx, l.pid(page), ptr, bytesOf(v))
	}
	return x, err
}

// step does something, and appends to txns what it saw.
func (l *lists) step(rng *rand.Rand, txns *[]listTxn) error {
	page := rng.IntN(l.pages)
	switch k := rng.IntN(24); {
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
		} else if int(ce.Page-engine.FirstUserPage) >= l.pages {
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
	for seed := range seeds {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		l := openLists(t, d, 3+int(seed%4)*3, seed%3 == 2)
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
		again := openLists(t, d.Crash(seed), l.pages, false)
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
			} else if total++; survivedWhole(t, seed, x, there) {
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

// survivedWhole reports whether a transaction with changes has survived a crash. It fails the test if that holds for
// some of its changes, if the transaction was acknowledged as durable and is gone, or if it has read from one that is
// gone.
func survivedWhole(t *testing.T, seed uint64, x listTxn, there map[uint64]bool) bool {
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
	if kept > 0 && missing > 0 || x.durable && missing > 0 {
		const text = "seed %d: of a transaction %d changes survived, %d did not (durable: %v)"
		t.Fatalf(text, seed, kept, missing, x.durable)
	}
	for _, op := range x.Ops {
		for _, v := range op.List {
			if kept > 0 && !there[v] && !own[v] {
				t.Fatalf("seed %d: a transaction survived, and %d, which it has read, did not", seed, v)
			}
		}
	}
	return kept > 0
}
