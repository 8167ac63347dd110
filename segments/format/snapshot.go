package format

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A snapshot is a file of blocks of SnapshotBlock bytes:
//
//	block 0            header
//	record blocks      one record for each page id from 0 on, EntriesPerBlock in a block
//	reference blocks   the messages of pages that consist of several; the records of such pages refer to them
//	rest               the segments, the blobs, the commits in parts, for each record block the number of its ids
//	                   that are free, and the roots; the header has the checksum
//
// Record and reference blocks:
//
//	   0 4080  255 entries of 16 bytes
//	4080    4  CRC-32C of bytes 0…4079, from the snapshot's seed and the block's number
//	4084   12  zero
//
// An entry:
//
//	0  8  LSN of the page's newest message
//	8  8  bits 63…60  SnapshotKind
//	      bit  59     the message's body is a BlobPtr
//	      bits 58…32  length of the message in bytes; of SnapshotKindPages the number of references
//	      bits 31…0   zero; of SnapshotKindPages the index of the first reference
const (
	SnapshotBlock     = 4096
	SnapshotEntrySize = 16
	// EntriesPerBlock is the number of entries in a block.
	EntriesPerBlock = (SnapshotBlock - SnapshotEntrySize) / SnapshotEntrySize
)

// The header:
//
//	  0  8  magic "PCSNAP01"
//	  8  4  CRC-32C of bytes 0…7 and 12…4095
//	 12  2  format version (Version)
//	 14  2  zero
//	 16 16  store id
//	 32  8  number of the snapshot
//	 40  8  LSN from which on the log must be read
//	 48  8  LSN up to which the log must be present
//	 56  8  first page id without a record
//	 64  8  highest noted id
//	 72  8  segments that had left the log
//	 80  8  number of references
//	 88  8  number of free page ids
//	 96  4  number of segments
//	100  4  number of blobs
//	104  4  CRC-32C of the bytes after the reference blocks
//	108  4  segment size in bytes
//	112  8  timeline of the opening that wrote the snapshot
//	120  8  sum of the identities of the segments that had left
//	128  8  length of the list of roots in bytes
//	136  4  number of roots
//	140  4  number of commits in parts
const snapshotMagic = "PCSNAP01"

// SnapshotHeader is the first block of a snapshot.
type SnapshotHeader struct {
	Store       StoreID
	Number      uint64
	From        LSN    // messages at or above it may be missing from the snapshot
	High        LSN    // LSN of the newest message in the snapshot; the log was stable beyond it
	NextPage    PageID // the first id without a record
	Counter     uint64 // the highest noted id
	Recycled    uint64 // segments that had left the log
	Refs        int64
	Free        int64 // number of free ids below NextPage
	Segments    int
	Blobs       int
	RestCRC     uint32
	SegmentSize int
	Timeline    Timeline // of the opening that wrote the snapshot
	Left        Identity // sum of the identities of the segments that had left
	RootBytes   int64    // length of the list of roots
	Roots       int
	Decisions   int // commits in parts
}

// ID returns the id of the snapshot.
func (h *SnapshotHeader) ID() SnapshotID { return SnapshotID{h.Store, h.Timeline, h.Number} }

// SnapshotSegment is a segment that was in use.
//
//	0  8  LSN of its first byte
//	8  8  bytes of the messages in it that the records and references name
type SnapshotSegment struct {
	Base LSN
	Live int64
}

// SnapshotBlob is a blob that a page refers to.
//
//	 0  8  page id
//	 8  8  blob id
//	16  8  length of its contents in bytes
type SnapshotBlob struct {
	Page PageID
	ID   BlobID
	Len  int64
}

const (
	snapshotSegmentSize = 16
	snapshotBlobSize    = 24
)

func entryBlocks(n int64) int64 { return (n + EntriesPerBlock - 1) / EntriesPerBlock }

// RecordBlocks returns the number of record blocks.
func (h *SnapshotHeader) RecordBlocks() int64 { return entryBlocks(int64(h.NextPage)) }

// RefBlock returns the number of the first reference block.
func (h *SnapshotHeader) RefBlock() int64 { return 1 + h.RecordBlocks() }

// RestOffset returns the file offset of the rest, where the reference blocks end.
func (h *SnapshotHeader) RestOffset() int64 {
	return (h.RefBlock() + entryBlocks(h.Refs)) * SnapshotBlock
}

