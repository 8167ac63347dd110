package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

const logFile = "/store/log"

// commits makes a store with n pages, each durable before the next is written, and returns the disk after a kill.
func commits(t *testing.T, n int) *simdisk.Disk {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	for i := range n {
		enginetest.Allocate(t, pc, fmt.Appendf(nil, "commit %d", i))
		enginetest.Flush(t, pc)
	}
	killed := d.Copy()
	enginetest.Close(t, pc)
	return killed
}

// committed returns how many of the pages of commits a store shows. They must be the first ones.
func committed(t *testing.T, pc *engine.PageCache[[]byte]) (n int) {
	t.Helper()
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc); pid++ {
		if v := enginetest.Get(t, pc, pid).Value; string(v) != fmt.Sprintf("commit %d", n) {
			t.Fatalf("page %d holds %q, want commit %d", pid, v, n)
		}
		n++
	}
	return n
}

// A store that was never closed cleanly and whose log is cut to nothing, or inside a segment, is corrupt, and not an
// empty store or a shorter one. After another opening, so is one that is cut anywhere below the end that it found.
// Proves rule 13.
func TestCutLogIsCorruption(t *testing.T) {
	t.Parallel()
	const n, block, segment = 100, 4096, 16 << 10
	first := commits(t, n)
	second := first.Copy()
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(second))
	if err != nil {
		t.Fatal(err)
	}
	second = second.Copy() // killed again
	_ = pc.Close()
	for life, d := range []*simdisk.Disk{first, second} {
		log := d.ReadDurable(logFile)
		cut := 0
		for size := 0; size < len(log); size += block {
			c := d.Copy()
			c.WriteFile(logFile, log[:size])
			before := fmt.Sprint(enginetest.Files(t, c))
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(c))
			if err != nil {
				ce := (*engine.CorruptError)(nil)
				if !errors.As(err, &ce) || ce.File != logFile {
					t.Fatalf("life %d, log cut to %d bytes: %v, want a CorruptError about the log", life, size, err)
				}
				if fmt.Sprint(enginetest.Files(t, c)) != before {
					t.Errorf("life %d, log cut to %d bytes: the refused opening changed files", life, size)
				}
				cut++
				continue
			}
			shown := committed(t, pc)
			_ = pc.Close()
			switch {
			case shown == n: // only slots that hold nothing are gone
			case size == 0 || life > 0:
				t.Errorf("life %d, log cut to %d bytes: %d commits are shown, and no error", life, size, shown)
			case size%segment != 0 && size < len(log)/segment*segment:
				t.Errorf("log cut to %d bytes, inside a segment: %d commits are shown, and no error", size, shown)
			}
		}
		t.Logf("life %d: of %d cuts, %d were reported", life, len(log)/block, cut)
	}
}

// The end of the log that an opening has found is a floor for all later ones, although what proved it is lost: nothing
// of the last segment is left. The error names the place where the log ends now. Proves rule 13.
func TestLogNeverEndsBelowItsFloor(t *testing.T) {
	d := commits(t, 10)
	end, _, err := enginetest.LogEnd(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	killed := d.Copy()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(killed.ReadDurable(superFile))
	l := sb.Lineage()
	drawn := len(l) == 2 && l[0].Timeline != l[1].Timeline
	if err != nil || sb.Floor != end || sb.Branch != end || !drawn {
		t.Fatalf("superblock %+v, error %v, want the floor %d", sb, err, end)
	}
	log := killed.ReadDurable(logFile)
	size := int(sb.SegmentSize)
	kept := 0
	for slot := range len(log) / size { // slots that are free say how far the log was stable, too
		h, err := format.DecodeSegmentHeader(log[slot*size:], format.SegmentID(slot), size)
		if err == nil && h.State == format.SegmentStateInUse && h.Base+format.LSN(size) <= end {
			kept++
			continue
		}
		clear(log[slot*size : (slot+1)*size])
	}
	if kept != int(end)/size {
		t.Fatalf("%d segments are left", kept)
	}
	killed.WriteFile(logFile, log)
	for _, readOnly := range []bool{true, false} {
		o := enginetest.SimOptions(killed)
		o.ReadOnly = readOnly
		_, err = engine.Open("/store", engine.Bytes{}, o)
		ce := (*engine.CorruptError)(nil)
		if want := fmt.Sprintf("known durable: LSN %d", end-1); !errors.As(err, &ce) || ce.File != logFile ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("ReadOnly %v: error %v, want a CorruptError with the floor %d", readOnly, err, end)
		}
		if ce != nil {
			if lsn, ok := ce.Place.LSN(); !ok || lsn >= end {
				t.Errorf("ReadOnly %v: LSN %v, known %v, want one below %d", readOnly, lsn, ok, end)
			}
		}
	}
}

// A new store opens after a kill at any moment before its first commit, as an empty one; openings and closings of an
// empty store leave it empty. Proves rules 13 and 16.
func TestEmptyStoreHasNoFloor(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	for range 3 {
		pc := enginetest.OpenSim(t, d)
		if n := committed(t, pc); n > 0 {
			t.Fatalf("%d pages in an empty store", n)
		}
		killed := d.Copy()
		enginetest.Close(t, pc)
		enginetest.Close(t, enginetest.OpenSim(t, killed))
	}
	for at := 1; ; at++ { // in the first commit
		c := d.Copy()
		pc := enginetest.OpenSim(t, c)
		enginetest.NoCheck(t, pc)
		tx := enginetest.Begin(t, pc)
		c.CrashAfter(at)
		_, ptr, err := pc.Allocate(tx, []byte("commit 0"))
		if err == nil {
			_, err = pc.MakeStable(ptr.LastLSN())
		}
		tx.End()
		crashed := c.Crashed()
		next := c.Crash(uint64(at))
		_ = pc.Close()
		pc = enginetest.OpenSim(t, next)
		if n := committed(t, pc); n > 1 || n < 1 && err == nil {
			t.Fatalf("crash at %d: %d commits, and the first returned %v", at, n, err)
		}
		enginetest.Close(t, pc)
		if !crashed {
			return
		}
	}
}
