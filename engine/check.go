package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// CheckReport is what Check looked at.
type CheckReport struct {
	Segments  int   // slots that hold a part of the log
	Pages     int64 // pages with a value
	Fragments int64 // messages that they consist of
	Blobs     int64
	Bytes     int64 // of values, as they are encoded
	Records   int64 // of a standalone log
	Strays    int64 // blobs that no page refers to, as a crash leaves them: the next opening removes them
	Problems  int
	Snapshot  string // the snapshot that was compared with the log; empty: there is none
}

// Check verifies every byte that matters of a store or a standalone log that is not open for writing: superblock, segment headers, every message of the log,
// the chains of the pages, values and blobs; the snapshot, block by block and page by page, against the log alone; and the accounts of space and free ids against
// what is there. Nothing is written. Each problem is given to found, with its place. The error is that of a check that could not be done, such as
// ErrLocked. Of opts, which may be nil, SnapshotDir and Logger are used.
func Check(dir string, opts *Options, found func(problem error)) (CheckReport, error) {
	var o Options
	if opts != nil {
		o = Options{SnapshotDir: opts.SnapshotDir, Logger: opts.Logger, fs: opts.fs}
	}
	o.ReadOnly = true
	c := &checker{o: o, dir: dir, found: found}
	isLog, err := c.isLog()
	if err != nil {
		return c.r, c.problem(err)
	}
	if isLog {
		return c.r, c.log()
	}
	return c.r, c.pages()
}

type checker struct {
	o     Options
	dir   string
	found func(error)
	r     CheckReport
}

// problem reports what is wrong with the store, and returns what is not that.
func (c *checker) problem(err error) error {
	if err == nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, format.ErrSnapshot) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.r.Problems++
	c.found(err)
	return nil
}

func (c *checker) isLog() (bool, error) {
	s := &store{opts: c.o.withDefaults(), dir: c.dir}
	s.fs = s.opts.fs
	b, err := s.readSmall(filepath.Join(c.dir, superName), format.SuperblockSize)
	if err != nil {
		return false, err
	}
	sb, err := format.DecodeSuperblock(b)
	if errors.Is(err, format.ErrSuperVersion) {
		return false, fmt.Errorf("%w: %w", ErrUnsupported, err)
	} else if err != nil {
		return false, damagedFile(filepath.Join(c.dir, superName), err.Error(), err)
	}
	return sb.Log, nil
}

func (c *checker) log() error {
	l, err := OpenLog(c.dir, &c.o)
	if err != nil {
		return c.problem(err)
	}
	defer l.Close()
	c.r.Segments = l.Stats().SegmentsInUse
	it := l.Iter(0)
	for it.Next() {
		c.r.Records++
		c.r.Bytes += int64(len(it.Bytes()))
	}
	return c.problem(it.Err())
}

// raw are pages as they are on disk.
type raw struct{ Bytes }

func (c *checker) pages() error {
	alone := c.o
	alone.logAlone = true
	truth, err := Open(c.dir, raw{}, &alone)
	if err != nil {
		return c.problem(err)
	}
	defer truth.Close()
	c.r.Segments = truth.Stats().SegmentsInUse
	live := map[format.BlobID]bool{}
	next := PageID(truth.pages.next.Load())
	for pid := PageID(0); pid < next; pid++ {
		if err := c.page(truth, pid, live); err != nil {
			return err
		}
	}
	names, err := truth.fs.ReadDir(truth.blobs.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); ok && !live[id] {
			c.r.Strays++
		}
	}
	if err := c.accounts(truth, "the log alone"); err != nil {
		return err
	}
	return c.snapshots(truth)
}

