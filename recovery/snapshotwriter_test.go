package recovery

import (
	"errors"
	"testing"

	"pagecache/segments/format"
)

// written counts the blocks that a SnapshotWriter writes.
type written int

func (w *written) WriteAt(b []byte, _ int64) (int, error) {
	*w++
	return len(b), nil
}

// A page without messages is not added to a snapshot, unless it was never written: the snapshot fails with an error,
// and its header is not written. Proves rule 12.
func TestSnapshotRefusesPageWithoutMessages(t *testing.T) {
	for kind := format.SnapshotKindNone; kind <= format.SnapshotKindCounter; kind++ {
		var f written
		w := NewSnapshotWriter(&f, format.SnapshotHeader{Number: 1, NextPage: 1, SegmentSize: testSize})
		w.Add(Page{Kind: kind, LSN: 4096})
		never := kind == format.SnapshotKindNone
		if err := w.Err(); never != (err == nil) || !never && !errors.Is(err, errNoRefs) {
			t.Errorf("kind %v: error %v", kind, err)
		}
		if err := w.Finish(nil); never != (err == nil) || never != (f > 0) {
			t.Errorf("kind %v: Finish returned %v, %d writes", kind, err, f)
		}
	}
}