// RestSize returns the length of the rest in bytes.
func (h *SnapshotHeader) RestSize() int64 {
	return int64(h.Segments)*snapshotSegmentSize + int64(h.Blobs)*snapshotBlobSize +
		int64(h.Decisions)*snapshotDecisionSize + h.RecordBlocks() + h.RootBytes
}

// Size returns the length of the file in bytes.
func (h *SnapshotHeader) Size() int64 { return h.RestOffset() + h.RestSize() }

// Put encodes h into b, a block.
func (h *SnapshotHeader) Put(b []byte) {
	clear(b[:SnapshotBlock])
	copy(b, snapshotMagic)
	binary.LittleEndian.PutUint16(b[12:], Version)
	copy(b[16:], h.Store[:])
	for i, v := range []uint64{h.Number, uint64(h.From), uint64(h.High), uint64(h.NextPage), h.Counter, h.Recycled,
		uint64(h.Refs), uint64(h.Free)} {
		binary.LittleEndian.PutUint64(b[32+8*i:], v)
	}
	for i, v := range []uint32{uint32(h.Segments), uint32(h.Blobs), h.RestCRC, uint32(h.SegmentSize)} {
		binary.LittleEndian.PutUint32(b[96+4*i:], v)
	}
	binary.LittleEndian.PutUint64(b[112:], uint64(h.Timeline))
	binary.LittleEndian.PutUint64(b[120:], uint64(h.Left))
	binary.LittleEndian.PutUint64(b[128:], uint64(h.RootBytes))
	binary.LittleEndian.PutUint32(b[136:], uint32(h.Roots))
	binary.LittleEndian.PutUint32(b[140:], uint32(h.Decisions))
	binary.LittleEndian.PutUint32(b[8:], headerCRC(b[:SnapshotBlock]))
}

// ErrSnapshot reports that a snapshot is corrupt.
var ErrSnapshot = errors.New("corrupt snapshot")

// DecodeSnapshotHeader decodes and verifies the first block of a file of size bytes. All counts in the result are
// limited by size (rule 12). Its error wraps ErrSnapshot.
func DecodeSnapshotHeader(b []byte, size int64) (SnapshotHeader, error) {
	bad := func(form string, args ...any) (SnapshotHeader, error) {
		return SnapshotHeader{}, fmt.Errorf("%w: "+form, append([]any{ErrSnapshot}, args...)...)
	}
	if len(b) < SnapshotBlock || string(b[:8]) != snapshotMagic {
		return bad("wrong magic")
	}
	if headerCRC(b[:SnapshotBlock]) != binary.LittleEndian.Uint32(b[8:]) {
		return bad("header checksum mismatch")
	}
	if v := binary.LittleEndian.Uint16(b[12:]); v != Version {
		return bad("format version %d, this program knows %d", v, Version)
	}
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[32+8*i:]) }
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(b[96+4*i:]) }
	h := SnapshotHeader{Number: u64(0), From: LSN(u64(1)), High: LSN(u64(2)), NextPage: PageID(u64(3)), Counter: u64(4),
		Recycled: u64(5), Refs: int64(u64(6)), Free: int64(u64(7)),
		Segments: int(u32(0)), Blobs: int(u32(1)), RestCRC: u32(2), SegmentSize: int(u32(3)),
		Timeline: Timeline(binary.LittleEndian.Uint64(b[112:])), Left: Identity(binary.LittleEndian.Uint64(b[120:])),
		RootBytes: int64(binary.LittleEndian.Uint64(b[128:])), Roots: int(binary.LittleEndian.Uint32(b[136:])),
		Decisions: int(binary.LittleEndian.Uint32(b[140:]))}
	copy(h.Store[:], b[16:])
	most := size / SnapshotEntrySize
	if h.RootBytes < 0 || h.RootBytes > size {
		return bad("a list of roots of %d bytes in %d bytes", h.RootBytes, size)
	}
	if h.From < 0 || h.High < NoLSN || uint64(h.NextPage) > uint64(most) || h.Refs < 0 || h.Refs > most ||
		h.Free < 0 || h.Free > int64(h.NextPage) || h.SegmentSize < MinSegmentSize || h.SegmentSize > MaxSegmentSize ||
		h.Size() != size {
		return bad("a header field is out of range: the header calls for %d bytes, the file has %d", h.Size(), size)
	}
	return h, nil
}

// Seed returns the value from which the checksums of the snapshot's blocks start.
func (h *SnapshotHeader) Seed() Seed { return MakeSeed(h.Store, Generation(h.Number), 0) }

// SnapshotKind is the kind of an entry of a snapshot. On disk: do not renumber.
type SnapshotKind uint8

