package engine_test

import (
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A log that was killed, with nothing recycled, and whose file was cut between two slots: it is refused, or has all
// records. If a store that was closed cleanly is cut where nothing was, it opens, also after a kill. Proves rule 13.
func TestFileCutBetweenSlots(t *testing.T) {
	t.Parallel()
	const segment, records = 16 << 10, 100
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	for range records {
		mustWrite(t, l, 100)
		if _, err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	killed := d.Copy().Crash(1)
	enginetest.Close(t, l)
	refused, opened := 0, 0
	for _, store := range []*simdisk.Disk{killed, d} {
		whole := store.ReadDurable(logFile)
		for n := range len(whole) / segment {
			c := store.Copy()
			c.WriteFile(logFile, whole[:n*segment])
			for range 2 {
				l, err := engine.OpenLog("/store", enginetest.SimOptions(c))
				if errors.Is(err, engine.ErrCorrupt) {
					refused++
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				opened++
				if _, bodies := enginetest.Records(t, l, 0); len(bodies) != records {
					t.Errorf("cut after %d of %d slots: %d records of %d", n, len(whole)/segment, len(bodies), records)
				}
				next := c.Crash(uint64(n))
				_ = l.Close()
				c = next
			}
		}
	}
	if refused == 0 || opened == 0 {
		t.Errorf("%d refused, %d opened", refused, opened)
	}
}
