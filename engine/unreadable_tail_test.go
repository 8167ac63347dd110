package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
)

// A block of the log's last segment cannot be read while the store is opened, again and again, and written to. Once the
// disk returns the block again, everything in it is there: an opening never gives up the only copy of what it could not
// read. Proves rules 1 and 10; trap 30.
func TestTailThatCannotBeReadIsKept(t *testing.T) {
	t.Parallel()
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

// midBlock returns a store that was killed with its log's last segment, which is in the slot, partly covered by a
// snapshot, and that ends inside a block: a stable page is followed by a batch without an end. pages are the stable
// pages, some of them in the block at offset 4096 of the slot.
func midBlock(t *testing.T) (d *simdisk.Disk, tail recovery.Segment, pages map[engine.PageID][]byte) {
	t.Helper()
	d = simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pages = pagesOf(t, pc, 3)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	pid, lsn := enginetest.Allocate(t, pc, []byte("stable"))
	pages[pid] = []byte("stable")
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	enginetest.AllocateMany(t, pc, 2, 100)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	killed := d.Copy()
	if err := errors.Join(b.Seal(), pc.Close()); err != nil {
		t.Fatal(err)
	}
	log, err := enginetest.ScanLog(killed, "/store")
	if err != nil || log.End == log.Tip || log.End%4096 == 0 {
		t.Fatalf("%+v, %v", log, err)
	}
	return killed, log.Segments[len(log.Segments)-1], pages
}

// A block of the log's last segment cannot be read, and the log ends inside another block, behind which the disk takes
// no write. Nothing is given up: once the disk returns the block again, its pages are there. Check and Salvage agree.
// Proves rules 1 and 10; trap 30.
func TestTailThatEndsInsideABlockIsKept(t *testing.T) {
	for _, killed := range []bool{false, true} {
		d, tail, pages := midBlock(t)
		off := int64(tail.Slot) * crashSegment
		lost := map[engine.PageID]bool{}
		for opening := range 5 {
			readable := opening == 4
			d.SetFault(func(o simdisk.Op) error {
				if o.Kind == simdisk.OpDeviceWrite && o.Off < off+crashSegment && o.Off+int64(o.Len) > off+4096 {
					return syscall.EIO
				}
				return nil
			})
			if d.SetUnreadable(logFile, off+4096, 4096); readable {
				d.SetUnreadable(logFile, 0, 0)
			}
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
			if err != nil {
				t.Fatalf("killed %v, opening %d: %v", killed, opening, err)
			}
			tx := enginetest.Begin(t, pc)
			for pid, want := range pages {
				p, err := pc.Get(tx, pid)
				if errors.Is(err, engine.ErrCorrupt) && !readable {
					lost[pid] = true
				} else if err != nil || !bytes.Equal(p.Value, want) {
					t.Errorf("killed %v, opening %d, page %d: %s, %v", killed, opening, pid,
						enginetest.Brief(p.Value), err)
				}
			}
			tx.End()
			v := fmt.Appendf(nil, "of opening %d", opening)
			pid, _ := enginetest.Allocate(t, pc, v)
			pages[pid] = v
			enginetest.Flush(t, pc)
			next := d.Copy()
			if err := pc.Close(); err != nil {
				t.Errorf("killed %v, opening %d: %v", killed, opening, err)
			}
			if d = d.Copy(); killed {
				d = next
			}
		}
		if len(lost) != 3 {
			t.Errorf("%d pages were in the block", len(lost))
		}
		if err := enginetest.Problems("/store", enginetest.SimOptions(d)); err != nil {
			t.Errorf("killed %v: %v", killed, err)
		}
		r, err := engine.Salvage("/store", "/saved", enginetest.SimOptions(d), nil)
		if err != nil || len(r.Losses) > 0 {
			t.Errorf("killed %v: %+v, %v", killed, r, err)
		}
	}
}

// A message of the log's last segment is corrupt, below the snapshot, where an opening does not verify the log. The
// opening that writes the segment anew does not give the message a checksum that matches: its page is reported, after a
// clean close and a crash. Proves rule 12.
func TestCorruptMessageOfTailStaysCorrupt(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pages := pagesOf(t, pc, 3)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	enginetest.Allocate(t, pc, []byte("above the snapshot"))
	enginetest.Flush(t, pc)
	killed := d.Copy()
	enginetest.Close(t, pc)
	for how, d := range map[string]*simdisk.Disk{"closed": d, "killed": killed} {
		for corrupt, value := range pages {
			d := d.Copy()
			d.FlipBit(logFile, int64(bytes.Index(d.ReadDurable(logFile), value)), 3)
			pc := enginetest.OpenSim(t, d)
			enginetest.NoCheck(t, pc)
			tx := enginetest.Begin(t, pc)
			for pid, want := range pages {
				p, err := pc.Get(tx, pid)
				reported := errors.Is(err, engine.ErrCorrupt)
				if reported != (pid == corrupt) || !reported && !bytes.Equal(p.Value, want) {
					t.Errorf("%s, page %d is corrupt: page %d is %s, %v", how, corrupt, pid,
						enginetest.Brief(p.Value), err)
				}
			}
			tx.End()
			if err := pc.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// The segment of such a tail is cleaned and recycled as any other, once its block can be read. Proves rule 4.
func TestKeptTailIsCleaned(t *testing.T) {
	d, tail, pages := midBlock(t)
	d.SetUnreadable(logFile, int64(tail.Slot)*crashSegment+4096, 4096)
	pc, err := eagerStore(t, d)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Allocate(t, pc, []byte("more"))
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	d.SetUnreadable(logFile, 0, 0)
	if pc, err = eagerStore(t, d); err != nil {
		t.Fatal(err)
	}
	pids := enginetest.AllocateMany(t, pc, 5, 2000)
	for range 3 {
		enginetest.Churn(t, pc, pids, 1)
		enginetest.CleanAll(t, pc)
	}
	for _, s := range pc.Segments() {
		if s.State != "free" && s.Base == tail.Base {
			t.Errorf("the segment is still there: %+v", s)
		}
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkPages(t, d, pages); err != nil {
		t.Error(err)
	}
	if pc, err = eagerStore(t, d); err != nil {
		t.Fatal(err)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	held, err := d.OpenDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	if sb, err := logstore.ReadSuper(held); err != nil || len(sb.Ends.Ends()) > 0 {
		t.Errorf("the superblock still lists the segment's end: %v, %v", sb.Ends.Ends(), err)
	}
}

// The power is cut at any moment of an opening that keeps its tail. Nothing is given up. Proves rules 1 and 10.
func TestKeptTailSurvivesCuts(t *testing.T) {
	t.Parallel()
	d, tail, pages := midBlock(t)
	bad := func(d *simdisk.Disk) { d.SetUnreadable(logFile, int64(tail.Slot)*crashSegment+4096, 4096) }
	open := func(d *simdisk.Disk) {
		bad(d)
		if pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); err == nil {
			enginetest.Allocate(t, pc, []byte("more"))
			_ = pc.Close()
		}
	}
	whole := d.Copy()
	open(whole)
	for n := 1; n <= whole.Ops(); n++ {
		cut := d.Copy()
		cut.CrashAfter(n)
		bad(cut)
		if pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(cut)); err == nil {
			_ = pc.Close()
		}
		cut = cut.Crash(uint64(n))
		open(cut)
		cut = cut.Copy()
		cut.SetUnreadable(logFile, 0, 0)
		if err := checkPages(t, cut, pages); err != nil {
			t.Fatalf("cut at operation %d: %v", n, err)
		}
	}
}
