package engine

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// neighbours opens a store with a corrupt block of references. It returns two pages of one record block that were not
// touched: page good, of the wanted kind, can be read from the snapshot; page bad cannot, so to read it rebuilds the
// whole block.
func neighbours(t *testing.T, s *snapshotted, d *simdisk.Disk, kind format.SnapshotKind) (
	pc *PageCache[[]byte], good, bad PageID) {
	t.Helper()
	pc = s.open(t, d)
	base := pc.snaps.Base
	bads := map[int64]PageID{}
	for pid := FirstUserPage; pid < base.NextPage; pid++ {
		if _, err := base.Page(pid); err != nil {
			bads[recovery.RecordBlock(pid)] = pid
		}
	}
	for pid := FirstUserPage; pid < base.NextPage; pid++ {
		p, err := base.Page(pid)
		touched := pc.pages.Table.Get(pid) != nil && !pc.pages.Table.Get(pid).IsEmpty()
		if bad := bads[recovery.RecordBlock(pid)]; err == nil && bad != 0 && p.Kind == kind && !touched {
			return pc, pid, bad
		}
	}
	t.Fatal("no such pages")
	return nil, 0, 0
}

// hold makes the first look at a page in the snapshot wait until goOn is closed. at is closed when it waits.
func hold(pc *PageCache[[]byte], pid PageID) (at, goOn chan struct{}) {
	at, goOn = make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	pc.pages.BeforeBase(func(p PageID) {
		if p == pid && held.CompareAndSwap(false, true) {
			close(at)
			<-goOn
		}
	})
	return at, goOn
}

// A call finds no entry of a page in the table. Before it looks the page up in the snapshot, another call takes the
// page in, and a third has the page's block rebuilt, which from then on says nothing of pages in the table. The first
// call still sees the page as it is, in use or free. Proves N1, N4.
func TestFindBesideRebuiltBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for _, kind := range []format.SnapshotKind{format.SnapshotKindPage, format.SnapshotKindFree} {
		pc, good, bad := neighbours(t, s, s.corrupted("flipped", s.header.RefBlock()), kind)
		at, goOn := hold(pc, good)
		got := make(chan error, 1)
		go func() {
			defer func() {
				if p := recover(); p != nil {
					got <- fmt.Errorf("panic: %v", p)
				}
			}()
			tx, err := pc.Begin()
			if err != nil {
				got <- err
				return
			}
			defer tx.End()
			p, err := pc.Get(tx, good)
			if want, exists := s.want[good]; err == nil &&
				(string(p.Value) != want || (p.Kind == KindMaterialized) != exists) {
				err = fmt.Errorf("it is %v with %d bytes", p.Kind, len(p.Value))
			}
			got <- err
		}()
		<-at
		get1(t, pc, good)
		get1(t, pc, bad)
		close(goOn)
		if err := <-got; err != nil {
			t.Errorf("page %d of kind %v: %v", good, kind, err)
		}
		closeTest(t, pc)
	}
}

// The same of a snapshot that is being written: it has the page as it is. Proves N1, N4.
func TestSnapshotBesideRebuiltBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.corrupted("flipped", s.header.RefBlock())
	pc, good, bad := neighbours(t, s, d, format.SnapshotKindPage)
	at, goOn := hold(pc, good)
	allocate(t, pc, []byte("so that there is something to write"))
	flushTest(t, pc)
	done := make(chan error, 1)
	go func() { done <- pc.Snapshot() }()
	<-at
	get1(t, pc, good)
	get1(t, pc, bad)
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	next := d.Copy()
	closeTest(t, pc)
	pc = s.open(t, next)
	if p, err := pc.snaps.Base.Page(good); err != nil || p.Kind != format.SnapshotKindPage || len(p.Refs) != 1 {
		t.Errorf("page %d in the new snapshot: %+v, error %v", good, p, err)
	}
	if v := string(get1(t, pc, good).Value); v != s.want[good] {
		t.Errorf("page %d has %d bytes, want %d", good, len(v), len(s.want[good]))
	}
	if err := ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	closeUnchecked(t, pc) // the power cut has brought the corrupt snapshot back
}