// The kinds of entry.
const (
	SnapshotKindNone    SnapshotKind = 0 // the page did not exist, or was allocated after From
	SnapshotKindPage    SnapshotKind = 1 // a page that is one message; in reference blocks: one message of a page
	SnapshotKindPages   SnapshotKind = 2 // a page of several messages, in reference blocks
	SnapshotKindFree    SnapshotKind = 3 // a free page
	SnapshotKindRoot    SnapshotKind = 4 // a root, which is in the list of roots
	SnapshotKindCounter SnapshotKind = 5 // the counter page
	snapshotKindLast                 = SnapshotKindCounter
)

// String returns the kind's name.
func (k SnapshotKind) String() string {
	if names := [...]string{"none", "page", "pages", "free", "root", "counter"}; int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// SnapshotEntry is a record or a reference.
type SnapshotEntry struct {
	Kind  SnapshotKind
	LSN   LSN
	Len   uint32 // length of the message in bytes; of SnapshotKindPages the number of references
	Blob  bool   // the message's body is a BlobPtr
	First uint32 // of SnapshotKindPages the index of the first reference
}

// Put encodes e into the first SnapshotEntrySize bytes of b.
func (e SnapshotEntry) Put(b []byte) {
	v := uint64(e.Kind)<<60 | uint64(e.Len)<<32 | uint64(e.First)
	if e.Blob {
		v |= 1 << 59
	}
	binary.LittleEndian.PutUint64(b, uint64(e.LSN))
	binary.LittleEndian.PutUint64(b[8:], v)
}

// GetSnapshotEntry decodes the entry at the beginning of b and checks it against the header h. Its error wraps
// ErrSnapshot.
func GetSnapshotEntry(b []byte, h *SnapshotHeader) (SnapshotEntry, error) {
	v := binary.LittleEndian.Uint64(b[8:])
	e := SnapshotEntry{Kind: SnapshotKind(v >> 60), LSN: LSN(binary.LittleEndian.Uint64(b)),
		Len: uint32(v >> 32 & (1<<27 - 1)), Blob: v>>59&1 != 0, First: uint32(v)}
	if e.Kind == SnapshotKindNone {
		return SnapshotEntry{}, nil
	}
	ok := e.Kind <= snapshotKindLast && !e.LSN.IsZero() && e.LSN <= h.High
	if e.Kind == SnapshotKindPages {
		ok = ok && e.Len >= 1 && int64(e.First)+int64(e.Len) <= h.Refs
	} else {
		ok = ok && e.Len >= HeaderSize && int64(e.LSN)%int64(h.SegmentSize)+int64(e.Len) <= int64(h.SegmentSize)
	}
	if !ok {
		return e, fmt.Errorf("%w: invalid entry %+v", ErrSnapshot, e)
	}
	return e, nil
}

// SealSnapshotBlock writes the checksum of b, the block of entries with the given number.
func SealSnapshotBlock(b []byte, seed Seed, number int64) {
	clear(b[SnapshotBlock-SnapshotEntrySize : SnapshotBlock])
	binary.LittleEndian.PutUint32(b[SnapshotBlock-SnapshotEntrySize:], blockCRC(b, seed, number))
}

// CheckSnapshotBlock verifies the checksum of b, the block of entries with the given number. Its error wraps
// ErrSnapshot.
func CheckSnapshotBlock(b []byte, seed Seed, number int64) error {
	want := binary.LittleEndian.Uint64(b[SnapshotBlock-SnapshotEntrySize:])
	if uint64(blockCRC(b, seed, number)) != want || binary.LittleEndian.Uint64(b[SnapshotBlock-8:]) != 0 {
		return fmt.Errorf("%w: checksum mismatch in block %d", ErrSnapshot, number)
	}
	return nil
}

func blockCRC(b []byte, seed Seed, number int64) uint32 {
	c := wordCRC(wordCRC(uint32(seed), uint32(number)), uint32(number>>32))
	return crc32.Update(c, castagnoli, b[:SnapshotBlock-SnapshotEntrySize])
}

// SnapshotRest is the rest of a snapshot, behind the reference blocks.
type SnapshotRest struct {
	Segments  []SnapshotSegment // by base
	Blobs     []SnapshotBlob    // by page
	Decisions []Decision        // of the commits in parts of which parts are in use
	Free      []byte            // for each record block, the number of its ids that are free
	Roots     []byte            // the roots, by page, as SnapshotRoot.Append encodes them
}

// Append appends the encoding of r to dst and returns the extended slice.
func (r *SnapshotRest) Append(dst []byte) []byte {
	for _, s := range r.Segments {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Base))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Live))
	}
	for _, b := range r.Blobs {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Page))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.ID))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Len))
	}
	for _, d := range r.Decisions {
		dst = d.appendSnapshot(dst)
	}
	return append(append(dst, r.Free...), r.Roots...)
}

