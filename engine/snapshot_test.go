package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// A store writes a snapshot in the background every SnapshotEvery messages. A temporary store writes none.
func TestSnapshotEvery(t *testing.T) {
	for _, temporary := range []bool{false, true} {
		pc := enginetest.Open(t, t.TempDir(), &engine.Options{SnapshotEvery: 100, Temporary: temporary})
		enginetest.Busy(t, pc, 1000, 1)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for !temporary && pc.Stats().Snapshots == 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if pc.Stats().Snapshots > 0 == temporary {
			t.Errorf("temporary %v: %d snapshots", temporary, pc.Stats().Snapshots)
		}
		enginetest.Close(t, pc)
	}
}

// If a snapshot cannot be written, no part of it is left, and the store works as before.
func TestFailedSnapshotLeavesNothing(t *testing.T) {
	for _, kind := range []simdisk.OpKind{simdisk.OpSync, simdisk.OpRename, simdisk.OpSyncDir, simdisk.OpWrite} {
		d := simdisk.New(5, simdisk.Options{})
		o := enginetest.SimOptions(d)
		pc := enginetest.Open(t, "/store", o)
		enginetest.Busy(t, pc, 100, 1)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		d.FailFrom(kind, 1, errors.New("planted"))
		if err := pc.Snapshot(); err == nil || !strings.Contains(err.Error(), "planted") {
			t.Errorf("a failing %v: error %v, want the planted one", kind, err)
		}
		d.SetFault(nil)
		if kind != simdisk.OpSyncDir && len(enginetest.SnapshotFiles(t, d, "/store")) > 0 {
			t.Errorf("a failing %v left %v", kind, enginetest.SnapshotFiles(t, d, "/store"))
		}
		enginetest.Busy(t, pc, 100, 2)
		if err := pc.Snapshot(); err != nil {
			t.Errorf("snapshot after a failing %v: %v", kind, err)
		}
		want := enginetest.Contents(t, pc)
		enginetest.Close(t, pc)
		pc = enginetest.Open(t, "/store", o)
		if enginetest.Contents(t, pc) != want {
			t.Errorf("after a failing %v the contents differ", kind)
		}
		enginetest.Close(t, pc)
	}
}

// After a clean close, Open notices lost segments, segment headers, or a lost end of the file, although it does not
// read the log. A read notices corruption within a segment. O7. Proves rules 10 and 12.
func TestCorruptLogBehindSnapshot(t *testing.T) {
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4}
	pc := enginetest.Open(t, "/store", enginetest.WithSeam(o, seam.Options{Eager: true, FS: d}))
	for round := range uint64(5) {
		enginetest.Busy(t, pc, 300, round)
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		enginetest.CleanAll(t, pc)
	}
	var bases = map[format.SegmentID]bool{}
	for _, g := range pc.Segments() {
		bases[format.SegmentID(g.Slot)] = g.LiveBytes > 0
	}
	want := enginetest.Contents(t, pc)
	enginetest.Close(t, pc)
	log := d.ReadDurable("/store/log")
	for id, live := range bases {
		wipes := map[string][]byte{"zeroed": make([]byte, 16<<10), "header": bytes.Repeat([]byte{0xa5}, 64)}
		for what, wipe := range wipes {
			if !live {
				continue
			}
			hurt := d.Copy()
			b := bytes.Clone(log)
			copy(b[id.Offset(16<<10):], wipe)
			hurt.WriteFile("/store/log", b)
			o := *o
			enginetest.WithSeam(&o, seam.Options{Eager: true, FS: hurt})
			if _, err := engine.Open("/store", engine.Bytes{}, &o); !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("%v %s: error %v, want ErrCorrupt", id, what, err)
			}
		}
	}
	for n := 0; n < len(log); n += 4096 {
		hurt := d.Copy()
		hurt.WriteFile("/store/log", log[:n])
		o := *o
		enginetest.WithSeam(&o, seam.Options{Eager: true, FS: hurt})
		pc, err := engine.Open("/store", engine.Bytes{}, &o)
		if err != nil {
			if !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("log cut to %d bytes: error %v, want ErrCorrupt", n, err)
			}
			continue
		}
		tx := enginetest.Begin(t, pc)
		corrupt := false
		for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc); pid++ {
			p, err := pc.Get(tx, pid)
			line := fmt.Sprintf("%d %v %x\n", pid, p.Kind == engine.KindMaterialized, p.Value)
			corrupt = corrupt || err != nil
			right := err == nil && strings.Contains("\n"+want, "\n"+line)
			if !right && !errors.Is(err, engine.ErrCorrupt) {
				t.Errorf("log cut to %d bytes: page %d is wrong, error %v", n, pid, err)
			}
		}
		tx.End()
		if !corrupt && n < int(bytesUsed(bases)) {
			t.Logf("log cut to %d bytes: nothing was lost", n)
		}
		if err := pc.Close(); err != nil {
			t.Errorf("log cut to %d bytes: close: %v", n, err)
		}
	}
}

// bytesUsed returns the end of the last segment with live data.
func bytesUsed(live map[format.SegmentID]bool) (end int64) {
	for id, l := range live {
		if l {
			end = max(end, int64(id+1)*16<<10)
		}
	}
	return end
}