// A scan that fails is tried again after some time without a call that needs its pages, so that cleaning goes on. If it
// fails again and again, the tries come to an end. Proves N5.
func TestFailedScanIsTriedAgainByItself(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.corrupted("flipped", 3)
	pc, pid, open := gatedStore(t, s, d, 3)
	close(open)
	var scans, failing atomic.Int64
	failing.Store(3)
	planted := errors.New("planted")
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRead && o.Name == "/store/log" {
			if scans.Add(1); failing.Load() > 0 {
				failing.Add(-1)
				return planted
			}
		}
		return nil
	})
	pc.snaps.Patience = time.Millisecond
	tx := begin(t, pc)
	if _, err := pc.Get(tx, pid); !errors.Is(err, planted) {
		t.Errorf("get while the log cannot be read: %v", err)
	}
	tx.End()
	waitFor(t, "a scan by itself", func() bool { return pc.Stats().Snapshot.Rebuilding == 0 })
	d.SetFault(nil)
	verify(t, pc, s.want)
	closeTest(t, pc)

	d = s.corrupted("flipped", 3)
	pc, pid, open = gatedStore(t, s, d, 3)
	close(open)
	scans.Store(0)
	pc.snaps.Patience = time.Microsecond
	d.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpRead && o.Name == "/store/log" {
			scans.Add(1)
			return planted
		}
		return nil
	})
	tx = begin(t, pc)
	if _, err := pc.Get(tx, pid); !errors.Is(err, planted) {
		t.Errorf("get while the log cannot be read: %v", err)
	}
	tx.End()
	waitFor(t, "several scans", func() bool { return scans.Load() > 3 })
	const quiet = 50 * time.Millisecond
	for last := int64(0); last != scans.Load(); time.Sleep(quiet) {
		if last = scans.Load(); last > 100 {
			t.Fatalf("%d scans", last)
		}
	}
	d.SetFault(nil)
	verify(t, pc, s.want) // a call still tries at once
	closeTest(t, pc)
}

// replaceRecord makes the snapshot of the opening say that a page is p, or that its state is lost because of err.
func replaceRecord(t *testing.T, pc *PageCache[[]byte], pid PageID, p recovery.Page, err error) {
	t.Helper()
	base := pc.snaps.Base
	block := &recovery.Block{Number: recovery.RecordBlock(pid), Errors: map[int]error{}}
	first, end := base.PagesOf(block.Number)
	if pid >= end {
		t.Fatalf("page %d is not in the snapshot", pid)
	}
	for i := first; i < end; i++ {
		old, err := base.Page(i)
		if err != nil {
			t.Fatal(err)
		}
		block.Pages = append(block.Pages, old)
	}
	if block.Pages[pid-first] = p; err != nil {
		block.Errors[int(pid-first)] = err
	}
	base.Replace([]*recovery.Block{block})
}

// If the snapshot says that a page exists, but of no messages, the page is corrupt, and no snapshot takes that over.
// Proves rule 12.
func TestRecordWithoutMessagesIsCorrupt(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	for _, kind := range []format.SnapshotKind{format.SnapshotKindPage, format.SnapshotKindFree} {
		pc := s.open(t, s.d.Copy())
		pid := FirstUserPage + 400
		replaceRecord(t, pc, pid, recovery.Page{Kind: kind, LSN: 4096}, nil)
		allocate(t, pc, []byte("so that there is something to write"))
		if err := pc.Snapshot(); err == nil {
			t.Errorf("kind %v: a snapshot of it was written", kind)
		}
		tx := begin(t, pc)
		if p, err := pc.Get(tx, pid); !errors.Is(err, ErrCorrupt) {
			t.Errorf("kind %v: the page is %v, error %v, want ErrCorrupt", kind, p.Kind, err)
		}
		tx.End()
		closeUnchecked(t, pc)
	}
}

