package pagemap

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/epoch"
	"pagecache/engine/internal/history"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// lists is a store of lists, as package history wants them, on a simulated disk.
type lists struct {
	t     *testing.T
	o     *opened
	pages int
	age   *atomic.Uint64
	value *atomic.Uint64
	time  *atomic.Int64
}

func (l *lists) pid(page int) format.PageID { return format.FirstUserPage + format.PageID(page) }

// openLists opens the store on a disk, and makes the pages that it lacks.
func openLists(t *testing.T, d *simdisk.Disk, pages int) *lists {
	o := openUnbuilt(t, d, format.MinSegmentSize)
	if err := o.m.Rebuild(o.found); err != nil {
		t.Fatal(err)
	}
	l := &lists{t: t, o: o, pages: pages, age: new(atomic.Uint64), value: new(atomic.Uint64), time: new(atomic.Int64)}
	o.m.IDs.RaiseNext(l.pid(pages))
	for page := range pages {
		_, h, err := o.m.Find(l.pid(page))
		if err != nil {
			t.Fatal(err)
		}
		if h == nil {
			if err := l.put(page, func(*Head) []uint64 { return nil }, format.KindCompact, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l
}

func encodeList(list []uint64) (b []byte) {
	for _, v := range list {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// list returns the list on the page with head h.
func (l *lists) list(h *Head) (list []uint64) {
	var parts [][]uint64
	for ; h.Kind() == pagestack.KindDelta; h = h.Next() {
		parts = append(parts, pagestack.EntryOf[[]uint64](h).Frag)
	}
	if h.Kind() == pagestack.KindOnDisk {
		h.Refs(func(r pagestack.Ref) {
			m, err := l.o.store.Read(r.LSN, r.Ptr)
			if err != nil {
				l.t.Error(err)
				return
			}
			var part []uint64
			for b := m.Body; len(b) > 0; b = b[8:] {
				part = append(part, binary.LittleEndian.Uint64(b))
			}
			parts = append(parts, part)
		})
	} else {
		parts = append(parts, pagestack.EntryOf[[]uint64](h).Frag)
	}
	for _, p := range slices.Backward(parts) {
		list = append(list, p...)
	}
	return list
}

// put changes one page by a compare-and-swap of its own, as the calls on single pages do. make returns the list that it
// writes for the head that it is given: that of the page, or the new values of a delta.
func (l *lists) put(page int, make func(*Head) []uint64, k format.Kind, changes bool) error {
	m, s := &l.o.m, l.o.m.Table.Make(l.pid(page))
	for {
		h := m.Clock.Claim(s)
		list := make(h)
		n := len(encodeList(list))
		if k.Delta() {
			n += format.PrevSize
		}
		r, err := m.store.Log.Reserve(k, l.pid(page), n)
		if err != nil {
			return err
		}
		at := r.Body()
		if k.Delta() {
			at = format.PutPrev(at, h.LSN)
		}
		copy(at, encodeList(list))
		e := l.entryFor(k, changes)(list)(h, []pagestack.Ref{{LSN: r.LSN(), Ptr: r.Ptr()}})
		if changes {
			m.Clock.Begin(l.pid(page))
		}
		won := m.Install(s, h, e, &r, 0)
		if changes {
			if won {
				m.Clock.Stamp(l.pid(page))
			}
			m.Clock.End(l.pid(page))
		}
		if won {
			return nil
		}
	}
}

// entryFor returns a function that makes entries for a list.
func (l *lists) entryFor(k format.Kind, changes bool) func([]uint64) func(*Head, []pagestack.Ref) *Head {
	return func(list []uint64) func(*Head, []pagestack.Ref) *Head {
		return func(h *Head, msgs []pagestack.Ref) *Head {
			if k.Delta() {
				for i, msg := range msgs { // one value each
					part := list
					if len(msgs) > 1 {
						part = list[i : i+1]
					}
					h = &pagestack.NewDelta(h, part, msg.LSN, msg.Ptr).Head
				}
				return h
			}
			ts := NextTS(h)
			if !changes {
				ts = h.TS()
			}
			e := pagestack.New[[]uint64](pagestack.KindBase, ts, 1, msgs[0].LSN, msgs[0].Ptr)
			e.Frag = list
			return &e.Head
		}
	}
}

// evict drops the values of a page, as housekeeping does.
func (l *lists) evict(page int) {
	s := l.o.m.Table.Make(l.pid(page))
	if h := l.o.m.Clock.Load(s); !txn.IsClaimed(s) {
		s.CompareAndSwap(h, h.ToOnDisk())
	}
}

// listTxn is a transaction and what the test knows of it.
type listTxn struct {
	history.Txn
	durable bool
}

// run makes one attempt at a transaction of random operations. The error is that of Commit, or a conflict of a read.
func (l *lists) run(rng *rand.Rand, age uint64) (listTxn, error) {
	var reads txn.Reads
	reads.Reset(&l.o.m.Clock)
	x := listTxn{Txn: history.Txn{Begin: l.time.Add(1)}}
	fail := func(err error) (listTxn, error) {
		x.Outcome, x.End = history.OutcomeAborted, l.time.Add(1)
		return x, err
	}
	type write struct {
		read  txn.Read
		old   []uint64
		added []uint64
	}
	writes := map[int]*write{}
	for range 1 + rng.IntN(5) {
		page := rng.IntN(l.pages)
		w := writes[page]
		var old []uint64
		if w == nil {
			h, changed, ok := reads.Read(l.pid(page), l.o.m.Table.Make(l.pid(page)))
			if !ok {
				return fail(&ConflictError{changed})
			}
			old = l.list(h)
		} else {
			old = append(slices.Clone(w.old), w.added...)
		}
		if rng.IntN(2) == 0 {
			x.Ops = append(x.Ops, history.Op{Page: page, List: old})
			continue
		}
		if w == nil {
			all := reads.All()
			w = &write{read: all[len(all)-1], old: old}
			writes[page] = w
		}
		v := l.value.Add(1)
		w.added = append(w.added, v)
		x.Ops = append(x.Ops, history.Op{Page: page, Value: v})
	}
	if len(writes) == 0 {
		x.End = l.time.Add(1)
		return x, nil
	}
	c := Commit{Age: age}
	for _, r := range reads.All() {
		if writes[int(r.Page-format.FirstUserPage)] == nil {
			c.Reads = append(c.Reads, r)
		}
	}
	for page := range l.pages {
		w := writes[page]
		if w == nil {
			continue
		}
		out := Write{Read: w.read}
		if whole := append(slices.Clone(w.old), w.added...); len(whole) < 100 && rng.IntN(4) == 0 {
			out.Parts = []Part{{Kind: format.KindCompact, Body: encodeList(whole)}}
			out.Entry = l.entryFor(format.KindCompact, true)(whole)
		} else {
			for _, v := range w.added {
				out.Parts = append(out.Parts, Part{Kind: format.KindAppend, Body: encodeList([]uint64{v})})
			}
			out.Entry = l.entryFor(format.KindAppend, true)(w.added)
		}
		c.Writes = append(c.Writes, out)
	}
	lsn, err := l.o.m.Commit(&c)
	if err != nil {
		return fail(err)
	}
	x.End = l.time.Add(1)
	if rng.IntN(4) == 0 {
		x.durable = l.o.store.Log.MakeStableContext(context.Background(), lsn) == nil
	}
	return x, nil
}

// view reads lists as of one moment.
func (l *lists) view(rng *rand.Rand) listTxn {
	x := listTxn{Txn: history.Txn{Begin: l.time.Add(1)}}
	slot := new(epoch.Slot)
	l.o.m.readers.Join(slot)
	slot.TryEnter(l.o.m.readers)
	defer slot.Leave()
	w := l.o.m.BeginView(slot, func() uint64 { return 0 })
	defer l.o.m.EndView(w)
	for range 1 + rng.IntN(6) {
		if rng.IntN(3) == 0 {
			runtime.Gosched()
		}
		page := rng.IntN(l.pages)
		_, h, err := l.o.m.At(l.pid(page), w)
		if err != nil {
			l.t.Error(err)
			continue
		}
		x.Ops = append(x.Ops, history.Op{Page: page, List: l.list(h)})
	}
	x.End = l.time.Add(1)
	return x
}

// work lets goroutines do random transactions, single changes, moves and evictions until the log stops, or each has
// done n, while snapshots are written. It returns what they saw.
func (l *lists) work(seed uint64, goroutines, n int) (all []listTxn) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	done := make(chan struct{})
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			var mine []listTxn
			for range n {
				page := rng.IntN(l.pages)
				var err error
				switch k := rng.IntN(20); {
				case k < 3:
					v := l.value.Add(1)
					x := listTxn{Txn: history.Txn{Begin: l.time.Add(1)}}
					x.Ops = []history.Op{{Page: page, Value: v}}
					err = l.put(page, func(*Head) []uint64 { return []uint64{v} }, format.KindAppend, true)
					if x.End = l.time.Add(1); err != nil {
						x.Outcome = history.OutcomeAborted
					}
					mine = append(mine, x)
				case k < 5:
					x := listTxn{Txn: history.Txn{Begin: l.time.Add(1)}}
					x.Ops = []history.Op{{Page: page, List: l.list(l.o.m.Clock.Load(l.o.m.Table.Make(l.pid(page))))}}
					x.End = l.time.Add(1)
					mine = append(mine, x)
				case k < 6 && rng.IntN(2) == 0:
					mine = append(mine, l.view(rng))
				case k < 6:
					l.evict(page)
				case k < 8:
					err = l.put(page, l.list, format.KindCompact, false)
				default:
					for age := l.age.Add(1); ; {
						var x listTxn
						x, err = l.run(rng, age)
						mine = append(mine, x)
						if conflict := (*ConflictError)(nil); !errors.As(err, &conflict) {
							break
						} else if int(conflict.Page-format.FirstUserPage) >= l.pages {
							l.t.Errorf("%v", err)
						}
					}
				}
				if errors.Is(err, iobuf.ErrFailed) {
					break
				}
				if err != nil && !errors.Is(err, iobuf.ErrTooLarge) {
					l.t.Error(err)
					break
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	var snaps sync.WaitGroup
	snaps.Go(func() {
		for seed/4%2 == 0 { // otherwise recovery takes everything from the log
			select {
			case <-done:
				return
			default:
			}
			if l.o.snaps.Write(context.Background(), l.o.store.Log, &l.o.m, 0) != nil {
				return // the disk has crashed
			}
		}
	})
	wg.Wait()
	close(done)
	snaps.Wait()
	return all
}

// all returns the lists of all pages.
func (l *lists) all() (ops []history.Op) {
	for page := range l.pages {
		_, h, err := l.o.m.Find(l.pid(page))
		if err != nil || h == nil {
			l.t.Fatalf("page %d: head %v, %v", page, h, err)
		}
		ops = append(ops, history.Op{Page: page, List: l.list(h)})
	}
	return ops
}

// Transactions over a log are strictly serializable, beside changes of single pages, moves, evictions and snapshots. A
// crash at any time leaves of each all changes or none, all that were acknowledged, and with a transaction all those
// that it has read from, also if they are written in parts. The accounts agree with the pages. Proves Q1, Q2, Q3, Q6,
// D1, D2, D4 and rule 7.
func TestCommitsSurviveCrashesWhole(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 12
	}
	total, survived, conflicts := 0, 0, 0
	for seed := range seeds {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		l := openLists(t, d, 3+int(seed%4)*3)
		if rng := rand.New(rand.NewPCG(seed, 98)); seed%3 > 0 { // many commits are written in parts
			l.o.m.SetGroupLimit(40 + rng.IntN(150))
		}
		rng := rand.New(rand.NewPCG(seed, 99))
		if seed%4 > 0 {
			d.CrashAfter(1 + rng.IntN(150))
		}
		txns := l.work(seed, 2+int(seed%3)*3, 150)
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
			if err := l.o.m.CheckAccounts(func(problem string) { t.Errorf("seed %d: %s", seed, problem) }); err != nil {
				t.Fatal(err)
			}
		}
		l.o.store.Abandon()
		again := openLists(t, d.Crash(seed), l.pages)
		after := again.all()
		survivors := map[uint64]bool{}
		for page, op := range after {
			if was := before.Ops[page].List; len(op.List) > len(was) || !slices.Equal(op.List, was[:len(op.List)]) {
				t.Fatalf("seed %d: page %d was %v, and is %v", seed, page, was, op.List)
			}
			for _, v := range op.List {
				survivors[v] = true
			}
		}
		for _, x := range txns {
			if x.Outcome == history.OutcomeAborted {
				conflicts++
				continue
			}
			there, missing := 0, 0
			for _, op := range x.Ops {
				switch {
				case op.Value == 0:
				case survivors[op.Value]:
					there++
				default:
					missing++
				}
			}
			if there > 0 && missing > 0 || x.durable && missing > 0 {
				const text = "seed %d: of a transaction %d changes survived, %d did not (durable: %v)"
				t.Fatalf(text, seed, there, missing, x.durable)
			}
			total++
			if there == 0 {
				continue
			}
			survived++
			own := map[uint64]bool{}
			for _, op := range x.Ops {
				own[op.Value] = true
				for _, v := range op.List {
					if !survivors[v] && !own[v] {
						t.Fatalf("seed %d: a transaction survived, and %d, which it has read, did not", seed, v)
					}
				}
			}
		}
		wrong := func(problem string) { t.Errorf("seed %d, reopened: %s", seed, problem) }
		if err := again.o.m.CheckAccounts(wrong); err != nil {
			t.Fatal(err)
		}
		again.o.store.Abandon()
	}
	t.Logf("%d transactions, %d with changes survived, %d attempts failed", total, survived, conflicts)
}

// tooLarge fails the test unless commits that are too large are refused.
func (l *lists) tooLarge() {
	m := &l.o.m
	commit := func(parts []Part) error {
		var reads txn.Reads
		reads.Reset(&m.Clock)
		if _, _, ok := reads.Read(l.pid(0), m.Table.Make(l.pid(0))); !ok {
			l.t.Fatal("conflict without a reason")
		}
		_, err := m.Commit(&Commit{Age: l.age.Add(1), Writes: []Write{{Read: reads.Last(), Parts: parts}}})
		if txn.IsClaimed(m.Table.Make(l.pid(0))) {
			l.t.Errorf("after %v the page is claimed", err)
		}
		return err
	}
	many := slices.Repeat([]Part{{Kind: format.KindAppend}}, format.MaxGroupParts+1)
	m.SetGroupLimit(1)
	if err := commit(many); !errors.Is(err, iobuf.ErrTooLarge) {
		l.t.Errorf("a commit of too many parts: %v", err)
	}
	m.SetGroupLimit(0)
	long := Part{Kind: format.KindAppend, Body: make([]byte, 64<<20)} // the memory is never touched
	if err := commit(slices.Repeat([]Part{long}, MostCommitted/len(long.Body))); !errors.Is(err, iobuf.ErrTooLarge) ||
		!strings.Contains(err.Error(), "transaction") {
		l.t.Errorf("a commit of %d bytes: %v", MostCommitted, err)
	}
}

// A commit that is longer than MostCommitted, or takes too many parts, is refused, and leaves nothing behind, in memory
// or in the log: neither does one that has a conflict at any step, or that finds the log stopped, in one part or in
// several.
func TestCommitThatFailsLeavesNothing(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{Block: 512})
	l := openLists(t, d, 3)
	m := &l.o.m
	want := [3]int{}
	commit := func(n int, before, within func()) error { // it writes pages 0 and 1, and reads page 2
		var reads txn.Reads
		reads.Reset(&m.Clock)
		c := Commit{Age: l.age.Add(1)}
		for page := range 3 {
			if _, _, ok := reads.Read(l.pid(page), m.Table.Make(l.pid(page))); !ok {
				t.Fatal("conflict without a reason")
			}
			list := make([]uint64, n)
			entry := l.entryFor(format.KindCompact, true)(list)
			c.Writes = append(c.Writes, Write{Read: reads.All()[page],
				Parts: []Part{{Kind: format.KindCompact, Body: encodeList(list)}},
				Entry: func(h *Head, msgs []pagestack.Ref) *Head {
					if page == 1 {
						within()
					}
					return entry(h, msgs)
				}})
		}
		c.Writes, c.Reads = c.Writes[:2], []txn.Read{reads.All()[2]}
		before()
		_, err := m.Commit(&c)
		for page := range 3 {
			if s := m.Table.Make(l.pid(page)); txn.IsClaimed(s) || len(l.list(m.Clock.Load(s))) != want[page] {
				t.Errorf("after %v: page %d: claimed %v, %v", err, page, txn.IsClaimed(s), l.list(m.Clock.Load(s)))
			}
		}
		return err
	}
	nothing := func() {}
	write := func(page int) func() {
		return func() {
			want[page]++
			make := func(*Head) []uint64 { return []uint64{7} }
			if err := l.put(page, make, format.KindAppend, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.tooLarge()
	for page := range 3 {
		for when := range 4 {
			before, within := nothing, nothing
			n, between := 1, false
			switch when {
			case 0:
				before = write(page)
			case 1:
				within = write(page)
			case 2:
				n, within = format.MinSegmentSize/64, write(page)
			case 3:
				n, between = format.MinSegmentSize/64, true
			}
			if m.BetweenParts(nil); between {
				m.BetweenParts(write(page))
			}
			err, conflict := commit(n, before, within), (*ConflictError)(nil)
			if !errors.As(err, &conflict) || conflict.Page != l.pid(page) {
				t.Errorf("page %d is changed before the commit, within, or between parts (%d): %v", page, when, err)
			}
		}
	}
	m.BetweenParts(nil)
	if err := m.CheckAccounts(func(problem string) { t.Error(problem) }); err != nil {
		t.Fatal(err)
	}
	if _, err := l.o.store.Log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := commit(1, nothing, nothing); !errors.Is(err, iobuf.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := m.CheckAccounts(func(problem string) { t.Error(problem) }); err != nil {
		t.Fatal(err)
	}
	if err := commit(format.MinSegmentSize/64, nothing, nothing); !errors.Is(err, iobuf.ErrClosed) {
		t.Errorf("in parts, after Close: %v", err)
	}
	if _, named := m.beginSnapshot(0); len(named) > 0 || len(m.commits.undecided) > 0 {
		t.Errorf("commits that have failed are left: %v, %d", named, len(m.commits.undecided))
	}
	before := l.all()
	l.o.store.Abandon()
	again := openLists(t, d.Crash(1), 3)
	defer again.o.store.Abandon()
	for page, op := range again.all() {
		if !slices.Equal(op.List, before[page].List) {
			t.Errorf("page %d was %v, and is %v", page, before[page].List, op.List)
		}
	}
}
