package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"pagecache/segments/format"
)

// Info describes a stream, or a chain of streams, that was read to its end.
type Info struct {
	Store       format.StoreID
	Timeline    format.Timeline // to which the cut belongs
	LSN         format.LSN      // the cut: everything below it is in the checkpoint
	Since       format.LSN      // of the first stream: the cut that it continues; 0 if it is complete
	Format      string          // name of the format of the pages
	SegmentSize int             // in bytes
	Segments    int             // of the log
	Blobs       int
	Streams     int
	Bytes       int64 // of all streams
}

// blobCheck verifies the file of a blob, piece by piece.
type blobCheck struct {
	id    format.BlobID
	store format.StoreID
	ptr   format.BlobPtr
	left  int64 // bytes that are missing
	begun bool
	crc   uint32
}

// add adds the next piece.
func (c *blobCheck) add(b []byte) error {
	if !c.begun {
		ptr, store, err := format.DecodeBlobHeader(b)
		if err != nil {
			return err
		}
		if ptr.ID != c.id || store != c.store {
			return fmt.Errorf("%w: its header is that of blob %v", format.ErrBlob, ptr.ID)
		}
		c.ptr, c.left, c.begun = ptr, ptr.Len, true
		b = b[format.BlobHeaderSize:]
	}
	if c.left -= int64(len(b)); c.left < 0 {
		return fmt.Errorf("%w: its file is longer than its header says", format.ErrBlob)
	}
	c.crc = crc32.Update(c.crc, castagnoli, b)
	return nil
}

// end returns an error unless the blob is whole.
func (c *blobCheck) end() error {
	if !c.begun || c.left > 0 {
		return fmt.Errorf("%w: %d bytes of blob %v are missing", format.ErrBlob, c.left, c.id)
	}
	if c.crc != c.ptr.CRC {
		return fmt.Errorf("%w: wrong checksum of the contents of blob %v", format.ErrBlob, c.id)
	}
	return nil
}

// A sink takes the contents of a stream, each of which was verified. Bytes are valid until it returns.
type sink interface {
	// begin is called first, and before anything that belongs to the stream. old has what stays of the state that the
	// stream continues.
	begin(b begin, list []segment, old *state) error
	segment(g segment, b []byte) error
	// snapshot is called before the pieces of a snapshot.
	snapshot(id format.SnapshotID, size int64) error
	snapshotData(off int64, b []byte) error
	// blobs is called with the ids of all blobs of the state: no other one stays.
	blobs(keep map[format.BlobID]bool) error
	blobData(id format.BlobID, off int64, b []byte) error
}

// state is what a chain of streams adds up to.
type state struct {
	super    format.Superblock
	segments map[format.Identity]segment
	blobs    map[format.BlobID]bool // those that are there
}

// reading is one stream being read.
type reading struct {
	ctx  context.Context
	in   partReader
	to   sink // nil: it is only verified
	old  *state
	b    begin
	list []segment
	keep map[format.BlobID]bool
	have map[format.BlobID]bool
	p    part // the part that was read last
}

// errOrder reports a part in a place where it cannot be.
var errOrder = errors.New("a part is not in its place")

// readChain reads streams, each of which continues the one before, and gives their contents to to, which may be nil.
// names are those of the streams, for errors.
func readChain(ctx context.Context, to sink, streams []io.Reader) (info Info, st *state, err error) {
	for i, r := range streams {
		name := "checkpoint stream"
		if f, ok := r.(interface{ Name() string }); ok {
			name = f.Name()
		} else if len(streams) > 1 {
			name = fmt.Sprintf("checkpoint stream %d", i+1)
		}
		x := &reading{ctx: ctx, in: partReader{r: r, name: name}, to: to, old: st}
		if err := x.read(); err != nil {
			return info, nil, err
		}
		if i == 0 {
			info.Since = x.b.since
		}
		st = x.state()
		info.Bytes += x.in.at
		info.Streams++
	}
	if st == nil {
		return info, nil, errors.New("no stream was given")
	}
	sb := &st.super
	info.Store, info.Timeline, info.LSN, info.Format = sb.Store, sb.Timeline, sb.End, sb.Name
	info.SegmentSize, info.Segments, info.Blobs = sb.SegmentSize, len(st.segments), len(st.blobs)
	return info, st, nil
}