// SnapshotRestCRC returns the checksum of a rest.
func SnapshotRestCRC(rest []byte) uint32 { return crc32.Checksum(rest, castagnoli) }

// DecodeSnapshotRest decodes and verifies a rest, and the roots in it. Free and Roots alias src. Its error wraps
// ErrSnapshot.
func DecodeSnapshotRest(src []byte, h *SnapshotHeader) (r SnapshotRest, roots []SnapshotRoot, err error) {
	if int64(len(src)) != h.RestSize() || SnapshotRestCRC(src) != h.RestCRC {
		return r, nil, fmt.Errorf("%w: checksum mismatch in the lists at the end", ErrSnapshot)
	}
	for range h.Segments {
		r.Segments = append(r.Segments, SnapshotSegment{Base: LSN(binary.LittleEndian.Uint64(src)),
			Live: int64(binary.LittleEndian.Uint64(src[8:]))})
		src = src[snapshotSegmentSize:]
	}
	for range h.Blobs {
		r.Blobs = append(r.Blobs, SnapshotBlob{Page: PageID(binary.LittleEndian.Uint64(src)),
			ID: BlobID(binary.LittleEndian.Uint64(src[8:])), Len: int64(binary.LittleEndian.Uint64(src[16:]))})
		src = src[snapshotBlobSize:]
	}
	if r.Decisions, err = decodeSnapshotDecisions(src, h.Decisions, h.High); err != nil {
		return r, nil, err
	}
	src = src[h.Decisions*snapshotDecisionSize:]
	r.Free, r.Roots = src[:h.RecordBlocks()], src[h.RecordBlocks():]
	roots, err = decodeSnapshotRoots(r.Roots, h.Roots, h.NextPage)
	return r, roots, err
}

// SnapshotID names a snapshot. The name of its file is snapshotPrefix, then the store's id in 32 hexadecimal digits,
// the timeline in 16 and the number in 16, with periods between them. So stores, and copies of a store, can share a
// directory. The temporary name has snapshotTmp in place of the number.
type SnapshotID struct {
	Store    StoreID
	Timeline Timeline // of the opening that wrote it
	Number   uint64
}

const snapshotPrefix, snapshotTmp = "snapshot.", "tmp"

// Name returns the name of the snapshot's file.
func (id SnapshotID) Name() string { return fmt.Sprintf("%s%016x", id.prefix(), id.Number) }

// TmpName returns the name of the file while it is written. It does not depend on the number.
func (id SnapshotID) TmpName() string { return id.prefix() + snapshotTmp }

func (id SnapshotID) prefix() string {
	return fmt.Sprintf("%s%v.%016x.", snapshotPrefix, id.Store, uint64(id.Timeline))
}

// ParseSnapshotName is the reverse of Name. It returns false if name is not such a name (trap 6).
func ParseSnapshotName(name string) (id SnapshotID, ok bool) {
	rest, _ := strings.CutPrefix(name, snapshotPrefix)
	parts := strings.Split(rest, ".")
	if len(parts) != 3 || len(parts[0]) != hex.EncodedLen(len(id.Store)) {
		return SnapshotID{}, false
	}
	_, err := hex.Decode(id.Store[:], []byte(parts[0]))
	t, errT := strconv.ParseUint(parts[1], 16, 64)
	n, errN := strconv.ParseUint(parts[2], 16, 64)
	id.Timeline, id.Number = Timeline(t), n
	if err != nil || errT != nil || errN != nil || id.Name() != name {
		return SnapshotID{}, false
	}
	return id, true
}

// ParseSnapshotTmpName is the reverse of TmpName. The number is 0. It returns false if name is not such a name.
func ParseSnapshotTmpName(name string) (id SnapshotID, ok bool) {
	body, ok := strings.CutSuffix(name, snapshotTmp)
	if !ok {
		return SnapshotID{}, false
	}
	return ParseSnapshotName(body + "0000000000000000")
}

// IsSnapshotName reports whether name is that of a snapshot of any store, or a temporary name of one.
func IsSnapshotName(name string) bool {
	_, ok := ParseSnapshotName(name)
	_, tmp := ParseSnapshotTmpName(name)
	return ok || tmp
}
