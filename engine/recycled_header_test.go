package engine_test

import (
	"errors"
	"io"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// The header of a recycled slot says that the log was stable beyond the segment that lay there, also if a batch became
// stable only just before: a scan after a crash goes by that (rules 4 and 10).
func TestRecycledHeaderProvesStability(t *testing.T) {
	const segment = 16 << 10
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pids := enginetest.AllocateMany(t, pc, 10, 1000)
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		tx := enginetest.Begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, 1400)))
		}
		tx.End()
	}
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	enginetest.Flush(t, pc)
	bases := map[int]engine.LSN{}
	for _, s := range pc.Segments() {
		bases[s.Slot] = s.Base
	}
	for range 4 {
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := d.Open("/store/"+enginetest.LogName, vfs.FlagRead)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	recycled := 0
	for slot, base := range bases {
		head := make([]byte, segment)
		if _, err := f.ReadAt(head, int64(slot)*segment); errors.Is(err, io.EOF) {
			continue // the file has become shorter
		} else if err != nil {
			t.Fatal(err)
		}
		h, err := format.DecodeSegmentHeader(head, format.SegmentID(slot), segment)
		if err != nil || h.State != format.SegmentStateFree {
			continue
		}
		recycled++
		if h.Stable < base+segment {
			t.Errorf("slot %d held the segment from LSN %d, and its header says stable up to %d", slot, base, h.Stable)
		}
	}
	if recycled == 0 {
		t.Error("no segment was recycled")
	}
}
