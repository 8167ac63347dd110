package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// refusal is a reason for which an opening is refused.
type refusal struct {
	name string
	hurt func(t *testing.T, d *simdisk.Disk)
	opts func(o *engine.Options)
	log  bool                             // the store is opened as a standalone log
	full bool                             // the disk has no space
	disk simdisk.Options                  // of the disk that the store is copied to
	from func(*refusedFrom) *simdisk.Disk // nil: the killed store
}

// refusedFrom has the stores that are opened.
type refusedFrom struct{ killed, closed *simdisk.Disk }

// newRefusedFrom makes a store with a snapshot, a blob, and messages that the snapshot does not know, among them a
// delta, and kills and closes it.
func newRefusedFrom(t *testing.T) *refusedFrom {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.AllocateMany(t, pc, 30, 1500)
	enginetest.Allocate(t, pc, make([]byte, 100_000)) // a blob
	enginetest.Flush(t, pc)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	enginetest.AllocateMany(t, pc, 3, 1500)
	enginetest.Allocate(t, pc, make([]byte, 90_000))
	tx := enginetest.Begin(t, pc)
	if _, _, err := pc.CASRoot(tx, "root", 0, 7); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Flush(t, pc)
	f := &refusedFrom{killed: d.Copy()}
	enginetest.Close(t, pc)
	f.closed = d
	return f
}

// changeLog calls change for every message of the log, with the whole message, and writes it back with a good checksum.
// change returns the kind that the message gets, and whether it has changed anything.
func changeLog(t *testing.T, d *simdisk.Disk, change func(h format.Header, msg []byte) (format.Kind, bool)) {
	t.Helper()
	log := d.ReadDurable(logFile)
	sb, err := format.DecodeSuperblock(d.ReadDurable(superFile))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for slot := range len(log) / sb.SegmentSize {
		id := format.SegmentID(slot)
		seg := log[slot*sb.SegmentSize:][:sb.SegmentSize]
		h, err := format.DecodeSegmentHeader(seg, id, sb.SegmentSize)
		if err != nil || h.State != format.SegmentStateInUse {
			continue
		}
		seed := format.MakeSeed(sb.Store, h.Generation, id)
		for pos := format.SegmentStart; len(seg)-pos >= format.HeaderSize; {
			m, _, err := format.DecodeMessage(seg[pos:], h.Base+format.LSN(pos), seed)
			if err != nil {
				break
			}
			if kind, ok := change(m, seg[pos:pos+m.Len]); ok {
				w := format.MakeWord(kind, m.Len)
				format.PutCRC(seg[pos:], w, seed)
				format.PutWord(seg[pos:], w)
				changed++
			}
			pos += format.AlignUp(m.Len)
		}
	}
	if changed == 0 {
		t.Fatal("no message was changed")
	}
	d.WriteFile(logFile, log)
}

// changeSuper changes the superblock.
func changeSuper(t *testing.T, d *simdisk.Disk, change func(sb *format.Superblock)) {
	t.Helper()
	sb, err := format.DecodeSuperblock(d.ReadDurable(superFile))
	if err != nil {
		t.Fatal(err)
	}
	change(&sb)
	d.WriteFile(superFile, sb.Append(nil))
}

// superIs returns a refusal that changes the superblock.
func superIs(name string, change func(sb *format.Superblock)) refusal {
	return refusal{name: name, hurt: func(t *testing.T, d *simdisk.Disk) { changeSuper(t, d, change) }}
}

// fails returns a refusal for which every operation of a kind on a file fails.
func fails(kind simdisk.OpKind, file string, err error) refusal {
	return refusal{name: fmt.Sprintf("%v of %s fails", kind, file), hurt: func(_ *testing.T, d *simdisk.Disk) {
		d.SetFault(func(o simdisk.Op) error {
			if o.Kind == kind && o.Name == file {
				return err
			}
			return nil
		})
	}}
}

// logIs returns a refusal that changes the log file.
func logIs(name string, change func(b []byte) []byte) refusal {
	return refusal{name: name, hurt: func(_ *testing.T, d *simdisk.Disk) {
		d.WriteFile(logFile, change(d.ReadDurable(logFile)))
	}}
}