// Verify reads streams, of which the first may be complete or incremental, and each other one continues the one before.
// It returns a *recovery.CorruptError with the offset if one of them is not what Write has written, and an error that
// wraps ErrChain if they do not belong together.
func Verify(ctx context.Context, streams ...io.Reader) (Info, error) {
	info, _, err := readChain(ctx, nil, streams)
	return info, err
}

// ErrChain reports an incremental stream that does not continue the state before it.
var ErrChain = errors.New("the stream does not continue what is before it")

// state returns what there is after the stream.
func (x *reading) state() *state {
	st := &state{super: x.b.super, segments: map[format.Identity]segment{}, blobs: x.have}
	for _, g := range x.list {
		st.segments[g.identity] = g
	}
	return st
}

// next reads the next part.
func (x *reading) next() (err error) {
	if err := x.ctx.Err(); err != nil {
		return context.Cause(x.ctx)
	}
	x.p, err = x.in.next()
	return err
}

// fail returns the error for the part that was read last.
func (x *reading) fail(err error) error { return x.in.corrupt(x.p.at, err) }

func (x *reading) read() error {
	if err := x.next(); err != nil {
		return err
	}
	for _, step := range []func() error{x.begin, x.segments, x.sentSegments, x.snapshot, x.blobs, x.blobData} {
		if err := step(); err != nil {
			return err
		}
	}
	if x.p.kind != kindEnd {
		return x.fail(errOrder)
	}
	if err := checkEnd(x.p, x.in.parts-1); err != nil {
		return x.fail(err)
	}
	return nil
}

func (x *reading) begin() (err error) {
	if x.p.kind != kindBegin || x.p.number != 0 {
		return x.fail(errOrder)
	}
	if x.b, err = decodeBegin(x.p.payload); err != nil {
		return x.fail(err)
	}
	if old := x.old; old != nil {
		sb := &x.b.super
		if x.b.since == 0 || x.b.since != old.super.End || sb.Store != old.super.Store ||
			sb.SegmentSize != old.super.SegmentSize {
			return fmt.Errorf("%s: %w: it continues LSN %d of store %v, before it is LSN %d of store %v",
				x.in.name, ErrChain, x.b.since, sb.Store, old.super.End, old.super.Store)
		}
	}
	return x.next()
}

// segments reads the list of the segments.
func (x *reading) segments() error {
	after := format.NoLSN
	slots := map[format.SegmentID]bool{}
	for len(x.list) < x.b.segments {
		p := x.p.payload
		if x.p.kind != kindSegments || x.p.number != uint64(len(x.list)) || len(p) == 0 || len(p)%segmentSize != 0 ||
			len(p)/segmentSize > x.b.segments-len(x.list) {
			return x.fail(errOrder)
		}
		for ; len(p) > 0; p = p[segmentSize:] {
			g, err := decodeSegment(p[:segmentSize], &x.b.super, after)
			if err == nil && slots[g.slot] {
				err = fmt.Errorf("two segments in slot %v", g.slot)
			}
			if err == nil && !g.sent && x.b.since == 0 {
				err = errors.New("a complete stream lacks a segment")
			}
			if err != nil {
				return x.fail(err)
			}
			after, slots[g.slot] = g.base, true
			x.list = append(x.list, g)
		}
		if err := x.next(); err != nil {
			return err
		}
	}
	if want := slotsOf(x.list); x.b.super.Extent.Slots != want {
		return x.fail(fmt.Errorf("its log file has %d slots, and its segments need %d", x.b.super.Extent.Slots, want))
	}
	if err := x.continues(); err != nil {
		return err
	}
	if x.to != nil {
		return x.to.begin(x.b, x.list, x.old)
	}
	return nil
}

// slotsOf returns the number of slots up to the last one that holds a segment.
func slotsOf(list []segment) (n uint32) {
	for _, g := range list {
		n = max(n, uint32(g.slot)+1)
	}
	return n
}

