package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"pagecache/engine/internal/checkpoint"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/seam"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// Check verifies every byte that matters of a store or standalone log that is not open for writing: superblock, segment
// headers, every message of the log, the chains of the pages, values and blobs; the snapshot, block by block and page
// by page, against the log alone; and the accounts of space and free ids. It writes nothing. It calls found for each
// problem, with its place. The returned error says why the check could not be done, such as ErrLocked. Of opts, which
// may be nil, it uses SnapshotDir and Logger.
func Check(dir string, opts *Options, found func(problem error)) (CheckReport, error) {
	c := &checker{o: readOnly(opts), dir: dir, found: found}
	full := c.o.withDefaults()
	sb, err := superOf(&full, dir)
	if err != nil {
		return c.r, c.problem(err)
	}
	if sb.Log {
		return c.r, c.log()
	}
	c.as.name = sb.Name
	return c.r, c.pages()
}

// readOnly returns options for looking at a store.
func readOnly(opts *Options) Options {
	o := Options{ReadOnly: true}
	if opts != nil {
		o.SnapshotDir, o.Logger = opts.SnapshotDir, opts.Logger
		o.seam = seam.Options{FS: opts.seam.FS, Unchecked: opts.seam.Unchecked}
	}
	return o
}

// superOf reads the superblock of the store in dir.
func superOf(full *Options, dir string) (format.Superblock, error) {
	held, err := full.seam.FS.OpenDir(dir)
	if err != nil {
		return format.Superblock{}, err
	}
	sb, err := logstore.ReadSuper(held)
	return sb, errors.Join(err, held.Close())
}

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
		err = pc.pages.CheckRootMessage(pid, h)
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
		if err := c.problem(pc.pages.Compare(pid, &truth.pages)); err != nil {
			return err
		}
	}
	return c.accounts(pc, "the snapshot")
}

// Checkpoint takes a checkpoint. It makes what was written before durable first. If a batch is open, the checkpoint
// ends where the batch begins, and Checkpoint does not wait for it: LSN says where. Neither does it stop writers. It
// takes as long as a flush, and the reading of the newest snapshot. Close ends the checkpoint. Errors: ErrClosed,
// those of reading, and the context's. After ErrFailed the checkpoint is what the log had made stable.
func (pc *PageCache[P]) Checkpoint(ctx context.Context) (*Checkpoint, error) {
	c := checkpoint.Config{
		Store: pc.core.store, Blobs: pc.blobs, Snaps: pc.snaps, Hold: pc.cleaner.Hold, Kick: pc.cleaner.Kick,
		NextID: pc.ids.Next, NextPage: pc.pages.IDs.Next, Enter: pc.core.enter,
	}
	var k *checkpoint.Checkpoint
	err := within(ctx, "checkpoint", func() (err error) {
		if k, err = checkpoint.Begin(c); err == nil && ctx.Err() != nil {
			k.Close()
			err = context.Cause(ctx)
		}
		return err
	})
	if err != nil {
		return nil, describe("checkpoint", err)
	}
	return &Checkpoint{k}, nil
}

// Size returns how many bytes WriteTo writes, at most: fewer if a crash has left blobs that no page refers to.
func (c *Checkpoint) Size() int64 { return c.k.Size() }

// OpenCheckpoint opens a checkpoint for reading, as a ReadOnly store: all its pages, roots and blobs, while the store
// that it is of goes on. That takes as long as an Open after a clean Close. It holds what it shows until it is closed,
// which must be before the store that it is of is closed; the Checkpoint may be closed before. Of opts, which may be
// nil, SnapshotDir and what concerns writing is not used. Errors: those of Open, and ErrClosed.
func OpenCheckpoint[P any](c *Checkpoint, m Materializer[P], opts *Options) (*PageCache[P], error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	v, err := c.k.View()
	if err != nil {
		return nil, describe("open checkpoint", err)
	}
	o.ReadOnly, o.Temporary, o.SnapshotDir, o.seam = true, false, "", seam.Options{FS: v}
	pc, err := Open(checkpoint.ViewDir, m, &o)
	if err != nil {
		v.Close()
	}
	return pc, err
}

