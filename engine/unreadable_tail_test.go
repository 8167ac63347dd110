package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// A block of the log's last segment cannot be read while the store is opened, again and again, and written to. Once the
// disk returns the block again, everything in it is there: an opening never gives up the only copy of what it could not
// read. Proves rules 1 and 10; trap 30.
func TestTailThatCannotBeReadIsKept(t *testing.T) {
	const block = 4096
	tried := 0
	for seed := range uint64(12) {
		a := newAged(t, seed, true)
		log, err := enginetest.ScanLog(a.disk, "/store")
		if err != nil {
			t.Fatal(err)
		}
		tail := log.Segments[len(log.Segments)-1]
		for at := 0; at < tail.Used && tail.Used < a.opts.SegmentSize; at += block {
			for _, killed := range []bool{false, true} {
				tried++
				d, want := a.disk.Copy(), maps.Clone(a.now)
				for opening := range 4 {
					d.SetUnreadable(logFile, int64(tail.Slot.Offset(a.opts.SegmentSize))+int64(at), block)
					if opening == 3 {
						d.SetUnreadable(logFile, 0, 0)
					}
					pc, err := engine.Open("/store", engine.Bytes{}, a.options(d))
					if err != nil {
						t.Fatalf("seed %d, block at %d, killed %v, opening %d: %v", seed, at, killed, opening, err)
					}
					tx := enginetest.Begin(t, pc)
					v := fmt.Appendf(nil, "of opening %d", opening)
					pid, _, err := pc.Allocate(tx, v)
					tx.End()
					want[pid] = string(v)
					if _, e := pc.Flush(); err != nil || e != nil {
						t.Fatal(err, e)
					}
					if opening == 3 {
						err = a.shownBeside(t, pc, want, nil)
					}
					next := d.Copy()
					if e := pc.Close(); errors.Join(err, e) != nil {
						t.Errorf("seed %d, block at %d, killed %v, opening %d: %v", seed, at, killed, opening,
							errors.Join(err, e))
					}
					if killed {
						d = next
					} else {
						d = d.Copy()
					}
				}
				if err := enginetest.Problems("/store", a.options(d)); err != nil {
					t.Errorf("seed %d, block at %d, killed %v: %v", seed, at, killed, err)
				}
			}
		}
	}
	if tried < 8 {
		t.Errorf("%d blocks", tried)
	}
}
