package checkpoint

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// ScrubConfig is what Scrub needs of an open page store.
type ScrubConfig struct {
	Store *logstore.Store
	Blobs *blob.Store
	Snaps *snapshot.Store
	Enter func() (*scope.Scope, error) // see Config
	Rate  int64                        // bytes a second; 0: as fast as callers leave room; negative: without pauses
	Found func(problem error)          // is called for each problem
}

// ScrubReport says what Scrub has verified.
type ScrubReport struct {
	Segments int   // that were sealed, and were not recycled meanwhile
	Blobs    int   // that were not removed meanwhile
	Bytes    int64 // read
	Problems int
}

// Scrub verifies what an open store has on the disk: each message of the segments that are sealed, each blob and each
// snapshot, past the page cache. It holds nothing: a segment that is recycled meanwhile is no problem, nor is a blob
// that is removed. It calls Found for each problem and goes on. Its error says why it ended early.
func Scrub(ctx context.Context, c ScrubConfig) (ScrubReport, error) {
	s := &scrub{c: c, ctx: ctx, pace: pacer{ctx: ctx, tail: c.Store.Log.Tail, rate: max(c.Rate, 0)}}
	if c.Rate < 0 {
		s.pace.tail = func() format.LSN { return 0 } // then there is no pause
	}
	s.pace.begin()
	for _, step := range []func() error{s.segments, s.blobs, s.snapshots} {
		if err := step(); err != nil {
			return s.r, err
		}
	}
	return s.r, nil
}

// scrub is one run of Scrub. It belongs to one goroutine.
type scrub struct {
	c    ScrubConfig
	ctx  context.Context
	pace pacer
	r    ScrubReport
}

// within calls f, which uses the store's files, unless the store is closed or the context has ended.
func (s *scrub) within(f func() error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	call, err := s.c.Enter()
	if err != nil {
		return err
	}
	defer call.End()
	return f()
}

// problem reports a problem, and returns any other error.
func (s *scrub) problem(err error) error {
	isProblem := errors.Is(err, recovery.ErrCorrupt) || errors.Is(err, format.ErrSnapshot)
	if err == nil || !isProblem {
		return err
	}
	s.r.Problems++
	s.c.Found(err)
	return nil
}

// segments verifies the segments that are sealed now.
func (s *scrub) segments() (err error) {
	store := s.c.Store
	var r *logstore.ImageReader
	if err := s.within(func() error { r, err = store.OpenImages(); return err }); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for _, f := range store.Space.Below(store.Log.StableEnd()) {
		if err := s.segment(r, f); err != nil {
			return err
		}
	}
	return nil
}

// segment verifies a segment, unless it is being written, or nothing in it is live.
func (s *scrub) segment(r *logstore.ImageReader, f segments.Found) error {
	store := s.c.Store
	g := logstore.ImageSegment{Slot: f.Slot, Base: f.Base, Identity: f.Identity, Seed: f.Seed, Used: store.Used(f.Base)}
	there := func() bool {
		seg := store.Space.Segment(g.Slot)
		return seg.State() == segments.StateInactive && seg.Base() == g.Base
	}
	for done := 0; done < g.Used && there(); {
		from := done
		err := s.within(func() (err error) {
			done, err = r.Read(g, done, logstore.Piece)
			return err
		})
		if s.r.Bytes += int64(done - from); err != nil {
			if !there() {
				return nil
			}
			if err := s.problem(err); err != nil {
				return err
			}
			return nil // a part of it cannot be read
		}
		if err := s.pace.rest(done - from); err != nil {
			return err
		}
	}
	if !there() {
		return nil
	}
	bad, err := s.verify(r.Bytes(g), g)
	if !there() { // it was recycled, and perhaps written again, while it was read
		return nil
	}
	s.r.Segments++
	for _, problem := range bad {
		if err := s.problem(problem); err != nil {
			return err
		}
	}
	return err
}

// verify returns the problems of a segment's bytes: one for each run of bytes that are no valid messages.
func (s *scrub) verify(b []byte, g logstore.ImageSegment) (bad []error, err error) {
	sb := &s.c.Store.Super
	want := segment{slot: g.Slot, used: g.Used, base: g.Base, identity: g.Identity}
	effort := format.SearchEffort * len(b)
	for from := 0; from < len(b) && s.ctx.Err() == nil; {
		at, err := from, error(nil)
		if from == 0 {
			at, err = checkSegment(b, want, sb, nil)
		} else {
			at, err = walk(b, from, g.Base, g.Seed, nil)
		}
		if err == nil {
			break
		}
		off := g.Slot.Offset(sb.SegmentSize) + format.Offset(at)
		place := recovery.Place{}.WithSlot(g.Slot).WithOffset(off).WithLSN(g.Base + format.LSN(at))
		bad = append(bad, &recovery.CorruptError{File: s.c.Store.LogFile(), Place: place, Err: err})
		if at < format.SegmentStart { // the header
			from = format.SegmentStart
			continue
		}
		at += format.Align
		from = at + format.NextMessage(b[at:], g.Base+format.LSN(at), g.Seed, &effort)
	}
	return bad, s.ctx.Err()
}

// blobs verifies the blobs that exist now.
func (s *scrub) blobs() error {
	for _, id := range s.c.Blobs.IDs() {
		if err := s.blob(id); err != nil {
			return err
		}
	}
	return nil
}

func (s *scrub) blob(id format.BlobID) error {
	var f vfs.File
	err := s.within(func() (err error) { f, err = s.c.Blobs.OpenFile(id); return err })
	if err == nil {
		err = s.contents(f, id)
		_ = f.Close()
	}
	if err != nil && !s.c.Blobs.Has(id) { // it was removed meanwhile
		return nil
	}
	s.r.Blobs++
	if err != nil {
		err = blobError(s.c.Blobs, id, err)
	}
	return s.problem(err)
}

// contents verifies the contents of a blob.
func (s *scrub) contents(f vfs.File, id format.BlobID) error {
	c := blobCheck{id: id, store: s.c.Store.Super.Store}
	buf := make([]byte, piece)
	for off := int64(0); ; {
		var n int
		err := s.within(func() (err error) {
			n, err = f.ReadAt(buf, off)
			return err
		})
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if off += int64(n); n > 0 {
			s.r.Bytes += int64(n)
			if err := c.add(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return c.end()
		}
		if err := s.pace.rest(n); err != nil {
			return err
		}
	}
}

// snapshots verifies the snapshots. One that a newer one replaces meanwhile is no problem.
func (s *scrub) snapshots() error {
	ids, err := s.c.Snaps.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := s.within(func() error { return s.c.Snaps.Verify(id) })
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := s.problem(snapshotError(s.c.Snaps, id, err)); err != nil {
			return err
		}
		s.pace.start = time.Now()
	}
	return nil
}

// snapshotError returns the error for a snapshot that is corrupt because of err, and any other err as it is.
func snapshotError(s *snapshot.Store, id format.SnapshotID, err error) error {
	if errors.Is(err, format.ErrSnapshot) && !errors.Is(err, recovery.ErrCorrupt) {
		return &recovery.CorruptError{File: s.Path(id), Err: err}
	}
	return err
}

// CheckFiles verifies the snapshots of a store, and that it has the file of each blob. It reads no contents of blobs.
// Errors are *recovery.CorruptError and those of reading.
func CheckFiles(blobs *blob.Store, snaps *snapshot.Store) error {
	err := blobs.CheckFiles()
	ids, idsErr := snaps.IDs()
	for _, id := range ids {
		err = errors.Join(err, snapshotError(snaps, id, snaps.Verify(id)))
	}
	return errors.Join(err, idsErr)
}
