package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Version is the version of the format of streams.
const Version = 1

// A stream is parts, one after another. A part is a header and then its payload:
//
//	 0  4  magic "PCKP"
//	 4  2  version
//	 6  1  kind
//	 7  1  zero
//	 8  8  number; its meaning depends on the kind
//	16  8  length of the payload in bytes, at most MaxPayload
//	24  4  CRC-32C of the payload
//	28  4  CRC-32C of bytes 0…27, from the one of the part before
//
// Since each header's checksum starts from the one before, no part is missing, repeated or in another place.
const partHeaderSize = 32

// MaxPayload is the length in bytes of the longest payload: a segment.
const MaxPayload = format.MaxSegmentSize

const partMagic = "PCKP"

// kind is the kind of a part. In streams: do not renumber.
type kind uint8

// The kinds of parts, in the order in which they follow each other.
const (
	kindBegin        kind = iota + 1 // what the stream is of
	kindSegments                     // list of the segments of the log; number: index of the first
	kindSegment                      // a segment's bytes; number: its index
	kindSnapshot                     // name of the snapshot; number: its length in bytes
	kindSnapshotData                 // number: offset in the snapshot
	kindBlobs                        // list of the ids of the blobs; number: index of the first
	kindBlob                         // bytes of a blob's file; number: id
	kindEnd                          // the stream is whole
)

// String returns the kind's name.
func (k kind) String() string {
	names := [...]string{"invalid", "begin", "segments", "segment", "snapshot", "snapshot-data", "blobs", "blob", "end"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// begin is the payload of the first part:
//
//	 0     8  since: 0, or the cut of the checkpoint that the stream continues
//	 8     4  number of segments
//	12     4  number of blobs
//	16  4096  the superblock
type begin struct {
	since    format.LSN
	segments int
	blobs    int
	super    format.Superblock
}

const beginSize = 16 + format.SuperCopySize

func (b *begin) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.since))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(b.segments))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(b.blobs))
	return append(dst, b.super.Append(nil)[:format.SuperCopySize]...)
}

// errBegin reports a first part that no store has written.
var errBegin = errors.New("it is not of a page store")

func decodeBegin(p []byte) (b begin, err error) {
	if len(p) != beginSize {
		return b, fmt.Errorf("%d bytes, want %d", len(p), beginSize)
	}
	b.since = format.LSN(binary.LittleEndian.Uint64(p))
	b.segments = int(binary.LittleEndian.Uint32(p[8:]))
	b.blobs = int(binary.LittleEndian.Uint32(p[12:]))
	if b.super, err = format.DecodeSuperblock(p[16:]); err != nil {
		return b, err
	}
	sb := &b.super
	if sb.Log || !sb.Clean || sb.Begun != (b.segments > 0) || b.since < 0 || b.since > sb.End ||
		int64(b.segments) > int64(sb.Extent.Slots) || sb.Extent.Slots > segments.MaxSlots {
		return b, errBegin
	}
	return b, nil
}

// segment is an entry of the list of segments.
//
//	 0  4  slot
//	 4  4  used: bytes up to the end of the last message, header included
//	 8  8  base
//	16  8  identity
//	24  4  1: the stream has the bytes; 0: the state that it continues has them
//	28  4  zero
type segment struct {
	slot     format.SegmentID
	used     int
	base     format.LSN
	identity format.Identity
	sent     bool
}

const segmentSize = 32

func (g *segment) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(g.slot))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(g.used))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(g.base))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(g.identity))
	var flags uint64
	if g.sent {
		flags = 1
	}
	return binary.LittleEndian.AppendUint64(dst, flags)
}

// decodeSegment decodes an entry of the list. The entry before it, if there is one, has a lower base than after.
func decodeSegment(p []byte, sb *format.Superblock, after format.LSN) (g segment, err error) {
	flags := binary.LittleEndian.Uint64(p[24:])
	g = segment{
		slot: format.SegmentID(binary.LittleEndian.Uint32(p)), used: int(binary.LittleEndian.Uint32(p[4:])),
		base:     format.LSN(binary.LittleEndian.Uint64(p[8:])),
		identity: format.Identity(binary.LittleEndian.Uint64(p[16:])), sent: flags == 1,
	}
	switch {
	case flags > 1, uint32(g.slot) >= sb.Extent.Slots, g.base <= after, g.base >= sb.End,
		int64(g.base)%int64(sb.SegmentSize) != 0, g.used < format.SegmentStart, g.used > sb.SegmentSize,
		g.base+format.LSN(g.used) > sb.End:
		return g, fmt.Errorf("segment in slot %v with base %d and %d bytes: out of bounds", g.slot, g.base, g.used)
	}
	return g, nil
}

