package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

const segmentBytes = 16 << 10

// putSlot replaces a slot of the log on d by the one of another log, and returns false if they are the same.
func putSlot(d *simdisk.Disk, slot int, from []byte) bool {
	log := d.ReadDurable(logFile)
	at, end := slot*segmentBytes, (slot+1)*segmentBytes
	if len(log) < end || len(from) < end || bytes.Equal(log[at:end], from[at:end]) {
		return false
	}
	copy(log[at:], from[at:end])
	d.WriteFile(logFile, log)
	return true
}

// headerOf returns the header of a slot of a log, and false if it is not valid.
func headerOf(log []byte, slot int) (format.SegmentHeader, bool) {
	h, err := format.DecodeSegmentHeader(log[slot*segmentBytes:], format.SegmentID(slot), segmentBytes)
	return h, err == nil
}

// refused opens the standalone log or page store on d for reading and for writing, and checks that both are refused,
// with ErrCorrupt, and that Check finds a problem.
func refused(t *testing.T, d *simdisk.Disk, log bool, what string) error {
	t.Helper()
	var last error
	before := fmt.Sprint(enginetest.Files(t, d))
	for _, readOnly := range []bool{true, false} {
		o := enginetest.SimOptions(d)
		o.ReadOnly = readOnly
		var err error
		var s interface{ Close() error }
		if log {
			s, err = engine.OpenLog("/store", o)
		} else {
			s, err = engine.Open("/store", engine.Bytes{}, o)
		}
		if err == nil {
			_ = s.Close()
		}
		if !errors.Is(err, engine.ErrCorrupt) {
			t.Fatalf("%s, read only %v: %v, want ErrCorrupt", what, readOnly, err)
		}
		last = err
	}
	if fmt.Sprint(enginetest.Files(t, d)) != before {
		t.Errorf("%s: the refused opening changed files", what)
	}
	if problems := enginetest.Problems("/store", enginetest.SimOptions(d)); problems == nil {
		t.Errorf("%s: Check finds no problem", what)
	}
	return last
}

