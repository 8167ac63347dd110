package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A snapshot is a file in blocks of SnapshotBlock bytes:
//
//	block 0            header
//	record blocks      one record for each page id from 0 on, RecordsPerBlock in a block
//	reference blocks   what the records of pages in several messages refer to
//	rest               the segments, the blobs and, for each record block, how many of its ids are free; as the header's checksum says
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
//	8  8  bits 63…60 what the page is, bit 59 the message points to a blob, bits 58…32 length of the message in bytes, or how many references the
//	      page has; bits 31…0 zero, or the first of its references
const (
	SnapshotBlock     = 4096
	SnapshotEntrySize = 16
	// EntriesPerBlock is how many entries a block has.
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
//	 48  8  LSN up to which the log must be there
//	 56  8  first page id without a record
//	 64  8  highest noted id
//	 72  8  segments recycled, as far as the list of segments knows
//	 80  8  references
//	 88  8  page ids that are free
//	 96  4  segments
//	100  4  blobs
//	104  4  CRC-32C of what follows the reference blocks
//	108  4  segment size in bytes
const snapshotMagic = "PCSNAP01"

// SnapshotHeader is the first block of a snapshot.
type SnapshotHeader struct {
	Store       StoreID
	Number      uint64
	From        LSN    // messages at and above it may be missing from the snapshot
	High        LSN    // the newest message that the snapshot knows of: the log was stable beyond it
	NextPage    PageID // the first id without a record
	Counter     uint64 // the highest noted id
	Recycled    uint64 // how many segments had been recycled when Segments were listed, but for those that had begun at or above From
	Refs        int64
	Free        int64 // ids below NextPage that can be handed out
	Segments    int
	Blobs       int
	RestCRC     uint32
	SegmentSize int
}

// SnapshotSegment is a segment that was in use.
//
//	0  8  LSN of its first byte
//	8  8  bytes of live messages in it, as far as the records know
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

// RecordBlocks is how many blocks of records there are.
func (h *SnapshotHeader) RecordBlocks() int64 { return entryBlocks(int64(h.NextPage)) }

// RefBlock is the number of the first block of references.
func (h *SnapshotHeader) RefBlock() int64 { return 1 + h.RecordBlocks() }

// RestOffset is where the reference blocks end.
func (h *SnapshotHeader) RestOffset() int64 {
	return (h.RefBlock() + entryBlocks(h.Refs)) * SnapshotBlock
}

// RestSize is the length in bytes of what follows.
func (h *SnapshotHeader) RestSize() int64 {
	return int64(h.Segments)*snapshotSegmentSize + int64(h.Blobs)*snapshotBlobSize + h.RecordBlocks()
}

// Size is the length of the file in bytes.
func (h *SnapshotHeader) Size() int64 { return h.RestOffset() + h.RestSize() }

// Put encodes h into a block.
func (h *SnapshotHeader) Put(b []byte) {
	clear(b[:SnapshotBlock])
	copy(b, snapshotMagic)
	binary.LittleEndian.PutUint16(b[12:], Version)
	copy(b[16:], h.Store[:])
	for i, v := range []uint64{h.Number, uint64(h.From), uint64(h.High), uint64(h.NextPage), h.Counter, h.Recycled, uint64(h.Refs), uint64(h.Free)} {
		binary.LittleEndian.PutUint64(b[32+8*i:], v)
	}
	for i, v := range []uint32{uint32(h.Segments), uint32(h.Blobs), h.RestCRC, uint32(h.SegmentSize)} {
		binary.LittleEndian.PutUint32(b[96+4*i:], v)
	}
	binary.LittleEndian.PutUint32(b[8:], headerCRC(b[:SnapshotBlock]))
}

// ErrSnapshot says that a snapshot is damaged, or another store's.
var ErrSnapshot = errors.New("snapshot is damaged")

// DecodeSnapshotHeader decodes the first block of a file of size bytes, and bounds everything in it by that (rule 12).
func DecodeSnapshotHeader(b []byte, size int64) (SnapshotHeader, error) {
	bad := func(form string, args ...any) (SnapshotHeader, error) {
		return SnapshotHeader{}, fmt.Errorf("%w: "+form, append([]any{ErrSnapshot}, args...)...)
	}
	if len(b) < SnapshotBlock || string(b[:8]) != snapshotMagic {
		return bad("no header")
	}
	if headerCRC(b[:SnapshotBlock]) != binary.LittleEndian.Uint32(b[8:]) {
		return bad("checksum mismatch in the header")
	}
	if v := binary.LittleEndian.Uint16(b[12:]); v != Version {
		return bad("format version %d, this is %d", v, Version)
	}
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[32+8*i:]) }
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(b[96+4*i:]) }
	h := SnapshotHeader{Number: u64(0), From: LSN(u64(1)), High: LSN(u64(2)), NextPage: PageID(u64(3)), Counter: u64(4), Recycled: u64(5),
		Refs: int64(u64(6)), Free: int64(u64(7)), Segments: int(u32(0)), Blobs: int(u32(1)), RestCRC: u32(2), SegmentSize: int(u32(3))}
	copy(h.Store[:], b[16:])
	most := size / SnapshotEntrySize
	if h.From < 0 || h.High < NoLSN || uint64(h.NextPage) > uint64(most) || h.Refs < 0 || h.Refs > most || h.Free < 0 || h.Free > int64(h.NextPage) ||
		h.SegmentSize < MinSegmentSize || h.SegmentSize > MaxSegmentSize || h.Size() != size {
		return bad("a file of %d bytes, its header calls for %d", size, h.Size())
	}
	return h, nil
}

// Seed is what the checksums of the snapshot's blocks start from.
func (h *SnapshotHeader) Seed() Seed { return MakeSeed(h.Store, Generation(h.Number), 0) }