// partWriter writes parts.
type partWriter struct {
	w     io.Writer
	at    int64 // bytes written
	parts uint64
	crc   uint32 // of the header of the part before
	head  [partHeaderSize]byte
}

// put writes a part.
func (w *partWriter) put(k kind, number uint64, payload []byte) error {
	b := w.head[:]
	copy(b, partMagic)
	binary.LittleEndian.PutUint16(b[4:], Version)
	b[6], b[7] = byte(k), 0
	binary.LittleEndian.PutUint64(b[8:], number)
	binary.LittleEndian.PutUint64(b[16:], uint64(len(payload)))
	binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(payload, castagnoli))
	w.crc = crc32.Update(w.crc, castagnoli, b[:28])
	binary.LittleEndian.PutUint32(b[28:], w.crc)
	for _, p := range [][]byte{b, payload} {
		n, err := w.w.Write(p)
		if w.at += int64(n); err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
	}
	w.parts++
	return nil
}

// end writes the last part: the number of parts before it (8), and their bytes (8).
func (w *partWriter) end() error {
	p := binary.LittleEndian.AppendUint64(nil, w.parts)
	return w.put(kindEnd, 0, binary.LittleEndian.AppendUint64(p, uint64(w.at)))
}

// part is a part that was read. Its payload is valid until the next one is read.
type part struct {
	kind    kind
	number  uint64
	payload []byte
	at      int64 // offset in the stream
}

// partReader reads and verifies parts.
type partReader struct {
	r     io.Reader
	name  string // of the stream, for errors
	at    int64
	parts uint64
	crc   uint32
	buf   []byte
}

// corrupt returns the error for a stream that is not one that Write has written: at is where.
func (r *partReader) corrupt(at int64, err error) error {
	return &recovery.CorruptError{File: r.name, Place: recovery.Place{}.WithOffset(format.Offset(at)), Err: err}
}

// errEnds reports a stream that ends before its last part.
var errEnds = errors.New("the stream ends early")

// fill reads len(p) bytes. Errors of the reader itself are returned as they are.
func (r *partReader) fill(p []byte) error {
	n, err := io.ReadFull(r.r, p)
	r.at += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.corrupt(r.at, errEnds)
	}
	if err != nil {
		return fmt.Errorf("read %s at offset %d: %w", r.name, r.at, err)
	}
	return nil
}

// next reads a part.
func (r *partReader) next() (p part, err error) {
	var b [partHeaderSize]byte
	p.at = r.at
	if err := r.fill(b[:]); err != nil {
		return p, err
	}
	crc := crc32.Update(r.crc, castagnoli, b[:28])
	version, n := binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint64(b[16:])
	p.kind, p.number = kind(b[6]), binary.LittleEndian.Uint64(b[8:])
	switch {
	case string(b[:4]) != partMagic:
		return p, r.corrupt(p.at, errors.New("this is not a part of a checkpoint"))
	case version != Version:
		return p, r.corrupt(p.at, fmt.Errorf("stream of version %d, this program knows %d", version, Version))
	case crc != binary.LittleEndian.Uint32(b[28:]):
		return p, r.corrupt(p.at, errors.New("wrong checksum of a header, or parts are missing before it"))
	case b[7] != 0 || n > MaxPayload:
		return p, r.corrupt(p.at, fmt.Errorf("part of %d bytes, at most %d", n, MaxPayload))
	}
	r.crc = crc
	if p.payload, err = r.payload(int(n)); err != nil {
		return p, err
	}
	if crc32.Checksum(p.payload, castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
		return p, r.corrupt(p.at, fmt.Errorf("wrong checksum of part %v %d", p.kind, p.number))
	}
	r.parts++
	return p, nil
}

// payload reads n bytes. Memory grows with what was read, whatever a header says (rule 12).
func (r *partReader) payload(n int) ([]byte, error) {
	const step = 1 << 20
	for done := 0; done < n; {
		end := min(done+step, n)
		if len(r.buf) < end {
			r.buf = append(r.buf, make([]byte, end-len(r.buf))...)
		}
		if err := r.fill(r.buf[done:end]); err != nil {
			return nil, err
		}
		done = end
	}
	return r.buf[:n:n], nil
}

// checkEnd checks the last part, before which the reader was at offset at with the given number of parts.
func checkEnd(p part, parts uint64) error {
	if len(p.payload) != 16 || binary.LittleEndian.Uint64(p.payload) != parts ||
		binary.LittleEndian.Uint64(p.payload[8:]) != uint64(p.at) {
		return errors.New("the end does not match the stream")
	}
	return nil
}