// continues checks that the segments which the stream does not have are there, unless nothing is.
func (x *reading) continues() error {
	if x.old == nil {
		return nil
	}
	for _, g := range x.list {
		if g.sent {
			continue
		}
		old, ok := x.old.segments[g.identity]
		if old.sent = g.sent; !ok || old != g {
			return fmt.Errorf("%s: %w: it lacks the segment of LSN %d in slot %v", x.in.name, ErrChain, g.base, g.slot)
		}
	}
	return nil
}

// sentSegments reads the segments that the stream has.
func (x *reading) sentSegments() error {
	for i, g := range x.list {
		if !g.sent {
			continue
		}
		if x.p.kind != kindSegment || x.p.number != uint64(i) || len(x.p.payload) != g.used {
			return x.fail(errOrder)
		}
		if at, err := checkSegment(x.p.payload, g, &x.b.super, nil); err != nil {
			return x.in.corrupt(x.p.at+partHeaderSize+int64(at), err)
		}
		if x.to != nil {
			if err := x.to.segment(g, x.p.payload); err != nil {
				return err
			}
		}
		if err := x.next(); err != nil {
			return err
		}
	}
	return nil
}

// snapshot reads the snapshot, if there is one.
func (x *reading) snapshot() error {
	if x.p.kind != kindSnapshot {
		return nil
	}
	id, ok := format.ParseSnapshotName(string(x.p.payload))
	size := x.p.number
	if !ok || id.Store != x.b.super.Store || size > 1<<62 {
		return x.fail(fmt.Errorf("%.80q is no snapshot of the store", x.p.payload))
	}
	if x.to != nil {
		if err := x.to.snapshot(id, int64(size)); err != nil {
			return err
		}
	}
	if err := x.next(); err != nil {
		return err
	}
	for off := uint64(0); off < size; {
		n := uint64(len(x.p.payload))
		if x.p.kind != kindSnapshotData || x.p.number != off || n == 0 || n > size-off {
			return x.fail(errOrder)
		}
		if x.to != nil {
			if err := x.to.snapshotData(int64(off), x.p.payload); err != nil {
				return err
			}
		}
		off += n
		if err := x.next(); err != nil {
			return err
		}
	}
	return nil
}

// blobs reads the list of the blobs.
func (x *reading) blobs() error {
	x.keep, x.have = map[format.BlobID]bool{}, map[format.BlobID]bool{}
	last := format.BlobID(0)
	for n := 0; n < x.b.blobs; {
		p := x.p.payload
		if x.p.kind != kindBlobs || x.p.number != uint64(n) || len(p) == 0 || len(p)%8 != 0 || len(p)/8 > x.b.blobs-n {
			return x.fail(errOrder)
		}
		for ; len(p) > 0; p = p[8:] {
			id := format.BlobID(binary.LittleEndian.Uint64(p))
			if n > 0 && id <= last {
				return x.fail(errOrder)
			}
			if last = id; x.old != nil && x.old.blobs[id] {
				x.have[id] = true
			}
			x.keep[id] = true
			n++
		}
		if err := x.next(); err != nil {
			return err
		}
	}
	if x.to != nil {
		return x.to.blobs(x.keep)
	}
	return nil
}

// blobData reads the blobs that the stream has.
func (x *reading) blobData() error {
	last, first := uint64(0), true
	for x.p.kind == kindBlob {
		id := format.BlobID(x.p.number)
		if !x.keep[id] || !first && x.p.number <= last {
			return x.fail(errOrder)
		}
		if err := x.oneBlob(id); err != nil {
			return err
		}
		x.have[id], last, first = true, uint64(id), false
	}
	return nil
}

// oneBlob reads a blob.
func (x *reading) oneBlob(id format.BlobID) error {
	c := blobCheck{id: id, store: x.b.super.Store}
	for off := int64(0); x.p.kind == kindBlob && x.p.number == uint64(id); {
		if err := c.add(x.p.payload); err != nil {
			return x.fail(err)
		}
		if x.to != nil {
			if err := x.to.blobData(id, off, x.p.payload); err != nil {
				return err
			}
		}
		off += int64(len(x.p.payload))
		if err := x.next(); err != nil {
			return err
		}
	}
	if err := c.end(); err != nil {
		return x.fail(err)
	}
	return nil
}
