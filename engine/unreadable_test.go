package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// options returns the options of the aged store on a disk.
func (a *aged) options(d *simdisk.Disk) *engine.Options {
	o := *a.opts
	return enginetest.WithSeam(&o, seam.Options{FS: d})
}

// shownBeside returns an error unless an open store shows each page of want. Calls on the pages in lost, and on roots
// if page 0 is, must fail with ErrCorrupt and a place in the log.
func (a *aged) shownBeside(t *testing.T, pc *engine.PageCache[[]byte], want map[engine.PageID]string,
	lost map[engine.PageID]bool) error {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	fails := func(pid engine.PageID, err error) error {
		ce := (*engine.CorruptError)(nil)
		if !errors.As(err, &ce) || ce.File != logFile {
			return fmt.Errorf("page %d lies in the block: error %w, want a CorruptError about the log", pid, err)
		}
		if page, known := ce.Place.Page(); !known || page != pid {
			return fmt.Errorf("page %d lies in the block: the error names page %d, known %v", pid, page, known)
		}
		return nil
	}
	for pid, v := range want {
		p, err := pc.Get(tx, pid)
		switch {
		case lost[pid]:
			err = fails(pid, err)
		case err == nil && string(p.Value) != v:
			err = fmt.Errorf("page %d has %d bytes, want %d", pid, len(p.Value), len(v))
		}
		if err != nil {
			return err
		}
	}
	root, err := pc.Root(tx, "root")
	_, _, casErr := pc.CASRoot(tx, "new", 9, 9) // it changes nothing
	switch {
	case lost[0]:
		err = errors.Join(fails(0, err), fails(0, casErr))
	case err == nil && root != 5:
		err = fmt.Errorf("the root is page %d, want 5", root)
	}
	return err
}

// One block of 4 KiB of any file of a store that was closed cleanly cannot be read: each of several openings serves all
// pages that have no message in it, and takes writes. Calls on the others get ErrCorrupt, never an older value, also
// after the tail with the block has moved because of a kill. If the block holds nothing, the log may have gone on in it
// before a kill; then Open refuses, with the place. Salvage saves all that is served. Proves rules 10 and 13; trap 30.
func TestClosedStoreServesPagesBesideUnreadableBlock(t *testing.T) {
	t.Parallel()
	const block = 4096
	a := newAged(t, 3, true)
	a.noteIDs(t)
	places := func() map[engine.PageID][]engine.DiskPtr { // as they are in the closed store
		pc := enginetest.Open(t, "/store", a.options(a.disk.Copy()))
		defer enginetest.Close(t, pc)
		m := map[engine.PageID][]engine.DiskPtr{}
		for pid := range a.now {
			m[pid], _ = engine.Places(pc, pid)
		}
		m[0], _ = engine.Places(pc, 0)
		return m
	}()
	log, err := enginetest.ScanLog(a.disk, "/store")
	if err != nil {
		t.Fatal(err)
	}
	covers := func(name string, at int64) bool { // whether the block holds a part of the closed store
		return name != logFile || slices.ContainsFunc(log.Segments, func(g recovery.Segment) bool {
			begin := int64(g.Slot.Offset(a.opts.SegmentSize))
			return at >= begin && at < begin+int64(g.Used)
		})
	}
	names, _ := storeFiles(t, a.disk)
	most, refused := 0, 0
	for _, name := range names {
		for at := int64(0); at < int64(len(a.disk.ReadDurable(name))); at += block {
			lost := map[engine.PageID]bool{}
			for pid, ptrs := range places {
				lost[pid] = name == logFile && slices.ContainsFunc(ptrs, func(p engine.DiskPtr) bool {
					return int64(p.Off) < at+block && int64(p.Off)+int64(p.Len) > at
				})
			}
			maps.DeleteFunc(lost, func(_ engine.PageID, l bool) bool { return !l })
			most = max(most, len(lost))
			for _, killed := range []bool{false, true} {
				d := a.disk.Copy()
				d.SetUnreadable(name, at, block)
				err := a.opensBeside(t, d, lost, killed)
				if killed && !covers(name, at) && errors.Is(err, errShut) && lawfulRefusal(err, at, block) {
					refused++
				} else if err != nil {
					t.Errorf("%s, block at %d, killed %v: %v", name, at, killed, err)
				}
			}
		}
	}
	t.Logf("%d refusals after a kill", refused)
	if most < 3 {
		t.Errorf("no block has more than %d pages", most)
	}
}

var errShut = errors.New("an opening after the first was refused")

// lawfulRefusal reports whether err has the place of a block of n bytes at an offset of the log, and the cause.
func lawfulRefusal(err error, at, n int64) bool {
	ce := (*engine.CorruptError)(nil)
	if !errors.As(err, &ce) || !errors.Is(err, syscall.EIO) || ce.File != logFile {
		return false
	}
	off, known := ce.Place.Offset()
	return known && int64(off) >= at && int64(off) < at+n
}

