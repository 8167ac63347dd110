package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// A CheckReport says what Check verified.
type CheckReport struct {
	Segments  int   // slots that hold a part of the log
	Pages     int64 // pages with a value
	Fragments int64 // messages that they consist of
	Roots     int64
	Blobs     int64
	Bytes     int64 // of encoded values
	Records   int64 // of a standalone log
	Strays    int64 // blobs that no page refers to, as a crash leaves them; the next Open removes them
	Problems  int
	Snapshot  string // path of the snapshot that was compared with the log; empty if there is none
}

// Check verifies every byte that matters of a store or standalone log that is not open for writing: superblock, segment
// headers, every message of the log, the chains of the pages, values and blobs; the snapshot, block by block and page
// by page, against the log alone; and the accounts of space and free ids. It writes nothing. It calls found for each
// problem, with its place. The returned error says why the check could not be done, such as ErrLocked. Of opts, which
// may be nil, it uses SnapshotDir and Logger.
func Check(dir string, opts *Options, found func(problem error)) (CheckReport, error) {
	var o Options
	if opts != nil {
		o = Options{SnapshotDir: opts.SnapshotDir, Logger: opts.Logger}
		o.seam = seam.Options{FS: opts.seam.FS, Unchecked: opts.seam.Unchecked}
	}
	o.ReadOnly = true
	c := &checker{o: o, dir: dir, found: found}
	full := o.withDefaults()
	held, err := full.seam.FS.OpenDir(dir)
	if err != nil {
		return c.r, c.problem(err)
	}
	sb, err := logstore.ReadSuper(held)
	if err := errors.Join(err, held.Close()); err != nil {
		return c.r, c.problem(err)
	}
	if sb.Log {
		return c.r, c.log()
	}
	c.as.name = sb.Name
	return c.r, c.pages()
}

// Destroy removes the files of the store or log in dir: log, superblock, blobs and snapshots. Everything else stays,
// dir itself and snapshots in another directory (Options.SnapshotDir) included. The store may be corrupt, but its
// superblock or a header of its log must show that it is one. It must not be open; Destroy waits up to two seconds for
// another opening to release it, like Open. Errors: ErrLocked, ErrFormat for a store of another version, fs.ErrNotExist
// if there is no such directory or no store in it, and those of the operating system. After the latter, or a crash,
// some files may be gone, and Destroy can be called again. Safe for concurrent use.
func Destroy(dir string) error { return destroy(osfs.OS, dir) }

func destroy(fsys vfs.FS, dir string) error { return logstore.Destroy(fsys, dir) }

type checker struct {
	o     Options
	dir   string
	found func(error)
	as    encodedPages
	r     CheckReport
}

// problem reports an error that is a problem of the store, and returns any other.
func (c *checker) problem(err error) error {
	isProblem := errors.Is(err, ErrCorrupt) || errors.Is(err, format.ErrSnapshot) || errors.Is(err, fs.ErrNotExist) ||
		vfs.IsUnreadable(err)
	if !isProblem {
		return err
	}
	c.r.Problems++
	c.found(err)
	return nil
}

func (c *checker) log() error {
	l, err := OpenLog(c.dir, &c.o)
	if err != nil {
		return c.problem(err)
	}
	defer l.Close()
	c.r.Segments = l.Stats().Space.SegmentsInUse
	for _, bad := range l.core.store.BadIndexes {
		if err := c.problem(bad); err != nil {
			return err
		}
	}
	for r, err := range l.Records(0) {
		if err != nil {
			return c.problem(err)
		}
		c.r.Records++
		c.r.Bytes += int64(len(r.Bytes))
	}
	for _, id := range l.Streams() {
		if err := c.stream(l, id); err != nil {
			return err
		}
	}
	return nil
}

// stream finds each record of a stream by its number.
func (c *checker) stream(l *Log, id StreamID) error {
	s, err := l.Stream(id)
	if err != nil {
		return c.problem(err)
	}
	for r, err := range s.Records(0) {
		if err != nil {
			return c.problem(err)
		}
		c.r.Records++
		c.r.Bytes += int64(len(r.Bytes))
	}
	return nil
}

// encodedPages is the Materializer of pages as they are on disk.
type encodedPages struct {
	Bytes
	name string // of the format of the pages
}

// Format implements Named.
func (e encodedPages) Format() string { return e.name }

