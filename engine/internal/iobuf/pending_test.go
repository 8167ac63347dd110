package iobuf

import (
	"testing"
	"time"

	"pagecache/segments/format"
)

// The oldest open batch and the first reservation that is not committed are named, with their ages, which grow until
// they end.
func TestOldestBatchAndReservation(t *testing.T) {
	for _, index := range []bool{false, true} {
		r := newRig(t, setup{index: index})
		if p, n := r.OldestBatch(); p != (Pending{}) || n != 0 || r.OldestReservation() != (Pending{}) {
			t.Errorf("pending in an empty log: %v, %d, %v", p, n, r.OldestReservation())
		}
		first, err := r.BeginBatch()
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.BeginBatch()
		if err != nil {
			t.Fatal(err)
		}
		for range 200 { // several segments
			if _, err := r.put(format.KindData, 0, body(300, 1)); err != nil {
				t.Fatal(err)
			}
		}
		res, err := r.Reserve(format.KindData, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.put(format.KindData, 0, nil); err != nil {
			t.Fatal(err)
		}
		r.OldestReservation() // its age is counted from here
		time.Sleep(20 * time.Millisecond)
		if p, n := r.OldestBatch(); p.LSN != first.LSN() || p.Age < 20*time.Millisecond || n != 2 {
			t.Errorf("oldest batch %v of %d, want that at LSN %d", p, n, first.LSN())
		}
		if p := r.OldestReservation(); p.LSN != res.LSN() || p.Age < 20*time.Millisecond {
			t.Errorf("oldest reservation %v, want that at LSN %d", p, res.LSN())
		}
		if _, err := first.End(); err != nil {
			t.Fatal(err)
		}
		if p, n := r.OldestBatch(); p.LSN != second.LSN() || n != 1 {
			t.Errorf("oldest batch %v of %d, want that at LSN %d", p, n, second.LSN())
		}
		res.Complete()
		if p := r.OldestReservation(); p != (Pending{}) {
			t.Errorf("pending after the last reservation has ended: %v", p)
		}
		if _, err := second.End(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