// SnapshotKind says what a page is. On disk: do not renumber.
type SnapshotKind uint8

// The kinds of entry of a snapshot.
const (
	SnapshotNone    SnapshotKind = 0 // not allocated, or allocated after From
	SnapshotPage    SnapshotKind = 1 // one message; and in reference blocks
	SnapshotPages   SnapshotKind = 2 // several messages: references
	SnapshotFree    SnapshotKind = 3
	SnapshotMeta    SnapshotKind = 4
	SnapshotCounter SnapshotKind = 5
	snapshotLast                 = SnapshotCounter
)

// SnapshotEntry is a record or a reference.
type SnapshotEntry struct {
	Kind  SnapshotKind
	LSN   LSN
	Len   uint32 // of the message; of SnapshotPages the number of references
	Blob  bool
	First uint32 // of SnapshotPages the first reference
}

// Put encodes e.
func (e SnapshotEntry) Put(b []byte) {
	v := uint64(e.Kind)<<60 | uint64(e.Len)<<32 | uint64(e.First)
	if e.Blob {
		v |= 1 << 59
	}
	binary.LittleEndian.PutUint64(b, uint64(e.LSN))
	binary.LittleEndian.PutUint64(b[8:], v)
}

// GetSnapshotEntry decodes an entry. What it says is bounded by the header h.
func GetSnapshotEntry(b []byte, h *SnapshotHeader) (SnapshotEntry, error) {
	v := binary.LittleEndian.Uint64(b[8:])
	e := SnapshotEntry{Kind: SnapshotKind(v >> 60), LSN: LSN(binary.LittleEndian.Uint64(b)), Len: uint32(v >> 32 & (1<<27 - 1)), Blob: v>>59&1 != 0,
		First: uint32(v)}
	if e.Kind == SnapshotNone {
		return SnapshotEntry{}, nil
	}
	ok := e.Kind <= snapshotLast && !e.LSN.IsZero() && e.LSN <= h.High
	if e.Kind == SnapshotPages {
		ok = ok && e.Len >= 1 && int64(e.First)+int64(e.Len) <= h.Refs
	} else {
		ok = ok && e.Len >= HeaderSize && int64(e.LSN)%int64(h.SegmentSize)+int64(e.Len) <= int64(h.SegmentSize)
	}
	if !ok {
		return e, fmt.Errorf("%w: entry %+v makes no sense", ErrSnapshot, e)
	}
	return e, nil
}

// SealSnapshotBlock writes the checksum of a block of entries.
func SealSnapshotBlock(b []byte, seed Seed, number int64) {
	clear(b[SnapshotBlock-SnapshotEntrySize : SnapshotBlock])
	binary.LittleEndian.PutUint32(b[SnapshotBlock-SnapshotEntrySize:], blockCRC(b, seed, number))
}

// CheckSnapshotBlock reports whether a block of entries is whole.
func CheckSnapshotBlock(b []byte, seed Seed, number int64) error {
	want := binary.LittleEndian.Uint64(b[SnapshotBlock-SnapshotEntrySize:])
	if uint64(blockCRC(b, seed, number)) != want || binary.LittleEndian.Uint64(b[SnapshotBlock-8:]) != 0 {
		return fmt.Errorf("%w: checksum mismatch in block %d", ErrSnapshot, number)
	}
	return nil
}

func blockCRC(b []byte, seed Seed, number int64) uint32 {
	return crc32.Update(wordCRC(wordCRC(uint32(seed), uint32(number)), uint32(number>>32)), castagnoli, b[:SnapshotBlock-SnapshotEntrySize])
}

// AppendSnapshotRest encodes what follows the reference blocks.
func AppendSnapshotRest(dst []byte, segs []SnapshotSegment, blobs []SnapshotBlob, free []byte) []byte {
	for _, s := range segs {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Base))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Live))
	}
	for _, b := range blobs {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Page))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.ID))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Len))
	}
	return append(dst, free...)
}

// SnapshotRestCRC is the checksum of what AppendSnapshotRest returned.
func SnapshotRestCRC(rest []byte) uint32 { return crc32.Checksum(rest, castagnoli) }

// DecodeSnapshotRest decodes what AppendSnapshotRest returned. free aliases src.
func DecodeSnapshotRest(src []byte, h *SnapshotHeader) (segs []SnapshotSegment, blobs []SnapshotBlob, free []byte, err error) {
	if int64(len(src)) != h.RestSize() || SnapshotRestCRC(src) != h.RestCRC {
		return nil, nil, nil, fmt.Errorf("%w: checksum mismatch in the lists at its end", ErrSnapshot)
	}
	for range h.Segments {
		segs = append(segs, SnapshotSegment{LSN(binary.LittleEndian.Uint64(src)), int64(binary.LittleEndian.Uint64(src[8:]))})
		src = src[snapshotSegmentSize:]
	}
	for range h.Blobs {
		blobs = append(blobs, SnapshotBlob{PageID(binary.LittleEndian.Uint64(src)), BlobID(binary.LittleEndian.Uint64(src[8:])),
			int64(binary.LittleEndian.Uint64(src[16:]))})
		src = src[snapshotBlobSize:]
	}
	return segs, blobs, src, nil
}

// SnapshotName is the name of the file of the snapshot with a number.
func SnapshotName(number uint64) string { return fmt.Sprintf("snapshot.%016x", number) }

// ParseSnapshotName is the reverse of SnapshotName; false for any other name (trap 6).
func ParseSnapshotName(name string) (uint64, bool) {
	hex, ok := strings.CutPrefix(name, "snapshot.")
	v, err := strconv.ParseUint(hex, 16, 64)
	return v, ok && err == nil && SnapshotName(v) == name
}