// VerifyCheckpoint reads streams that Checkpoint.Write has written, to their ends, and verifies every byte. Each stream
// but the first must continue the one before. If the first is incremental, what it continues is not looked at. Errors:
// ErrCorrupt with the offset, ErrChain, those of reading, and the context's.
func VerifyCheckpoint(ctx context.Context, streams ...io.Reader) (CheckpointInfo, error) {
	i, err := checkpoint.Verify(ctx, streams...)
	return i, describe("verify checkpoint", err)
}

// Install makes a store in dir, where nothing may be, of streams that Checkpoint.Write has written: a complete one,
// then incremental ones, each of which continues the one before. The store opens as after a clean Close, and belongs to
// a timeline of its own from its first opening for writing on. Everything is verified and durable before the directory
// gets its name: it is there whole or not at all, whatever fails. Until then its name ends with ".installing"; the
// next Install removes files that a crash has left. Of opts, which may be nil, it uses Logger. Errors: those of
// VerifyCheckpoint, fs.ErrExist, ErrLocked if another Install is at work there, ErrNoSpace, and the system's.
func Install(ctx context.Context, dir string, opts *Options, streams ...io.Reader) (CheckpointInfo, error) {
	fsys, check := installing(opts)
	i, err := checkpoint.Install(ctx, fsys, dir, check, streams)
	return i, describe("install checkpoint", err)
}

// CopyTo makes a store of the checkpoint in dir, as Install makes one of its stream. On a file system that can share
// the bytes of files (reflink: XFS, Btrfs), the copy shares those of the store, which takes neither space nor writes;
// they are read and verified all the same. Errors: those of Write and Install.
func (c *Checkpoint) CopyTo(ctx context.Context, dir string, opts *Options) (CheckpointInfo, error) {
	fsys, check := installing(opts)
	i, err := c.k.CopyTo(ctx, fsys, dir, check)
	return i, describe("copy checkpoint", err)
}

// installing returns the file system of options, and a function that opens a store that was installed, and verifies
// what does not depend on the values of its pages.
func installing(opts *Options) (vfs.FS, checkpoint.Check) {
	o := readOnly(opts)
	o.SnapshotDir = ""
	full := o.withDefaults()
	return full.seam.FS, func(dir string, i CheckpointInfo) error {
		pc, err := Open(dir, encodedPages{name: i.Format}, &o)
		if err == nil {
			err = errors.Join(checkpoint.CheckFiles(pc.blobs, pc.snaps), pc.Close())
		}
		return err
	}
}

// Backup writes a checkpoint of the store in dir, which is not open for writing, to w; since is as for Write. It
// changes nothing in the store, and needs no Materializer. Of opts, which may be nil, it uses SnapshotDir and Logger.
// It returns the LSN of the checkpoint and the bytes written. Errors: those of Open and Checkpoint.Write.
func Backup(ctx context.Context, dir string, opts *Options, w io.Writer, since LSN) (end LSN, n int64, err error) {
	err = backup(ctx, dir, opts, func(c *Checkpoint) (err error) {
		end = c.LSN()
		n, err = c.Write(ctx, w, since)
		return err
	})
	return end, n, err
}

// BackupTo is Backup that makes a store in the directory to: see Checkpoint.CopyTo.
func BackupTo(ctx context.Context, dir string, opts *Options, to string) (i CheckpointInfo, err error) {
	err = backup(ctx, dir, opts, func(c *Checkpoint) (err error) {
		i, err = c.CopyTo(ctx, to, opts)
		return err
	})
	return i, err
}

// backup calls f with a checkpoint of the store in dir.
func backup(ctx context.Context, dir string, opts *Options, f func(*Checkpoint) error) error {
	o := readOnly(opts)
	full := o.withDefaults()
	sb, err := superOf(&full, dir)
	if err != nil {
		return describe("backup", err)
	}
	pc, err := Open(dir, encodedPages{name: sb.Name}, &o)
	if err != nil {
		return err
	}
	c, err := pc.Checkpoint(ctx)
	if err == nil {
		err = f(c)
		c.Close()
	}
	return errors.Join(err, pc.Close())
}
