package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// SegmentStart is the offset of the first message in a segment, in bytes. The segment's header has the bytes before it
// to itself, so that no write of a header touches a block of messages, unless blocks are longer than that.
const SegmentStart = 4096

// SegmentHeaderSize is the length of the header at the beginning of a segment, in bytes. The bytes from there to
// SegmentStart are written as zeros and mean nothing.
//
//	  0  8  magic "PCSEGMNT"
//	  8  4  CRC-32C of bytes 0…7 and 12…127
//	 12  2  format version (Version)
//	 14  1  state (SegmentState)
//	 15  1  zero
//	 16  4  segment size in bytes
//	 20  4  block size in bytes at the time of writing
//	 24  8  generation
//	 32  8  base: the LSN of the segment's first byte, a multiple of the segment size
//	 40  8  the stable LSN known when the header was written
//	 48  8  segments that had left the log (Ledger)
//	 56  4  slot: the segment's own index in the file
//	 60  4  zero
//	 64 16  store id
//	 80  8  timeline of the opening that wrote the header
//	 88  8  sum of the identities of all segments that had joined the log, this one included (Ledger)
//	 96  8  sum of the identities of all segments that had left it
//	104  4  slots that the file had (Extent)
//	108  4  how often the file had been made shorter before
//	112 16  zero
const SegmentHeaderSize = 128

// Version is the format version that this code writes, in segment headers and the superblock.
const Version = 2

const segmentMagic = "PCSEGMNT"

// The limits of the segment size, in bytes.
const (
	MinSegmentSize = 16 << 10
	MaxSegmentSize = 16 << 20
)

// SegmentState is the state of a slot in its header. On disk: do not renumber.
type SegmentState uint8

// The states of a slot.
const (
	SegmentStateInUse SegmentState = 1 // the slot holds a part of the log
	SegmentStateFree  SegmentState = 2 // the slot holds nothing; the bytes after the header mean nothing
)

// String returns the state's name.
func (s SegmentState) String() string {
	switch s {
	case SegmentStateInUse:
		return "in use"
	case SegmentStateFree:
		return "free"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// SegmentHeader is a decoded segment header.
type SegmentHeader struct {
	State       SegmentState
	SegmentSize int
	BlockSize   int
	Generation  Generation
	Base        LSN
	Stable      LSN
	Slot        SegmentID
	Store       StoreID
	Timeline    Timeline // of the opening that wrote the header
	Ledger      Ledger   // tells the set of segments; of a segment in use, it includes the segment
}

// Identity returns the identity of the segment that the header describes.
func (h *SegmentHeader) Identity() Identity {
	return MakeIdentity(h.Store, h.Timeline, h.Generation, h.Slot, h.Base)
}

// Put encodes h into the first SegmentHeaderSize bytes of dst.
func (h SegmentHeader) Put(dst []byte) {
	dst = dst[:SegmentHeaderSize]
	clear(dst)
	copy(dst, segmentMagic)
	binary.LittleEndian.PutUint16(dst[12:], Version)
	dst[14] = byte(h.State)
	binary.LittleEndian.PutUint32(dst[16:], uint32(h.SegmentSize))
	binary.LittleEndian.PutUint32(dst[20:], uint32(h.BlockSize))
	binary.LittleEndian.PutUint64(dst[24:], uint64(h.Generation))
	binary.LittleEndian.PutUint64(dst[32:], uint64(h.Base))
	binary.LittleEndian.PutUint64(dst[40:], uint64(h.Stable))
	binary.LittleEndian.PutUint64(dst[48:], h.Ledger.Recycled)
	binary.LittleEndian.PutUint32(dst[56:], uint32(h.Slot))
	copy(dst[64:], h.Store[:])
	binary.LittleEndian.PutUint64(dst[80:], uint64(h.Timeline))
	binary.LittleEndian.PutUint64(dst[88:], uint64(h.Ledger.Joined))
	binary.LittleEndian.PutUint64(dst[96:], uint64(h.Ledger.Left))
	binary.LittleEndian.PutUint32(dst[104:], h.Ledger.Slots)
	binary.LittleEndian.PutUint32(dst[108:], h.Ledger.Shrinks)
	binary.LittleEndian.PutUint32(dst[8:], segmentCRC(dst))
}

func segmentCRC(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:8]), castagnoli, b[12:SegmentHeaderSize])
}

