package engine

import (
	"runtime"
	"testing"

	"pagecache/internal/simdisk"
)

// Records that a crash cut off, in a torn tail or in a batch without an end, cannot be read from a ReadOnly log,
// although they are on the disk.
func TestReadOnlyLogHidesUnstableRecords(t *testing.T) {
	for _, batch := range []bool{false, true} {
		hidden := 0
		for seed := range uint64(20) {
			d := simdisk.New(seed, simdisk.Options{})
			l := openSimLog(t, d)
			type record struct {
				lsn LSN
				ptr DiskPtr
			}
			var all []record
			write := func(n int) {
				for range n {
					lsn, ptr, err := l.Write(make([]byte, 700))
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, record{lsn, ptr})
				}
			}
			write(5)
			if _, err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if batch {
				open, err := l.PinLog()
				if err != nil {
					t.Fatal(err)
				}
				defer runtime.KeepAlive(open)
				write(10)
				if err := l.core.store.Log.MakeDurable(all[len(all)-1].lsn); err != nil {
					t.Fatal(err)
				}
			} else {
				write(10)
				d.CrashAfter(1)
				_, _ = l.Flush() // torn
			}
			next := d.Crash(seed)
			_ = l.Close()
			o := simOptions(next)
			o.ReadOnly = true
			l, err := OpenLog("/store", o)
			if err != nil {
				t.Fatal(err)
			}
			end := l.StableLSN() + 1
			for i, r := range all {
				b, err := l.Read(r.lsn, r.ptr)
				if r.lsn < end && (err != nil || len(b) != 700) || r.lsn >= end && (err == nil || i < 5) {
					t.Errorf("seed %d: LSN %d, the log ends at %d: %d bytes, error %v", seed, r.lsn, end, len(b), err)
				}
				if _, err := l.core.store.Read(r.lsn, r.ptr); r.lsn >= end && err == nil {
					hidden++
				}
			}
			closeTest(t, l)
		}
		if hidden == 0 {
			t.Errorf("batch %v: no record beyond the end was on the disk", batch)
		}
	}
}
