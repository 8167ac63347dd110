package engine

import (
	"errors"
	"fmt"
	"testing"

	"pagecache/engine/internal/idgen"
	"pagecache/internal/simdisk"
)

// A clean close drops a batch that is open, and with it the batch's page ids, however many they are. The next page ids
// are in proportion to the log, so that a store can be opened after a crash with all that was acknowledged. Of the
// batch, only the page ids come again; ids of GenerateID do not. Proves rule 12.
func TestPageIDsOfDroppedBatchComeAgain(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := simOptions(d)
	pc := openTest(t, "/store", o)
	first, _ := allocate(t, pc, []byte("before"))
	batch, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	pc.pages.IDs.RaiseNext(1<<20 + 4000) // as if a million pages had been allocated
	for range 40 {
		allocate(t, pc, make([]byte, 4000))
	}
	if used := pc.core.store.Log.Tail() - batch.LSN(); used < 9*16<<10 {
		t.Fatalf("the batch has only %d bytes", used)
	}
	id, err := pc.GenerateID()
	if err != nil {
		t.Fatal(err)
	}
	closeInBatch(t, pc, batch)
	var acked []PageID
	for n := range 3 {
		pc = openTest(t, "/store", o)
		if next, err := pc.GenerateID(); err != nil || next <= id {
			t.Errorf("id %d after id %d, %v", next, id, err)
		} else {
			id = next
		}
		for i, pid := range acked {
			if p := get1(t, pc, pid); string(p.Value) != fmt.Sprint("acknowledged ", i) {
				t.Errorf("page %d is %v %q, want %d", pid, p.Kind, p.Value, i)
			}
		}
		if p := get1(t, pc, first); string(p.Value) != "before" {
			t.Errorf("page %d is %v %q", first, p.Kind, p.Value)
		}
		pid, lsn := allocate(t, pc, fmt.Append(nil, "acknowledged ", n))
		if want := first + 1 + PageID(n); pid != want {
			t.Errorf("allocated page %d, want %d", pid, want)
		}
		acked = append(acked, pid)
		if p := get1(t, pc, pid+1); p.Kind != KindUnallocated {
			t.Errorf("page %d is %v, want unallocated", pid+1, p.Kind)
		}
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		next := d.Crash(uint64(n))
		_ = pc.Close()
		d, o.seam.FS = next, next
	}
}

// GenerateID returns no id once Close has ended: Close notes the first id of the next opening. Here Close runs while
// GenerateID writes a note of its own.
func TestGenerateIDDuringClose(t *testing.T) {
	d := simdisk.New(2, simdisk.Options{})
	pc := openSim(t, d)
	_, lsn := allocate(t, pc, nil)
	flushTest(t, pc)
	closing := func(uint64) (LSN, error) { // GenerateID writes its note
		closeTest(t, pc)
		return lsn, nil
	}
	pc.ids.Start(idgen.Config{Next: pc.ids.Next(), Limit: pc.ids.Next(), Interval: pc.core.opts.IDPersistInterval,
		Closed: &pc.core.closed, Write: closing, MakeDurable: pc.core.store.Log.MakeDurable})
	if id, err := pc.GenerateID(); !errors.Is(err, ErrClosed) || id != 0 {
		t.Errorf("id %d from a store that was closed meanwhile: %v", id, err)
	}
	closeTest(t, openSim(t, d))
}