// The errors of DecodeSegmentHeader.
var (
	ErrSegmentZero    = errors.New("segment header is all zeros (never written)")
	ErrSegmentCorrupt = errors.New("corrupt segment header")
	ErrSegmentVersion = errors.New("segment of another format version")
	ErrSegmentForeign = errors.New("segment of another segment size")
)

// DecodeSegmentHeader decodes and verifies the header of the given slot. Its errors: ErrSegmentZero if the slot was
// never written; one that wraps ErrSegmentVersion or ErrSegmentForeign if the header is intact but of another format
// version or segment size; else one that wraps ErrSegmentCorrupt.
func DecodeSegmentHeader(src []byte, slot SegmentID, segmentSize int) (SegmentHeader, error) {
	if len(src) < SegmentHeaderSize {
		return SegmentHeader{}, fmt.Errorf("%w: %d bytes", ErrSegmentCorrupt, len(src))
	}
	src = src[:SegmentHeaderSize]
	if allZero(src) {
		return SegmentHeader{}, ErrSegmentZero
	}
	if string(src[:8]) != segmentMagic || binary.LittleEndian.Uint32(src[8:]) != segmentCRC(src) {
		return SegmentHeader{}, fmt.Errorf("%w: wrong magic or checksum", ErrSegmentCorrupt)
	}
	h := SegmentHeader{
		State:       SegmentState(src[14]),
		SegmentSize: int(binary.LittleEndian.Uint32(src[16:])),
		BlockSize:   int(binary.LittleEndian.Uint32(src[20:])),
		Generation:  Generation(binary.LittleEndian.Uint64(src[24:])),
		Base:        LSN(binary.LittleEndian.Uint64(src[32:])),
		Stable:      LSN(binary.LittleEndian.Uint64(src[40:])),
		Slot:        SegmentID(binary.LittleEndian.Uint32(src[56:])),
		Timeline:    Timeline(binary.LittleEndian.Uint64(src[80:])),
		Ledger: Ledger{
			Joined:   Identity(binary.LittleEndian.Uint64(src[88:])),
			Left:     Identity(binary.LittleEndian.Uint64(src[96:])),
			Recycled: binary.LittleEndian.Uint64(src[48:]),
			Extent:   Extent{binary.LittleEndian.Uint32(src[104:]), binary.LittleEndian.Uint32(src[108:])},
		},
	}
	copy(h.Store[:], src[64:])
	switch v := binary.LittleEndian.Uint16(src[12:]); {
	case v != Version:
		return h, fmt.Errorf("%w: version %d, this program knows %d", ErrSegmentVersion, v, Version)
	case h.State < SegmentStateInUse || h.State > SegmentStateFree:
		return h, fmt.Errorf("%w: state %d", ErrSegmentCorrupt, h.State)
	case h.SegmentSize != segmentSize:
		return h, fmt.Errorf("%w: segment size %d, want %d", ErrSegmentForeign, h.SegmentSize, segmentSize)
	case h.Slot != slot:
		return h, fmt.Errorf("%w: header of slot %d in slot %d", ErrSegmentCorrupt, h.Slot, slot)
	case h.Base < 0 || h.Base > maxBase || int64(h.Base)%int64(segmentSize) != 0 || h.Stable < NoLSN:
		return h, fmt.Errorf("%w: base %d or stable LSN %d is invalid", ErrSegmentCorrupt, h.Base, h.Stable)
	}
	return h, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Seed is the value from which the checksums of a segment's messages start. It differs for every store, generation
// and slot, so a message that is left over from an earlier use of the slot, or was written to the wrong place, never
// verifies (F3).
type Seed uint32

// MakeSeed derives the seed of a slot's messages.
func MakeSeed(store StoreID, g Generation, slot SegmentID) Seed {
	var c uint32 // CRC-32C of store, g and slot, one after another
	for i := 0; i < len(store); i += 4 {
		c = wordCRC(c, binary.LittleEndian.Uint32(store[i:]))
	}
	c = wordCRC(wordCRC(c, uint32(g)), uint32(g>>32))
	return Seed(wordCRC(c, uint32(slot)))
}

// maxBase is the highest base that is accepted, far below the overflow of LSNs.
const maxBase = 1 << 62
