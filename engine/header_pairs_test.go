package engine_test

import (
	"testing"

	"pagecache/engine/internal/enginetest"
	"pagecache/segments/format"
)

// All headers of one generation show the same timeline, also those of slots that an opening marks as free before it
// shows its own: where a header cannot be read, recovery finds the timeline by the generation. Proves rule 14.
func TestEachGenerationHasOneTimeline(t *testing.T) {
	d, pids := goneSlots(t)
	for opening := range 3 {
		pc, err := eagerStore(t, d)
		if err != nil {
			t.Fatal(err)
		}
		log := d.ReadDurable(logFile)
		timelines := map[format.Generation]format.Timeline{}
		for slot := range format.SegmentID(len(log) / crashSegment) {
			h, err := format.DecodeSegmentHeader(log[slot.Offset(crashSegment):], slot, crashSegment)
			if err != nil {
				continue
			}
			if l, found := timelines[h.Generation]; found && l != h.Timeline {
				t.Errorf("opening %d, slot %v, %v: generation %v has timelines %v and %v", opening, slot, h.State,
					h.Generation, l, h.Timeline)
			}
			timelines[h.Generation] = h.Timeline
		}
		enginetest.Churn(t, pc, pids, 2)
		if _, err := pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, pc)
		next := d.Copy()
		if err := pc.Close(); err != nil {
			t.Fatal(err)
		}
		d = next
	}
}
