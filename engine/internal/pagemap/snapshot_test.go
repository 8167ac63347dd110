package pagemap

import (
	"math"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A snapshot has the counter of ids also if page 1 has an intent when it begins, as it has for a moment while the
// cleaner moves it beside an open View.
func TestSnapshotBesideIntentOnCounter(t *testing.T) {
	o := openUnbuilt(t, simdisk.New(1, simdisk.Options{Block: 512}), format.MinSegmentSize)
	if err := o.m.Rebuild(o.found); err != nil {
		t.Fatal(err)
	}
	defer o.store.Abandon()
	m := &o.m
	slot := m.Table.Make(format.CounterPage)
	slot.Store(NewCounter(1, 1234, pagestack.Ref{LSN: 8}))
	var reads txn.Reads
	reads.Reset(&m.Clock)
	if _, _, ok := reads.Read(format.CounterPage, slot); !ok {
		t.Fatal("conflict without a reason")
	}
	rec, read := m.Clock.Record(1, 1), reads.Last()
	if _, ok := rec.Install(&read); !ok {
		t.Fatal("conflict without a reason")
	}
	if got := m.BeginSnapshot(math.MaxInt64).Header().Counter; got != 1234 {
		t.Errorf("the snapshot has counter %d, want 1234", got)
	}
	rec.Abort()
}
