package engine

import (
	"errors"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/internal/simdisk"
	"pagecache/segments"
	"pagecache/segments/format"
)

// A write that fails because the value is too long leaves no page, id or bytes behind, and the next write works.
func TestTooLargeWriteHasNoEffect(t *testing.T) {
	pc := openSim(t, simdisk.New(1, simdisk.Options{}))
	defer closeTest(t, pc)
	tx := begin(t, pc)
	defer tx.End()
	pc.blobs.SetMaxLen(format.MaxBody(16 << 10))
	pid, ptr, err := pc.Allocate(tx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	before := pc.Stats()
	too := make([]byte, format.MaxBody(16<<10)+1)
	for range 3 {
		_, _, err1 := pc.Allocate(tx, too)
		_, _, err2 := pc.Link(tx, pid, ptr, too)
		_, _, err3 := pc.Replace(tx, pid, ptr, too)
		if !errors.Is(err1, ErrTooLarge) || !errors.Is(err2, ErrTooLarge) || !errors.Is(err3, ErrTooLarge) {
			t.Fatalf("Allocate: %v; Link: %v; Replace: %v; want ErrTooLarge", err1, err2, err3)
		}
	}
	after := pc.Stats()
	if after.Pages.InUse != before.Pages.InUse || after.Space.LiveBytes != before.Space.LiveBytes ||
		after.Space.SegmentsInUse != before.Space.SegmentsInUse {
		t.Errorf("the failed writes changed the counts: %+v, before %+v", after, before)
	}
	must(t)(pc.Link(tx, pid, ptr, []byte("y")))
}

// Once all page ids are in use, Allocate returns ErrTooManyPages and does nothing. The id of a page that is freed then
// is allocated again.
func TestAllocateWithoutFreeIDs(t *testing.T) {
	o := simOptions(simdisk.New(2, simdisk.Options{}))
	o.Temporary = true // a snapshot of this many pages would be too large
	pc := openTest(t, "/store", o)
	defer closeTest(t, pc)
	pid, _ := allocate(t, pc, []byte("x"))
	pc.pages.IDs.RaiseNext(format.MaxPageID + 1) // as if all pages had been allocated
	tx := begin(t, pc)
	before := pc.Stats()
	for range 3 {
		pid, ptr, err := pc.Allocate(tx, []byte("y"))
		if !errors.Is(err, ErrTooManyPages) || pid != 0 || !ptr.IsZero() {
			t.Errorf("allocated page %d, error %v, want ErrTooManyPages", pid, err)
		}
	}
	after := pc.Stats()
	if after.Pages.InUse != before.Pages.InUse || after.Space.LiveBytes != before.Space.LiveBytes {
		t.Errorf("the failed calls changed the counts: %+v, before %+v", after, before)
	}
	must(t)(pc.Free(tx, pid, get1(t, pc, pid).Ptr))
	tx.End()
	if again, _ := allocate(t, pc, []byte("z")); again != pid {
		t.Errorf("allocated page %d, want %d again", again, pid)
	}
}

// A root that cannot be added, since all page ids are in use, counts nowhere.
func TestRootWithoutFreeIDs(t *testing.T) {
	o := simOptions(simdisk.New(2, simdisk.Options{}))
	o.Temporary = true // a snapshot of this many pages would be too large
	pc := openTest(t, "/store", o)
	defer closeTest(t, pc)
	pid, _ := allocate(t, pc, []byte("x"))
	pc.pages.IDs.RaiseNext(format.MaxPageID + 1) // as if all pages had been allocated
	tx := begin(t, pc)
	defer tx.End()
	for range 3 {
		if now, won, err := pc.CASRoot(tx, "root", 0, pid); !errors.Is(err, ErrTooManyPages) || won || now != 0 {
			t.Errorf("now %d, won %t, error %v; want ErrTooManyPages", now, won, err)
		}
	}
	if n := pc.Stats().Pages.Roots; n != 0 {
		t.Errorf("%d roots, want none", n)
	}
}

// The accounts of space include a message before it is complete. Where the accounting fails, which only a message
// beyond the end of any file makes it do, the message is not complete yet. Proves rule 7.
func TestAccountsPrecedeCompletion(t *testing.T) {
	pc := openSim(t, simdisk.New(3, simdisk.Options{}))
	defer closeTest(t, pc)
	size := pc.core.store.SegmentSize()
	r, err := pc.core.store.Log.Reserve(format.KindFree, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	beyond := format.DiskPtr{Off: format.Offset(2*segments.MaxSlots) * format.Offset(size), Len: format.HeaderSize}
	e, lsn := pagestack.NewFree(1, r.LSN(), beyond), r.LSN()
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("a message beyond the end of any file was accounted for")
			}
		}()
		pc.pages.Install(new(slot), nil, e, &r, 0)
	}()
	b := make([]byte, format.HeaderSize)
	if !pc.core.store.Log.Read(b, lsn) || [format.HeaderSize]byte(b) != [format.HeaderSize]byte{} {
		t.Errorf("the message is complete, and the accounts do not include it: %x", b)
		return
	}
	r.Abort()
}