// misplaced returns a refusal for which the last message of a kind in the log, which no snapshot knows, becomes one of
// another kind or page. It is intact, and cannot be where it is.
func misplaced(name string, kind, to format.Kind, page format.PageID) refusal {
	return refusal{name: name, hurt: func(t *testing.T, d *simdisk.Disk) {
		var last format.LSN
		find := func(h format.Header, _ []byte) (format.Kind, bool) {
			if h.Kind == kind {
				last = max(last, h.LSN)
			}
			return h.Kind, h.Kind == kind // written as it was
		}
		changeLog(t, d, find)
		changeLog(t, d, func(h format.Header, msg []byte) (format.Kind, bool) {
			if h.LSN != last {
				return h.Kind, false
			}
			format.PutHeader(msg, h.LSN, page, h.Durable())
			return to, true
		})
	}}
}

// refusals are all reasons that we know of.
func refusals() []refusal {
	closed := func(f *refusedFrom) *simdisk.Disk { return f.closed }
	all := []refusal{
		{name: "bad options", opts: func(o *engine.Options) { o.SegmentSize = 1 }},
		{name: "another segment size", opts: func(o *engine.Options) { o.SegmentSize = 32 << 10 }},
		{name: "another kind", log: true},
		{name: "no io_uring", opts: func(o *engine.Options) { o.IO = engine.IOUring },
			disk: simdisk.Options{NoRing: true}},
		{name: "no O_DIRECT", opts: func(o *engine.Options) { o.Direct = engine.DirectOn },
			disk: simdisk.Options{NoDirect: true}},
		{name: "blocks longer than segments", disk: simdisk.Options{Block: 32 << 10}},
		superIs("next id out of bounds", func(sb *format.Superblock) { sb.NextID = 1 << 63 }),
		superIs("id interval out of bounds", func(sb *format.Superblock) { sb.IDInterval = 1 << 62 }),
		superIs("another clean end", func(sb *format.Superblock) { sb.Clean, sb.End = true, 8 }),
		superIs("older than the log", func(sb *format.Superblock) { sb.Generation = 0 }),
		superIs("floor above the end", func(sb *format.Superblock) { sb.Floor = 1 << 40 }),
		{name: "superblock of version 1", hurt: func(_ *testing.T, d *simdisk.Disk) {
			d.WriteFile(superFile, version1(d.ReadDurable(superFile)))
		}},
		{name: "superblock of a later version", hurt: func(_ *testing.T, d *simdisk.Disk) {
			d.WriteFile(superFile, withVersion(d.ReadDurable(superFile), format.Version+1))
		}},
		{name: "superblock corrupt", hurt: func(_ *testing.T, d *simdisk.Disk) {
			d.FlipBit(superFile, 100, 1)
			d.FlipBit(superFile, format.SuperCopySize+100, 1)
		}},
		{name: "superblock lost", hurt: func(_ *testing.T, d *simdisk.Disk) { _ = d.Remove(superFile) }},
		{name: "log lost", hurt: func(_ *testing.T, d *simdisk.Disk) { _ = d.Remove(logFile) }},
		logIs("log emptied", func([]byte) []byte { return nil }),
		logIs("log cut inside a segment", func(b []byte) []byte { return b[:32<<10-1000] }),
		logIs("a segment lost", func(b []byte) []byte { clear(b[16<<10 : 32<<10]); return b }),
		logIs("a message corrupt", func(b []byte) []byte { b[16<<10+5000] ^= 1; return b }),
		logIs("a segment header corrupt", func(b []byte) []byte { b[12]++; return b }),
		misplaced("a delta without a base", format.KindCompact, format.KindAppend, 5000),
		misplaced("a free of a reserved page", format.KindCompact, format.KindFree, format.MetaPage),
		misplaced("an implausible page", format.KindCompact, format.KindCompact, 1<<35),
		misplaced("a record of a log", format.KindCompact, format.KindData, 3),
		misplaced("a root on a reserved page", format.KindCompact, format.KindRoot, format.MetaPage),
		{name: "a pointer to a blob that is none", hurt: func(t *testing.T, d *simdisk.Disk) {
			changeLog(t, d, func(h format.Header, msg []byte) (format.Kind, bool) {
				ok := h.Kind.Blob()
				if ok {
					msg[len(msg)-1]++
				}
				return h.Kind, ok
			})
		}},
		fails(simdisk.OpOpen, superFile, syscall.EMFILE), fails(simdisk.OpOpen, logFile, syscall.EACCES),
		fails(simdisk.OpRead, superFile, syscall.EIO), fails(simdisk.OpRead, logFile, syscall.EIO),
		fails(simdisk.OpSync, logFile, syscall.EIO),
		{name: "no space to move the tail", full: true, hurt: func(t *testing.T, d *simdisk.Disk) {
			log, used := d.ReadDurable(logFile), 0
			for slot := range len(log) >> 14 { // only slots that hold the log stay
				h, err := format.DecodeSegmentHeader(log[slot<<14:], format.SegmentID(slot), 16<<10)
				if err == nil && h.State == format.SegmentStateInUse {
					used = slot + 1
				}
			}
			d.WriteFile(logFile, log[:used<<14])
			changeSuper(t, d, func(sb *format.Superblock) { // as if the store had done so
				sb.Extent = format.Extent{Slots: uint32(used), Shrinks: sb.Extent.Shrinks + 1}
			})
		}},
	}
	for _, r := range slices.Clone(all) { // a clean store is refused for the same reasons, unless it needs no repair
		if r.full || r.name == "sync of "+logFile+" fails" {
			continue
		}
		r.name += ", closed"
		r.from = closed
		all = append(all, r)
	}
	clean := superIs("next page implausible", func(sb *format.Superblock) { sb.NextPage = 1 << 35 })
	clean.from = closed
	return append(all, clean)
}

