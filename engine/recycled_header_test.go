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

// The header of a recycled slot says that the log was stable beyond the segment that lay there, and up to the message
// by which that left, also if a batch became stable only just before: a scan after a crash goes by that (rules 4, 10
// and 14). The new copies of the segment's pages lie below the message. A slot that lost the writes of that part of the
// log would otherwise cost acknowledged pages silently (seed 279 of TestSlotStopsTakingWrites; trap 26).
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
	left := leaves(enginetest.TakeImage(d, "/store"), segment)
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
		if at, ok := left[h.Ledger.Recycled]; !ok || h.Stable < at {
			t.Errorf("the %dth segment left at LSN %d, found %v; the header of slot %d says stable up to %d",
				h.Ledger.Recycled, at, ok, slot, h.Stable)
		}
	}
	if recycled == 0 {
		t.Error("no segment was recycled")
	}
}

// leaves returns the LSNs of the messages by which segments leave, by the number of those that have left then.
func leaves(im enginetest.Image, segment int) map[uint64]engine.LSN {
	at := map[uint64]engine.LSN{}
	super, _ := format.DecodeSuperblock([]byte(im[enginetest.SuperName]))
	for _, p := range im.Places(segment) {
		if p.File != enginetest.LogName || p.Len == 0 {
			continue
		}
		id, b := format.SegmentID(p.Off/segment), []byte(im.Part(p).Bytes)
		h, err := format.DecodeSegmentHeader(b, id, segment)
		seed := format.MakeSeed(super.Store, h.Generation, id)
		for pos := format.SegmentStart; err == nil && h.State == format.SegmentStateInUse; {
			var m format.Header
			var body []byte
			lsn := h.Base + engine.LSN(pos)
			if m, body, err = format.DecodeMessage(b[min(pos, len(b)):], lsn, seed); err == nil {
				if l, e := format.DecodeLeave(body, lsn); m.Kind == format.KindLeave && e == nil {
					at[l.Recycled] = lsn
				}
				pos += m.Step()
			}
		}
	}
	return at
}