// If the state of a page is lost, because both the snapshot and the log are corrupt, an id that was free until then is
// not handed out: Allocate takes others. Calls on the page get an error. Trap 2.
func TestAllocatePassesOverLostID(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	pc := s.open(t, s.d.Copy())
	lost, err := pc.pages.IDs.Take(&pc.txs.Domain)
	if err != nil {
		t.Fatal(err)
	}
	replaceRecord(t, pc, lost, recovery.Page{}, pc.core.store.CorruptLog(recovery.Place{}.WithPage(lost), "planted"))
	pc.pages.IDs.GiveBack(lost) // as an Allocate does that finds no space
	tx := begin(t, pc)
	for range 3 {
		if pid, _, err := pc.Allocate(tx, []byte("new")); err != nil || pid == lost {
			t.Errorf("allocated page %d, error %v; page %d is lost", pid, err, lost)
		}
	}
	if _, err := pc.Get(tx, lost); !errors.Is(err, ErrCorrupt) {
		t.Errorf("get a lost page: %v, want ErrCorrupt", err)
	}
	tx.End()
	closeUnchecked(t, pc)
}

// If the block with the record of the id counter is corrupt, Open does without the snapshot, and takes an older one or
// the log alone: a scan for pages does not find it, and none runs before the log was started. Roots and pages are all
// there. Proves N4.
func TestCorruptRecordOfCounter(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	d := s.d.Copy()
	pc := s.open(t, d)
	tx := begin(t, pc)
	if _, won, err := pc.CASRoot(tx, "root", 0, 5); err != nil || !won {
		t.Fatal(won, err)
	}
	tx.End()
	closeTest(t, pc)
	name := snapshotFiles(t, d, "/store")[0]
	id, _ := format.ParseSnapshotName(name)
	for how, corrupt := range corruptions {
		hurt := d.Copy()
		corrupt(hurt, "/store/"+name, format.SnapshotBlock)
		o := s.o
		o.seam.FS = hurt
		pc := openTest(t, "/store", &o)
		used := pc.snaps.Base != nil && pc.snaps.Base.Number == id.Number
		if n := pc.Stats().Snapshot; used || n.Rebuilt+n.Rebuilding > 0 {
			t.Errorf("%s: the snapshot is used: %+v", how, n)
		}
		tx := begin(t, pc)
		if pid, err := pc.Root(tx, "root"); err != nil || pid != 5 {
			t.Errorf("%s: the root is page %d, error %v, want 5", how, pid, err)
		}
		tx.End()
		verify(t, pc, s.want)
		closeUnchecked(t, pc)
	}
}

// Whatever block of the snapshot is corrupt, the roots are all there: calls on those whose records lie in the block
// wait until it is rebuilt. Roots can be changed, and one that is added gets an id of its own. Trap 29.
func TestRootsInCorruptBlock(t *testing.T) {
	t.Parallel()
	s := newSnapshotted(t)
	if len(s.roots) < 10 {
		t.Fatalf("the store has %d roots", len(s.roots))
	}
	for number := int64(2); number < s.blocks(); number++ { // without block 1, Open skips it
		pc := s.open(t, s.corrupted("flipped", number))
		tx := begin(t, pc)
		for name, want := range s.roots {
			if pid, err := pc.Root(tx, name); err != nil || pid != want {
				t.Errorf("block %d: root %q is page %d, error %v, want %d", number, name, pid, err, want)
			}
			if now, won, err := pc.CASRoot(tx, name, want, want+1); err != nil || !won || now != want+1 {
				t.Errorf("block %d: change root %q: now %d, won %v, error %v", number, name, now, won, err)
			}
		}
		if _, won, err := pc.CASRoot(tx, "new", 0, 5); err != nil || !won {
			t.Errorf("block %d: new root: won %v, error %v", number, won, err)
		}
		if m, err := pc.Meta(tx); err != nil || len(m) != len(s.roots)+1 || m["new"] != 5 {
			t.Errorf("block %d: %d roots, error %v", number, len(m), err)
		}
		if n := pc.pages.Roots.Len(); n != len(s.roots)+1 {
			t.Errorf("block %d: %d names, want %d", number, n, len(s.roots)+1)
		}
		tx.End()
		verify(t, pc, s.want)
		if err := ExactAccounts(pc); err != nil {
			t.Errorf("block %d: %v", number, err)
		}
		closeUnchecked(t, pc)
	}
}