// An opening that is refused, for whatever reason, has written nothing: no operation has changed a file, no file has
// other bytes, and the same opening is refused for the same reason again. Proves rule 17, trap 35.
func TestRefusedOpenWritesNothing(t *testing.T) {
	t.Parallel()
	from := newRefusedFrom(t)
	for _, r := range refusals() {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, read only %v", r.name, readOnly), func(t *testing.T) {
				source := from.killed
				if r.from != nil {
					source = r.from(from)
				}
				d := simdisk.New(1, r.disk)
				copyStore(t, d, source)
				if r.hurt != nil {
					r.hurt(t, d)
				}
				if r.full {
					used := 0
					for _, b := range allFiles(t, d) {
						used += len(b)
					}
					d.SetCapacity(int64(used))
				}
				o := enginetest.SimOptions(d)
				o.ReadOnly = readOnly
				if r.opts != nil {
					r.opts(o)
				}
				// Pages that the log alone shows are rebuilt from their messages.
				enginetest.WithSeam(o, seam.Options{FS: d, LogAlone: true})
				refusedTwice(t, d, o, r)
			})
		}
	}
}

// refusedTwice opens a store two times, and compares the files and the errors.
func refusedTwice(t *testing.T, d *simdisk.Disk, o *engine.Options, r refusal) {
	t.Helper()
	before := allFiles(t, d)
	var errs [2]error
	for i := range errs {
		var err error
		if r.log {
			l, e := engine.OpenLog("/store", o)
			if err = e; err == nil {
				_ = l.Close()
			}
		} else {
			pc, e := engine.Open("/store", engine.Bytes{}, o)
			if err = e; err == nil {
				_ = pc.Close()
			}
		}
		if errs[i] = err; err == nil {
			// Some reasons do not concern a read-only opening, nor one that finds no such message.
			if !o.ReadOnly {
				t.Fatal("the opening was not refused")
			}
			return
		}
		if r.full && !errors.Is(err, engine.ErrNoSpace) {
			t.Errorf("error %v, want ErrNoSpace", err)
		}
		wantPlace(t, before[logFile], err)
		if after := allFiles(t, d); !maps.EqualFunc(before, after, bytes.Equal) {
			t.Fatalf("a refused opening changed files: %v", err)
		}
	}
	unreadable := errors.Is(errs[0], syscall.EIO) && errors.Is(errs[1], syscall.EIO) // in any of the headers
	if errs[0].Error() != errs[1].Error() && !unreadable {
		t.Errorf("the second opening was refused for another reason: %v\nthe first: %v", errs[1], errs[0])
	}
}

// wantPlace checks that an error about a message of a page names the place where the message is, and not the one that
// the tail would have moved to.
func wantPlace(t *testing.T, log []byte, err error) {
	t.Helper()
	ce := (*engine.CorruptError)(nil)
	if !errors.As(err, &ce) {
		return
	}
	off, ok := ce.Place.Offset()
	if _, page := ce.Place.Page(); !ok || !page {
		return
	}
	lsn, _ := ce.Place.LSN()
	if got := format.LSN(binary.LittleEndian.Uint64(log[off+8:])); got != lsn {
		t.Errorf("LSN %v is at the place in the error %v", got, err)
	}
}

