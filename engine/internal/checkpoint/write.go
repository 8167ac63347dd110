package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/snapshot"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Config is what checkpoints of an open page store need of it.
type Config struct {
	Store *logstore.Store
	Blobs *blob.Store
	Snaps *snapshot.Store
	// Hold cuts the log and holds what lies below.
	Hold func() *logstore.Hold
	// Kick makes the cleaner look at what a hold has kept.
	Kick func()
	// Enter begins a use of the store's files, which End ends. It fails once the store is closed.
	Enter func() (*scope.Scope, error)
	// NextID and NextPage return the next id, and the lowest page id that was never handed out.
	NextID   func() uint64
	NextPage func() format.PageID
}

// A Checkpoint is a page store as it was at one moment. It is safe for concurrent use.
type Checkpoint struct {
	c     Config
	image logstore.Image
	log   *logstore.Hold
	blobs *blob.Hold
	snap  source // the store's newest snapshot; without a file if there is none

	turn   chan struct{} // has one element while a stream is written, and for ever once the checkpoint is closed
	closed chan struct{} // closed when Close begins
	once   sync.Once
	mu     sync.Mutex // held while a View begins and while the holds end
}

// source is the file of a snapshot.
type source struct {
	file vfs.File
	id   format.SnapshotID
	size int64
}

// errClosed reports that the checkpoint was closed.
var errClosed = fmt.Errorf("checkpoint: %w", iobuf.ErrClosed)

// cutTries is the number of times that Begin tries to cut the log where no segment is about to leave.
const cutTries = 3

// Begin takes a checkpoint. It writes what is buffered in memory, so that the checkpoint has it, unless a batch that is
// open keeps it from becoming stable; Begin waits for no batch.
func Begin(c Config) (*Checkpoint, error) {
	call, err := c.Enter()
	if err != nil {
		return nil, err
	}
	defer call.End()
	k := &Checkpoint{c: c, closed: make(chan struct{}), turn: make(chan struct{}, 1)}
	// In this order: a snapshot lies below each later cut, and no blob is removed that a page refers to at the cut.
	if k.snap, err = newestSnapshot(c.Snaps); err != nil {
		return nil, err
	}
	k.blobs = c.Blobs.Hold()
	k.log = k.cut()
	k.image = k.log.Image()
	// After the cut: whatever lies below it has lower ids.
	k.image.Super.NextID, k.image.Super.NextPage = c.NextID(), min(c.NextPage(), format.MaxPageID+1)
	k.blobs.Keep(k.image.Super.End)
	return k, nil
}

// cut cuts the log. A log that has stopped is cut where it stopped (rule 19).
func (k *Checkpoint) cut() *logstore.Hold {
	log := k.c.Store.Log
	for tries := 1; ; tries++ {
		if tail := log.Tail(); tail > log.StableEnd() {
			_ = log.MakeDurable(tail - 1)
		}
		h := k.c.Hold()
		if !h.Late() || tries == cutTries {
			return h
		}
		h.Release()
	}
}

// newestSnapshot opens the newest good snapshot of the store. It stays readable although a newer one takes its place.
func newestSnapshot(s *snapshot.Store) (found source, err error) {
	ids, err := s.IDs()
	if err != nil {
		return found, err
	}
	for _, id := range slices.Backward(ids) {
		f, err := s.OpenFile(id)
		if errors.Is(err, fs.ErrNotExist) { // a newer one has just taken its place
			continue
		}
		if err != nil {
			return found, err
		}
		size, err := f.Size()
		if err == nil {
			err = s.Verify(id)
		}
		if err == nil {
			return source{f, id, size}, nil
		}
		_ = f.Close()
		bad := errors.Is(err, recovery.ErrCorrupt) || errors.Is(err, format.ErrSnapshot)
		if !bad && !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	return found, nil // the log alone is enough
}

// LSN returns the cut: the checkpoint has everything below it, and nothing else.
func (k *Checkpoint) LSN() format.LSN { return k.image.Super.End }

// Timeline returns the timeline to which the cut belongs.
func (k *Checkpoint) Timeline() format.Timeline { return k.image.Super.Timeline }

// Close releases everything that the checkpoint holds. A Write that is under way ends with an error that wraps
// iobuf.ErrClosed, and Close waits for that. More than one call does no harm.
func (k *Checkpoint) Close() {
	k.once.Do(func() {
		close(k.closed)
		k.turn <- struct{}{} // no Write is under way, and none begins
		k.mu.Lock()
		defer k.mu.Unlock()
		k.log.Release()
		k.blobs.Release()
		if k.snap.file != nil {
			_ = k.snap.file.Close()
		}
		k.c.Kick()
	})
}

// Write writes the checkpoint to w as a stream of parts. If since is not 0, it is the cut of an older checkpoint of the
// store: the stream continues that one, and has only what is newer. It returns the number of bytes written. It verifies
// every byte that it reads, and stops with a *recovery.CorruptError if one is corrupt. While the store is written to,
// it pauses. One stream is written at a time; others wait, within their contexts.
func (k *Checkpoint) Write(ctx context.Context, w io.Writer, since format.LSN) (int64, error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-k.closed:
		return 0, errClosed
	}
	if since < 0 || since > k.LSN() {
		return 0, fmt.Errorf("%w: LSN %d is not that of an older checkpoint; this one is of LSN %d", ErrChain, since,
			k.LSN())
	}
	s := &writing{k: k, ctx: ctx, since: since, out: partWriter{w: w}, named: map[format.BlobID]bool{},
		pace: pacer{ctx: ctx, closed: k.closed, tail: k.c.Store.Log.Tail}}
	if err := s.within(ctx.Err); err != nil {
		return 0, err
	}
	for _, step := range []func() error{s.begin, s.segments, s.snapshot, s.blobs, s.out.end} {
		if err := step(); err != nil {
			return s.out.at, err
		}
	}
	return s.out.at, nil
}

