package engine_test

import (
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// fillLastSegment fills the full disk with messages without contents, and closes the store. It returns the disk after a
// power cut in the middle of the last segment that may be used.
func (c *crowd) fillLastSegment() (d *simdisk.Disk) {
	s := engine.StoreOf(c.PageCache)
	for half := 0; ; {
		r, err := s.Log.ReserveUrgent(format.KindFree, 1, 0)
		if logstore.IsNoSpace(err) {
			break
		}
		if err != nil {
			c.t.Fatal(err)
		}
		r.Abort()
		if _, used, _ := s.Space.Totals(); used > half && s.Log.Tail()%crowdSegment > crowdSegment/2 {
			if half = used; used < crowdSegments-2 {
				continue
			}
			enginetest.Flush(c.t, c.PageCache)
			d = c.d.Copy().Crash(1) // the last copy counts
		}
	}
	c.close()
	return d
}

func (c *crowd) reopen(d *simdisk.Disk) (*engine.PageCache[[]byte], error) {
	d.SetCapacity(crowdSegments*crowdSegment + 8<<10)
	o := enginetest.SimOptions(d)
	o.SegmentSize = crowdSegment
	return engine.Open("/store", engine.Bytes{}, o)
}

// After a crash in the last segment that may be used, the store can be opened: there is room to move the tail of the
// log. A crash at any operation of that Open changes nothing about it. Proves rules 1 and 9.
func TestCrashInLastSegmentOfFullDisk(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, crowdConfig{live: 90})
	d := c.fillLastSegment()
	for at := 1; ; at++ {
		for seed := range uint64(8) {
			again := d.Copy()
			again.CrashAfter(at)
			pc, err := c.reopen(again)
			if err == nil {
				_ = pc.Close()
			}
			done := !again.Crashed()
			next := again.Crash(seed)
			if pc, err = c.reopen(next); err != nil {
				t.Fatalf("crash at %d, seed %d: %v", at, seed, err)
			}
			if seed == 0 {
				for _, pid := range c.pids {
					if p := enginetest.Get(t, pc, pid); len(p.Value) != crowdPage {
						t.Fatalf("crash at %d: page %d has %d bytes, want %d", at, pid, len(p.Value), crowdPage)
					}
				}
			}
			_ = pc.Close() // which may fail for lack of space
			enginetest.Check(t, "/store", enginetest.SimOptions(next))
			if done {
				return
			}
		}
	}
}

// The same holds for a standalone log, and for a store that never recycles. Proves rules 1 and 9.
func TestCrashInLastSegmentOfFullLinearLog(t *testing.T) {
	const segment = 16 << 10
	type opened struct {
		*logstore.Store
		write func() error
		close func()
	}
	for _, log := range []bool{true, false} {
		d := simdisk.New(3, simdisk.Options{})
		capacity := int64(10*segment + segment/2)
		if log { // it reserves two segments more
			capacity += 2 * segment
		}
		open := func(d *simdisk.Disk) opened {
			o := enginetest.SimOptions(d)
			o.SegmentMode = engine.SegmentModeLinear
			d.SetCapacity(capacity)
			if log {
				l := enginetest.OpenLog(t, "/store", o)
				write := func() error { _, _, err := l.Write(make([]byte, 1000)); return err }
				return opened{engine.StoreOfLog(l), write, func() { enginetest.Close(t, l) }}
			}
			pc := enginetest.Open(t, "/store", o)
			c := crowd{PageCache: pc, t: t}
			write := func() error { _, err := c.allocate(1000); return err }
			return opened{engine.StoreOf(pc), write, c.close}
		}
		s := open(d)
		most := 0
		var err error
		for err == nil {
			_, used, _ := s.Space.Totals()
			if err = s.write(); used <= most || s.Log.Tail()%segment <= segment/2 {
				continue
			}
			most = used // the last segment that may be used comes last
			if err := s.Log.Flush(); err != nil {
				t.Fatal(err)
			}
			crashed := open(d.Copy().Crash(uint64(used)))
			if _, n, _ := crashed.Space.Totals(); n != used {
				t.Errorf("log %v: %d segments in use after the crash, want %d", log, n, used)
			}
			crashed.close()
		}
		if !logstore.IsNoSpace(err) || most < 8 {
			t.Errorf("log %v: %v after %d segments", log, err, most)
		}
		s.close()
	}
}