// page verifies what a page consists of.
func (c *checker) page(pc *PageCache[[]byte], pid PageID, live map[format.BlobID]bool) error {
	_, head, err := pc.head(pid)
	if err != nil || head == nil || head.Kind() != pagestack.KindOnDisk {
		return c.problem(err)
	}
	c.r.Pages++
	head.Refs(func(r pagestack.Ref) {
		c.r.Fragments++
		if r.Ptr.Blob {
			c.r.Blobs++
			if ptr, e := pc.blobAt(r); e == nil {
				live[ptr.ID] = true
			}
		}
		b, _, e := pc.value(pid, r.LSN, r.Ptr)
		c.r.Bytes += int64(len(b))
		err = errors.Join(err, c.problem(e))
	})
	return err
}

// accounts compares the accounts of space and free ids with what is there.
func (c *checker) accounts(pc *PageCache[[]byte], of string) error {
	var unsure error
	err := pc.checkAccounts(func(what string) {
		unsure = errors.Join(unsure, c.problem(damagedFile(filepath.Join(pc.dir, logName), what+", by "+of, nil)))
	})
	return errors.Join(unsure, c.problem(err))
}

// checkAccounts says what is wrong with the accounts of space and free ids. Nothing is at work meanwhile.
func (pc *PageCache[P]) checkAccounts(wrong func(what string)) error {
	live := map[format.SegmentID]int64{}
	free, size := int64(0), int64(pc.super.SegmentSize)
	for pid := PageID(0); pid < PageID(pc.pages.next.Load()); pid++ {
		_, head, err := pc.head(pid)
		if err != nil {
			return err
		}
		if pid >= FirstUserPage && (head == nil || head.Kind() == pagestack.KindFree) {
			free++
		}
		head.Refs(func(r pagestack.Ref) {
			live[format.SegmentID(int64(r.Ptr.Off)/size)] += int64(format.AlignUp(int(r.Ptr.Len)))
		})
	}
	slots, _, _ := pc.space.Totals()
	for id := range format.SegmentID(slots) {
		if n := pc.space.Segment(id).Live(); n != live[id] {
			wrong(fmt.Sprintf("%d bytes are live in slot %v, accounted for are %d", live[id], id, n))
		}
	}
	if n := pc.pages.spare.Load(); n != free {
		wrong(fmt.Sprintf("%d page ids are free, accounted for are %d", free, n))
	}
	return nil
}

// snapshots verifies every snapshot, and compares the store that is opened with the newest good one with truth, page by page.
func (c *checker) snapshots(truth *PageCache[[]byte]) error {
	numbers, err := truth.snapshotNumbers()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		name := truth.snapshotName(n)
		err := truth.openSnapshot(n)
		if snap := truth.snaps.base; err == nil {
			if err = snap.Check(); err != nil {
				err = snap.Corrupt(err)
			}
			truth.snaps.close()
			truth.snaps.base = nil
		}
		if err != nil {
			err = c.problem(fmt.Errorf("%s: %w", name, err))
		}
		if err != nil {
			return err
		}
	}
	pc, err := Open(c.dir, raw{}, &c.o)
	if err != nil {
		return c.problem(err)
	}
	defer pc.Close()
	if pc.snaps.base == nil {
		return nil
	}
	c.r.Snapshot = pc.snapshotName(pc.snaps.base.Number)
	for pid := PageID(0); pid < PageID(max(pc.pages.next.Load(), truth.pages.next.Load())); pid++ {
		_, want, err := truth.head(pid)
		if err == nil {
			var got *head
			if _, got, err = pc.head(pid); err == nil && describe(got) != describe(want) {
				err = pc.snaps.base.CorruptPage(pid, fmt.Errorf("the page is %s, by the log alone %s", describe(got), describe(want)))
			}
		}
		if err := c.problem(err); err != nil {
			return err
		}
	}
	return c.accounts(pc, "the snapshot")
}

// describe says what a page consists of.
func describe(e *head) string {
	if e == nil || e.Kind() == pagestack.KindFree {
		return "free"
	}
	s := ""
	e.Refs(func(r pagestack.Ref) { s += fmt.Sprintf(" %v at %v", r.LSN, r.Ptr) })
	return "LSN" + s
}