// writing is one stream being written. It belongs to one goroutine.
type writing struct {
	k     *Checkpoint
	ctx   context.Context
	since format.LSN
	out   partWriter
	list  []segment
	named map[format.BlobID]bool // blobs that messages point to which the stream has
	pace  pacer
}

// within calls f, which uses the store's files, unless the store or the checkpoint is closed or the context has ended.
func (s *writing) within(f func() error) error {
	select {
	case <-s.k.closed:
		return errClosed
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	default:
	}
	call, err := s.k.c.Enter()
	if err != nil {
		return err
	}
	defer call.End()
	return f()
}

// begin writes the first part and the list of segments. Those that end at or below since are as they were then: only
// the last segment of a log moves or grows.
func (s *writing) begin() error {
	img := &s.k.image
	size := format.LSN(img.Super.SegmentSize)
	for _, g := range img.Segments {
		s.list = append(s.list, segment{slot: g.Slot, used: g.Used, base: g.Base, identity: g.Identity,
			sent: g.Base+size > s.since || s.since == 0})
	}
	b := begin{since: s.since, segments: len(s.list), blobs: len(s.k.blobs.IDs()), super: img.Super}
	if err := s.out.put(kindBegin, 0, b.append(nil)); err != nil {
		return err
	}
	const most = MaxPayload / segmentSize
	first := 0
	for some := range slices.Chunk(s.list, most) {
		var p []byte
		for i := range some {
			p = some[i].append(p)
		}
		if err := s.out.put(kindSegments, uint64(first), p); err != nil {
			return err
		}
		first += len(some)
	}
	s.pace.begin()
	return nil
}

// segments writes the segments that the list says are sent. A goroutine reads one while the one before is verified and
// written.
func (s *writing) segments() (err error) {
	a, err := s.readAhead()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	for f := range a.read {
		if f.err != nil {
			return f.err
		}
		if err := s.segment(f); err != nil {
			return err
		}
		a.free <- f.from // has room for all of them
	}
	return nil
}

// segment verifies and writes a segment.
func (s *writing) segment(f fetched) error {
	g, store := &s.list[f.i], s.k.c.Store
	start := time.Now()
	at, err := checkSegment(f.bytes, *g, &s.k.image.Super, func(p format.BlobPtr) { s.named[p.ID] = true })
	if err != nil {
		off := g.slot.Offset(store.SegmentSize()) + format.Offset(at)
		place := recovery.Place{}.WithSlot(g.slot).WithOffset(off)
		return &recovery.CorruptError{File: store.LogFile(), Place: place, Err: err}
	}
	s.pace.beside.Add(int64(time.Since(start)))
	return s.out.put(kindSegment, uint64(f.i), f.bytes)
}

// fetched is a segment that was read: its index in the list, its bytes, and the reader that they belong to.
type fetched struct {
	i     int
	bytes []byte
	from  *logstore.ImageReader
	err   error // why it was not read; no segment follows
}

// ahead is the goroutine that reads segments.
type ahead struct {
	read chan fetched               // closed when all were read, or one was not
	free chan *logstore.ImageReader // those whose bytes are written
	quit chan struct{}              // closed by close
	all  []*logstore.ImageReader
}

// readAhead starts the goroutine. It reads into the memory of two segments.
func (s *writing) readAhead() (*ahead, error) {
	const readers = 2
	a := &ahead{read: make(chan fetched), free: make(chan *logstore.ImageReader, readers), quit: make(chan struct{})}
	for range readers {
		err := s.within(func() error {
			r, err := s.k.c.Store.OpenImages()
			if err == nil {
				a.all = append(a.all, r)
				a.free <- r
			}
			return err
		})
		if err != nil {
			close(a.read)
			return nil, errors.Join(err, a.close())
		}
	}
	go a.run(s)
	return a, nil
}