// copyStore copies all files of a store, durably.
func copyStore(t *testing.T, to, from *simdisk.Disk) {
	t.Helper()
	if err := to.MkdirAll("/store/" + enginetest.BlobDir); err != nil {
		t.Fatal(err)
	}
	for name, b := range allFiles(t, from) {
		to.WriteFile(name, b)
	}
}

// allFiles returns the durable contents of all files of a store, by path.
func allFiles(t *testing.T, d *simdisk.Disk) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, dir := range []string{"/store", "/store/" + enginetest.BlobDir} {
		names, err := d.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if dir == "/store" && n == enginetest.BlobDir {
				continue
			}
			all[filepath.Join(dir, n)] = d.ReadDurable(filepath.Join(dir, n))
		}
	}
	return all
}

// The same on the file system of the operating system, with the times at which the files were changed. Proves rule 17.
func TestRefusedOpenChangesNoTimes(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 16 << 10})
	enginetest.AllocateMany(t, pc, 30, 1500)
	enginetest.Flush(t, pc)
	killed := t.TempDir() // a copy of the open store, as a killed process would leave it
	for name, b := range enginetest.TreeFiles(t, dir) {
		if err := os.WriteFile(filepath.Join(killed, filepath.Base(name)), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Close(t, pc)
	for _, dir := range []string{dir, killed} {
		for name, c := range map[string]struct {
			hurt func() error
			mend func() error
		}{
			"another segment size": {func() error { return nil }, func() error { return nil }},
			"blobs is a file": {
				func() error { return os.WriteFile(filepath.Join(dir, enginetest.BlobDir), nil, 0o600) },
				func() error { return os.Remove(filepath.Join(dir, enginetest.BlobDir)) }},
			"a second link to the superblock": {
				func() error { return os.Link(filepath.Join(dir, enginetest.SuperName), filepath.Join(dir, "link")) },
				func() error { return os.Remove(filepath.Join(dir, "link")) }},
		} {
			if err := c.hurt(); err != nil {
				t.Fatal(err)
			}
			o := &engine.Options{}
			if name == "another segment size" {
				o.SegmentSize = 32 << 10
			}
			before := times(t, dir)
			if pc, err := engine.Open(dir, engine.Bytes{}, o); err == nil {
				_ = pc.Close()
				t.Fatalf("%s: opened", name)
			}
			if after := times(t, dir); after != before {
				t.Errorf("%s: times of change\n%s\nwere\n%s", name, after, before)
			}
			if err := c.mend(); err != nil {
				t.Fatal(err)
			}
		}
		enginetest.Close(t, enginetest.Open(t, dir, nil))
	}
}

// times describes the files in a directory, with their lengths and the times of their last change.
func times(t *testing.T, dir string) (text string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		var sys unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, e.Name()), &sys); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintln(e.Name(), st.Size(), st.ModTime().UnixNano(), time.Unix(sys.Ctim.Unix()).UnixNano())
	}
	return text
}

// An opening that would make a new store, and is refused, leaves nothing behind: no file, and no directory that it
// made. A directory that existed stays. Proves rule 17.
func TestRefusedOpenOfNewStoreLeavesNothing(t *testing.T) {
	for _, exists := range []bool{false, true} {
		d := simdisk.New(1, simdisk.Options{NoRing: true})
		if exists {
			if err := d.MkdirAll("/store"); err != nil {
				t.Fatal(err)
			}
		}
		o := enginetest.SimOptions(d)
		o.IO = engine.IOUring
		for range 2 {
			if _, err := engine.Open("/store", engine.Bytes{}, o); err == nil {
				t.Fatal("opened although the required ring does not work")
			}
			names, err := d.ReadDir("/store")
			if (err == nil) != exists || len(names) > 0 {
				t.Errorf("the directory existed %v: files %v are left, error %v", exists, names, err)
			}
		}
		d.SetCapacity(1000)
		o.IO = engine.IOAuto
		if _, err := engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrNoSpace) {
			t.Errorf("on a full disk: error %v, want ErrNoSpace", err)
		}
		if names, err := d.ReadDir("/store"); (err == nil) != exists || len(names) > 0 {
			t.Errorf("on a full disk: files %v are left, error %v", names, err)
		}
	}
}