// records writes n records of 1000 bytes and makes them durable.
func records(t *testing.T, l *engine.Log, n int) (last engine.LSN) {
	t.Helper()
	for i := range n {
		lsn, _, err := l.Write(enginetest.Random(1000, uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		last = lsn
	}
	enginetest.Flush(t, l)
	return last
}

// One slot of a log holds what it did before it was dropped and used again, as if the disk had lost the writes since.
// The log is refused, after a clean close and after a kill. Before, the old segment and the one that was missing for it
// cancelled out. Proves rule 14, trap 26.
func TestStaleSlotOfLog(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	at := records(t, l, 60)
	old := d.ReadDurable(logFile)
	if err := l.DropBelow(at - 20000); err != nil {
		t.Fatal(err)
	}
	records(t, l, 120)
	killed := d.Copy()
	enginetest.Close(t, l)
	for what, d := range map[string]*simdisk.Disk{"closed": d, "killed": killed} {
		now := d.ReadDurable(logFile)
		stale := 0
		for slot := range len(old) / segmentBytes {
			hurt := d.Copy()
			before, valid := headerOf(old, slot)
			after, _ := headerOf(now, slot)
			if !valid || before.Identity() == after.Identity() || !putSlot(hurt, slot, old) {
				continue
			}
			stale++
			err := refused(t, hurt, true, fmt.Sprintf("%s, slot %d as it was before", what, slot))
			if ce := (*engine.CorruptError)(nil); errors.As(err, &ce) {
				if got, known := ce.Place.Slot(); !known || int(got) != slot {
					t.Errorf("%s, slot %d: the error names another place: %v", what, slot, err)
				}
			}
		}
		if stale < 2 {
			t.Errorf("%s: %d slots were used again", what, stale)
		}
	}
}

// The header of a slot, which the disk has lost, is missed, wherever the slot is. Only that of the newest segment
// may be lost with the last writes before a kill. Proves rule 14.
func TestLostHeaderIsMissed(t *testing.T) {
	t.Parallel()
	d := simdisk.New(2, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pids := enginetest.AllocateMany(t, pc, 30, 1000)
	enginetest.Churn(t, pc, pids, 3)
	enginetest.CleanAll(t, pc)
	enginetest.Churn(t, pc, pids, 3)
	enginetest.AllocateMany(t, pc, 15, 1000) // Close recycles segments that are empty
	enginetest.Flush(t, pc)
	enginetest.AllocateMany(t, pc, 1, 100) // it carries the durable end
	enginetest.Flush(t, pc)
	killed := d.Copy()
	enginetest.Close(t, pc)
	for what, d := range map[string]*simdisk.Disk{"closed": d, "killed": killed} {
		log, lost, newest := d.ReadDurable(logFile), 0, engine.LSN(0)
		for slot := range len(log) / segmentBytes {
			if h, valid := headerOf(log, slot); valid && h.State == format.SegmentStateInUse {
				newest = max(newest, h.Base)
			}
		}
		for slot := range len(log) / segmentBytes {
			h, valid := headerOf(log, slot)
			if !valid || h.State != format.SegmentStateInUse || what == "killed" && h.Base == newest {
				continue
			}
			for _, whole := range []bool{false, true} { // with the messages
				n := format.SegmentStart
				if whole {
					n = segmentBytes
				}
				hurt, b := d.Copy(), bytes.Clone(log)
				clear(b[slot*segmentBytes:][:n])
				hurt.WriteFile(logFile, b)
				refused(t, hurt, false, fmt.Sprintf("%s, header of slot %d lost, messages too: %v", what, slot, whole))
				lost++
			}
		}
		if lost < 6 {
			t.Errorf("%s: %d headers", what, lost)
		}
	}
}

// Beside another store's superblock, no log opens, however short it is: neither as that store nor as an empty one.
// Proves rule 14, trap 27.
func TestSuperblockOfAnotherStore(t *testing.T) {
	var disks [2]*simdisk.Disk
	for i := range disks {
		disks[i] = simdisk.New(uint64(i), simdisk.Options{})
		pc := enginetest.OpenSim(t, disks[i])
		enginetest.AllocateMany(t, pc, 3+2*i, 100)
		enginetest.Flush(t, pc)
		if i == 0 {
			disks[i] = disks[i].Copy() // killed
		}
		enginetest.Close(t, pc)
	}
	for i := range disks {
		d := disks[i].Copy()
		d.WriteFile(superFile, disks[1-i].ReadDurable(superFile))
		for _, name := range enginetest.SnapshotFiles(t, d, "/store") {
			if err := d.Remove("/store/" + name); err != nil {
				t.Fatal(err)
			}
		}
		err := refused(t, d, false, fmt.Sprint("superblock ", 1-i))
		if !strings.Contains(err.Error(), "another store") {
			t.Errorf("superblock %d: %v", 1-i, err)
		}
	}
}

// A store and its copy, both of which go on after the copy was made, cleanly or after a kill: each segment that one has
// written since, the tail included, is refused in the other. Proves rule 14.
func TestSegmentsOfCopyAreRefused(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		d := simdisk.New(3, simdisk.Options{})
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		records(t, l, 40)
		common := d.Copy()
		enginetest.Close(t, l)
		if clean {
			common = d.Copy()
		}
		for _, n := range []int{3, 40} { // records that each writes: to the tail, and to more segments
			for _, closed := range []bool{true, false} {
				testTwins(t, common, n, closed, fmt.Sprintf("clean copy %v, %d records, closed %v", clean, n, closed))
			}
		}
	}
}

// testTwins is TestSegmentsOfCopyAreRefused for one store; both write n records, and are then closed or killed.
func testTwins(t *testing.T, common *simdisk.Disk, n int, closed bool, what string) {
	t.Helper()
	var twins [2]*simdisk.Disk
	for i := range twins {
		twins[i] = common.Copy()
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(twins[i]))
		records(t, l, n)
		d := twins[i].Copy()
		enginetest.Close(t, l)
		if !closed {
			twins[i] = d
		}
	}
	for i := range twins {
		other := twins[1-i].ReadDurable(logFile)
		put := 0
		for slot := range len(other) / segmentBytes {
			hurt := twins[i].Copy()
			h, valid := headerOf(other, slot)
			if !valid || h.State != format.SegmentStateInUse || !putSlot(hurt, slot, other) {
				continue
			}
			put++
			refused(t, hurt, true, fmt.Sprintf("%s: slot %d of twin %d in the other", what, slot, 1-i))
		}
		if put == 0 || n > 16 && put < 3 {
			t.Errorf("%s: %d segments", what, put)
		}
		// The superblock of one beside the log of the other.
		hurt := twins[i].Copy()
		hurt.WriteFile(superFile, twins[1-i].ReadDurable(superFile))
		refused(t, hurt, true, what+": the other's superblock")
	}
}

// The store has the same contents after any number of openings; only timelines that own something are listed. If more
// own segments than the superblock lists, the oldest are forgotten. The snapshot in use stays usable. Proves rule 14.
func TestManyTimelines(t *testing.T) {
	t.Parallel()
	d := simdisk.New(4, simdisk.Options{})
	for range 10 { // openings that write nothing
		enginetest.Close(t, enginetest.OpenSim(t, d))
	}
	sb, err := format.DecodeSuperblock(d.ReadDurable(superFile))
	if n := len(sb.Lineage()); err != nil || n > 2 {
		t.Errorf("%d timelines are listed, error %v", n, err)
	}
	pc := enginetest.OpenSim(t, d)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	sizes := map[engine.PageID]int{}
	for i := range format.MaxAncestors + 10 { // each owns a segment, and is killed
		for j := range 20 {
			pid, _ := enginetest.Allocate(t, pc, enginetest.Random(900, uint64(i*100+j)))
			sizes[pid] = i*100 + j
		}
		enginetest.Flush(t, pc)
		next := d.Copy()
		enginetest.NoCheck(t, pc)
		_ = pc.Close()
		d = next
		pc = enginetest.OpenSim(t, d)
	}
	for pid, seed := range sizes {
		if v := enginetest.Get(t, pc, pid).Value; !bytes.Equal(v, enginetest.Random(900, uint64(seed))) {
			t.Fatalf("page %d: %s", pid, enginetest.Brief(v))
		}
	}
	sb, err = format.DecodeSuperblock(d.ReadDurable(superFile))
	if n := len(sb.Lineage()); err != nil || n != format.MaxAncestors+1 || sb.Listed == 0 {
		t.Errorf("%d timelines are listed, from LSN %v on, error %v", n, sb.Listed, err)
	}
	r, err := engine.Check("/store", enginetest.SimOptions(d.Copy()), func(err error) { t.Error(err) })
	if err != nil || r.Snapshot == "" {
		t.Errorf("Check: %+v, %v; want the snapshot to be used", r, err)
	}
	enginetest.Close(t, pc)
}

// A store and its copy share a SnapshotDir. Each opens from its own snapshots, after kills and clean closes, and
// neither uses, replaces or removes one that the other has written since the copy was made. Proves rule 14, trap 50.
func TestCopySharesSnapshotDir(t *testing.T) {
	t.Parallel()
	d := simdisk.New(5, simdisk.Options{})
	options := func() *engine.Options {
		o := enginetest.SimOptions(d)
		o.SnapshotDir = "/snaps"
		return o
	}
	pc := enginetest.Open(t, "/store", options())
	enginetest.Busy(t, pc, 200, 1)
	enginetest.Close(t, pc)
	if err := d.MkdirAll("/copy"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{enginetest.LogName, "superblock"} {
		d.WriteFile("/copy/"+name, d.ReadDurable("/store/"+name))
	}
	blobs := enginetest.BlobNames(t, d, "/store")
	if len(blobs) > 0 {
		if err := d.MkdirAll("/copy/blobs"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range blobs {
		d.WriteFile("/copy/blobs/"+name, d.ReadDurable("/store/blobs/"+name))
	}
	dirs := []string{"/store", "/copy"}
	want := map[string]string{}
	own := map[string]string{} // the snapshot that each has written last
	for round := range uint64(6) {
		for i, dir := range dirs {
			pc := enginetest.Open(t, dir, options())
			if round > 0 && enginetest.Contents(t, pc) != want[dir] {
				t.Fatalf("round %d: the contents of %s differ", round, dir)
			}
			before := enginetest.SnapshotFiles(t, d, "/snaps")
			enginetest.Busy(t, pc, 60, 10*round+uint64(i))
			enginetest.Flush(t, pc)
			if err := pc.Snapshot(); err != nil {
				t.Fatal(err)
			}
			enginetest.Busy(t, pc, 20, 100+10*round+uint64(i))
			enginetest.Flush(t, pc)
			want[dir] = enginetest.Contents(t, pc)
			written := ""
			for _, name := range enginetest.SnapshotFiles(t, d, "/snaps") {
				if !slices.Contains(before, name) {
					written = name
				}
			}
			other := own[dirs[1-i]]
			if other != "" && !slices.Contains(enginetest.SnapshotFiles(t, d, "/snaps"), other) {
				t.Fatalf("round %d: %s has removed or replaced the other's snapshot", round, dir)
			}
			own[dir] = written
			if round%2 == 0 {
				next := d.Copy()
				enginetest.NoCheck(t, pc)
				_ = pc.Close()
				d = next
			} else {
				enginetest.Close(t, pc)
				for _, name := range enginetest.SnapshotFiles(t, d, "/snaps") {
					if !slices.Contains(before, name) {
						own[dir] = name
					}
				}
			}
		}
	}
	if names := enginetest.SnapshotFiles(t, d, "/snaps"); len(names) != 2 {
		t.Errorf("%v, want a snapshot of each", names)
	}
}

// With both copies of the superblock lost, and neither a snapshot nor a blob, the store id comes from the header of any
// segment. Proves rule 16, trap 34.
func TestSalvageTakesStoreFromHeader(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	want := enginetest.Random(300, 1)
	pid, _ := enginetest.Allocate(t, pc, want) // too few messages to agree on what their checksums start from
	enginetest.Flush(t, pc)
	enginetest.NoCheck(t, pc)
	killed := d.Copy()
	_ = pc.Close()
	if err := killed.Remove(superFile); err != nil {
		t.Fatal(err)
	}
	o := enginetest.SimOptions(killed)
	r, err := engine.Salvage("/store", "/saved", o, nil)
	if err != nil || r.Lost > 0 {
		t.Fatalf("Salvage: %+v, %v", r, err)
	}
	for _, l := range r.Losses {
		if strings.Contains(l.Text, "store id") {
			t.Errorf("loss: %v", l)
		}
	}
	saved := enginetest.Open(t, "/saved", o)
	if got := enginetest.Get(t, saved, pid).Value; !bytes.Equal(got, want) {
		t.Errorf("page %d: %s", pid, enginetest.Brief(got))
	}
	enginetest.Close(t, saved)
}