// run reads the segments that are sent.
func (a *ahead) run(s *writing) {
	defer close(a.read)
	for i, g := range s.k.image.Segments {
		if !s.list[i].sent {
			continue
		}
		select {
		case r := <-a.free:
			f := fetched{i: i, from: r}
			f.bytes, f.err = s.readSegment(r, g)
			select {
			case a.read <- f:
			case <-a.quit:
				return
			}
			if f.err != nil {
				return
			}
		case <-a.quit:
			return
		}
	}
}

// close ends the goroutine and releases its memory.
func (a *ahead) close() (err error) {
	close(a.quit)
	for range a.read { // until it has ended
	}
	for _, r := range a.all {
		err = errors.Join(err, r.Close())
	}
	return err
}

// readSegment reads a segment, piece by piece.
func (s *writing) readSegment(r *logstore.ImageReader, g logstore.ImageSegment) ([]byte, error) {
	for done := 0; done < g.Used; {
		if err := s.pace.rest(0); err != nil {
			return nil, err
		}
		err := s.within(func() (err error) {
			done, err = r.Read(g, done, s.pace.piece())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return r.Bytes(g), nil
}

// piece is the length in bytes of one part of a snapshot or blob.
const piece = 1 << 20

// copyFile reads size bytes of a file and calls put with each piece of them, and its offset. It returns the error of
// put as it is, and that of reading as failed describes it.
func (s *writing) copyFile(f io.ReaderAt, size int64, failed func(error) error, put func(int64, []byte) error) error {
	buf := make([]byte, min(size, piece))
	for off := int64(0); off < size; off += int64(len(buf)) {
		if err := s.pace.rest(0); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), size-off)]
		err := s.within(func() error {
			if _, err := f.ReadAt(b, off); err != nil {
				return failed(err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.pace.away(func() error { return put(off, b) }); err != nil {
			return err
		}
	}
	return nil
}

// snapshotShare is the greatest part of the segments that a snapshot in an incremental stream may be long.
const snapshotShare = 4

// snapshot writes the snapshot. An incremental stream has it only if it is short beside what else the stream has: the
// log that the stream adds to an older snapshot is enough.
func (s *writing) snapshot() error {
	f := &s.k.snap
	if f.file == nil || s.since > 0 && f.size > s.out.at/snapshotShare {
		return nil
	}
	if err := s.out.put(kindSnapshot, uint64(f.size), []byte(f.id.Name())); err != nil {
		return err
	}
	failed := func(err error) error { return fmt.Errorf("read %s: %w", f.file.Name(), err) }
	return s.copyFile(f.file, f.size, failed, func(off int64, b []byte) error {
		return s.out.put(kindSnapshotData, uint64(off), b)
	})
}

// blobs writes the list of the blobs, and those that the segments in the stream point to.
func (s *writing) blobs() error {
	ids := s.k.blobs.IDs()
	first := 0
	for some := range slices.Chunk(ids, MaxPayload/8) {
		var p []byte
		for _, id := range some {
			p = binary.LittleEndian.AppendUint64(p, uint64(id))
		}
		if err := s.out.put(kindBlobs, uint64(first), p); err != nil {
			return err
		}
		first += len(some)
	}
	for _, id := range ids {
		if !s.named[id] {
			continue
		}
		if err := s.blob(id); err != nil {
			return err
		}
	}
	return nil
}

// blob writes one blob.
func (s *writing) blob(id format.BlobID) error {
	var f vfs.File
	err := s.within(func() (err error) {
		if f, err = s.k.c.Blobs.OpenFile(id); err != nil {
			err = blobError(s.k.c.Blobs, id, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	c := blobCheck{id: id, store: s.k.image.Super.Store}
	failed := func(err error) error { return blobError(s.k.c.Blobs, id, err) }
	err = s.copyFile(f, s.k.blobs.Size(id), failed, func(_ int64, b []byte) error {
		if err := c.add(b); err != nil {
			return failed(err)
		}
		return s.out.put(kindBlob, uint64(id), b)
	})
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return failed(err)
	}
	return nil
}

// blobError returns the error for a blob that is missing, unreadable or corrupt because of err, and any other err as it
// is.
func blobError(s *blob.Store, id format.BlobID, err error) error {
	bad := errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) || errors.Is(err, format.ErrBlob) ||
		vfs.IsUnreadable(err)
	if bad {
		return s.Corrupt(id, err)
	}
	return err
}
