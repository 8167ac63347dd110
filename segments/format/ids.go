package format

import "strconv"

// PageID names a page. Ids are dense. Those of the engine's users, and of roots, start at FirstUserPage. 0 stands for
// the roots as a whole and has no messages; 1 is the counter page.
type PageID uint64

// The reserved pages, and the first id that Allocate hands out in a new store.
const (
	MetaPage      PageID = 0
	CounterPage   PageID = 1
	FirstUserPage PageID = 2
	// MaxPageID is the highest id a page table can hold (36 bits).
	MaxPageID PageID = 1<<36 - 1
)

// String returns the id as "p" and a decimal number.
func (p PageID) String() string { return "p" + strconv.FormatUint(uint64(p), 10) }

// LSN is a log sequence number: a position, in bytes, in the endless logical log. LSNs only grow. A message's LSN is
// the position of its first byte. LSN 0 is the header of the first segment, so it names no message and stands for
// "none"; NoLSN (−1) is the stable LSN of an empty log.
type LSN int64

// NoLSN is the stable LSN of a log in which nothing is stable yet.
const NoLSN LSN = -1

// IsZero reports whether l names no message.
func (l LSN) IsZero() bool { return l <= 0 }

// String returns the LSN in decimal.
func (l LSN) String() string { return strconv.FormatInt(int64(l), 10) }

// Offset is a position, in bytes, in the log file. The offset and the LSN of a message differ once segments are
// recycled, but they are always equal modulo the segment size.
type Offset int64

// String returns the offset in hexadecimal.
func (o Offset) String() string { return "0x" + strconv.FormatInt(int64(o), 16) }

// SegmentID is the index of a segment's slot in the log file: the file offset divided by the segment size.
type SegmentID uint32

// String returns the id as "s" and a decimal number.
func (s SegmentID) String() string { return "s" + strconv.FormatUint(uint64(s), 10) }

// Offset returns the file offset of the slot, for segments of the given size in bytes.
func (s SegmentID) Offset(segmentSize int) Offset { return Offset(int64(s) * int64(segmentSize)) }

// Generation counts the openings of a store for writing. It is made durable before an opening writes anything else, so
// no two openings write with the same generation.
type Generation uint64

// DiskPtr is the place of a message: the file offset of its header, and its length on disk in bytes, header included,
// not rounded up to the alignment. The zero DiskPtr points nowhere.
type DiskPtr struct {
	Off Offset
	Len uint32
	// Blob reports whether the message's body is a BlobPtr, with the value in a blob file.
	Blob bool
}

// IsZero reports whether p points nowhere.
func (p DiskPtr) IsZero() bool { return p.Len == 0 }

// String returns the offset and the length, as "0x10+24".
func (p DiskPtr) String() string { return p.Off.String() + "+" + strconv.FormatUint(uint64(p.Len), 10) }