// noteIDs makes the store write notes of ids, and closes it.
func (a *aged) noteIDs(t *testing.T) {
	t.Helper()
	o := a.options(a.disk)
	o.IDPersistInterval = 10
	pc := enginetest.Open(t, "/store", o)
	for range 30 {
		enginetest.Begin(t, pc).End()
	}
	if places, err := engine.Places(pc, 1); err != nil || len(places) != 1 {
		t.Errorf("the note of ids lies at %v, error %v", places, err)
	}
	enginetest.Close(t, pc)
}

// opensBeside opens a store several times. Each opening writes, and ends with a clean close or a kill.
func (a *aged) opensBeside(t *testing.T, d *simdisk.Disk, lost map[engine.PageID]bool, killed bool) error {
	t.Helper()
	want := maps.Clone(a.now)
	for opening := range 4 {
		pc, err := engine.Open("/store", engine.Bytes{}, a.options(d))
		if err != nil && opening > 0 {
			return fmt.Errorf("%w: opening %d: %w", errShut, opening, err)
		}
		if err != nil {
			return err
		}
		err = a.shownBeside(t, pc, want, lost)
		if err == nil {
			tx := enginetest.Begin(t, pc)
			var pid engine.PageID
			v := fmt.Appendf(nil, "of opening %d", opening)
			if pid, _, err = pc.Allocate(tx, v); err == nil {
				_, err = pc.Flush()
			}
			tx.End()
			want[pid] = string(v)
		}
		if err == nil {
			err = a.shownBeside(t, pc, want, lost)
		}
		next := d
		if killed {
			next = d.Crash(uint64(opening))
			_ = pc.Close()
		} else if e := pc.Close(); err == nil {
			err = e
		}
		if err != nil {
			return fmt.Errorf("opening %d: %w", opening, err)
		}
		d = next
	}
	s, err := a.salvage(d)
	if err != nil {
		return err
	}
	for pid, v := range want {
		if !lost[pid] && s.values[pid] != v {
			return fmt.Errorf("page %d is not salvaged: %v", pid, s.report.Losses)
		}
	}
	return nil
}

// A page of several blobs whose newest pointer cannot be read does not keep snapshots from being written, although the
// page was touched: the snapshot of the opening knows the blobs. The page stays an error, and the blobs stay on the
// disk. Proves N2; trap 30.
func TestSnapshotBesideUnreadablePointer(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, make([]byte, 6000))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, make([]byte, 7000)))
	}
	tx.End()
	enginetest.Flush(t, pc)
	places, err := engine.Places(pc, pid)
	if err != nil || len(places) != 3 {
		t.Fatal(places, err)
	}
	enginetest.Close(t, pc)
	d.SetUnreadable(logFile, int64(places[0].Off)+format.HeaderSize, 1)
	for opening := range 3 {
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		tx := enginetest.Begin(t, pc)
		if _, err := pc.Get(tx, pid); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("opening %d: the page: %v, want ErrCorrupt", opening, err)
		}
		tx.End()
		enginetest.Allocate(t, pc, []byte("so that there is something to write"))
		if err := pc.Snapshot(); err != nil {
			t.Errorf("opening %d: snapshot: %v", opening, err)
		}
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
		if n := len(enginetest.BlobNames(t, d, "/store")); n != 3 {
			t.Errorf("opening %d: %d blobs are left, want 3", opening, n)
		}
	}
}

// If reading fails at any moment of an opening, it is refused with the cause, and no file has changed: also what the
// log goes on with is read before anything is written. Proves rule 17.
func TestFailedReadLeavesFilesUnchanged(t *testing.T) {
	t.Parallel()
	planted := errors.New("planted")
	for _, clean := range []bool{true, false} {
		a := newAged(t, 9, clean)
		before := fmt.Sprint(enginetest.Files(t, a.disk))
		for n := 1; ; n++ {
			d := a.disk.Copy()
			d.FailFrom(simdisk.OpRead, n, planted)
			pc, err := engine.Open("/store", engine.Bytes{}, a.options(d))
			d.SetFault(nil)
			if err == nil {
				if err := pc.Close(); err != nil {
					t.Error(err)
				}
				if n < 10 {
					t.Errorf("an opening reads only %d times", n)
				}
				break
			}
			if !errors.Is(err, planted) {
				t.Errorf("clean %v, read %d fails: %v", clean, n, err)
			}
			if fmt.Sprint(enginetest.Files(t, d)) != before {
				t.Fatalf("clean %v, read %d fails: the refused opening has changed files", clean, n)
			}
		}
	}
}