func (c *checker) pages() error {
	alone := c.o
	alone.seam.LogAlone = true
	truth, err := Open(c.dir, c.as, &alone)
	if err != nil {
		return c.problem(err)
	}
	defer truth.Close()
	c.r.Segments = truth.Stats().Space.SegmentsInUse
	live := map[format.BlobID]bool{}
	for pid := PageID(0); pid < truth.pages.IDs.Next(); pid++ {
		if err := c.page(truth, pid, live); err != nil {
			return err
		}
	}
	if c.r.Strays, err = truth.blobs.Strays(func(id format.BlobID) bool { return live[id] }); err != nil {
		return err
	}
	if err := c.accounts(truth, "the log alone"); err != nil {
		return err
	}
	return c.snapshots(truth)
}

// page verifies the messages that a page consists of.
func (c *checker) page(pc *PageCache[[]byte], pid PageID, live map[format.BlobID]bool) error {
	_, h, err := pc.pages.Find(pid)
	if err == nil && h != nil && h.Kind() == pagestack.KindRoot {
		c.r.Roots++
		err = rootOnDisk(pc, pid, h)
	}
	if err != nil || h == nil || h.Kind() != pagestack.KindOnDisk {
		return c.problem(err)
	}
	c.r.Pages++
	h.Links(func(r pagestack.Ref, older LSN) {
		c.r.Fragments++
		if r.Ptr.Blob {
			c.r.Blobs++
			if ptr, e := pc.core.store.Blob(r.LSN, r.Ptr); e == nil {
				live[ptr.ID] = true
			}
		}
		b, _, e := pc.values.Encoded(pid, r, older)
		c.r.Bytes += int64(len(b))
		err = errors.Join(err, c.problem(e))
	})
	return err
}

// rootOnDisk verifies the message of the root with head h.
func rootOnDisk(pc *PageCache[[]byte], pid PageID, h *head) error {
	m, err := pc.core.store.Read(h.LSN, h.Ptr())
	if err != nil {
		return logstore.InPage(pid, err)
	}
	if r, err := format.DecodeRoot(m.Body); m.Kind != format.KindRoot || err != nil || r != h.Root() {
		return pc.core.store.CorruptLog(Place{}.WithLSN(h.LSN).WithPage(pid), "the message is not that of the root")
	}
	return nil
}

// accounts compares the accounts of space and free ids with the pages. source says what the store was opened from.
func (c *checker) accounts(pc *PageCache[[]byte], source string) error {
	var failed error
	err := pc.pages.CheckAccounts(func(problem string) {
		err := logstore.CorruptFile(pc.core.store.LogFile(), problem+", by "+source, nil)
		failed = errors.Join(failed, c.problem(err))
	})
	return errors.Join(failed, c.problem(err))
}

// snapshots verifies every snapshot, and compares the store as opened from the newest good one with truth, page by
// page.
func (c *checker) snapshots(truth *PageCache[[]byte]) error {
	ids, err := truth.snaps.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := truth.snaps.Verify(id); err != nil {
			if err := c.problem(fmt.Errorf("%s: %w", truth.snaps.Path(id), err)); err != nil {
				return err
			}
		}
	}
	pc, err := Open(c.dir, c.as, &c.o)
	if err != nil {
		return c.problem(err)
	}
	defer pc.Close()
	if pc.snaps.Base == nil {
		return nil
	}
	c.r.Snapshot = pc.snaps.Path(pc.snaps.Base.ID())
	for pid := PageID(0); pid < max(pc.pages.IDs.Next(), truth.pages.IDs.Next()); pid++ {
		if err := c.problem(comparePage(pid, pc, truth)); err != nil {
			return err
		}
	}
	return c.accounts(pc, "the snapshot")
}

// comparePage reports a page that consists of other messages in pc than in truth.
func comparePage(pid PageID, pc, truth *PageCache[[]byte]) error {
	_, want, err := truth.pages.Find(pid)
	if err != nil {
		return err
	}
	_, got, err := pc.pages.Find(pid)
	if err != nil {
		return err
	}
	if got, want := got.Root(), want.Root(); got != want {
		const text = "the page is root %.64q to page %d, by the log alone %.64q to page %d"
		return pc.snaps.Base.CorruptPage(pid, fmt.Errorf(text, got.Name, got.Target, want.Name, want.Target))
	}
	if g, w := messagesOf(got), messagesOf(want); g != w {
		return pc.snaps.Base.CorruptPage(pid, fmt.Errorf("the page is %s, by the log alone %s", g, w))
	}
	return nil
}

// messagesOf names the messages that a page consists of.
func messagesOf(h *head) string {
	if h == nil || h.Kind() == pagestack.KindFree {
		return "free"
	}
	var b strings.Builder
	b.WriteString("LSN")
	h.Refs(func(r pagestack.Ref) { fmt.Fprintf(&b, " %v at %v", r.LSN, r.Ptr) })
	return b.String()
}
