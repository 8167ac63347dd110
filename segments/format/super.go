package format

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
)

// StoreID identifies a store. It is drawn at random when the store is created.
type StoreID [16]byte

// String returns the id in hexadecimal.
func (s StoreID) String() string { return hex.EncodeToString(s[:]) }

// SuperblockSize is the length of the file "superblock" in bytes. The file is replaced atomically when the store is
// opened for writing and when it is closed cleanly:
//
//	 0  8  magic "PCSUPERB"
//	 8  4  CRC-32C of bytes 0…7 and 12…79
//	12  2  format version (Version)
//	14  1  flags: bit 0 closed cleanly, bit 1 standalone log
//	15  1  zero
//	16 16  store id
//	32  4  segment size in bytes
//	36  4  zero
//	40  8  generation of the last opening
//	48  8  end: LSN of the first byte after the log, if closed cleanly
//	56  8  next id: exact if closed cleanly, else the one that the opening began with
//	64  8  next page id never used, if closed cleanly
//	72  8  id persist interval of the last opening
const SuperblockSize = 80

const superMagic = "PCSUPERB"

// Superblock holds the facts about a store without which its log cannot be read.
type Superblock struct {
	Store       StoreID
	SegmentSize int
	Generation  Generation
	Clean       bool   // closed cleanly: End, NextPage and NextID are exact
	Log         bool   // a standalone log, not a page store
	End         LSN    // where the log ends, if closed cleanly
	NextID      uint64 // the id that GenerateID returns next; if not closed cleanly, as it was at the last opening
	NextPage    PageID // the first page id that was never allocated, if closed cleanly
	IDInterval  uint64 // IDPersistInterval of the last opening
}

// Append appends the encoding of s to dst and returns the extended slice.
func (s Superblock) Append(dst []byte) []byte {
	var b [SuperblockSize]byte
	copy(b[:], superMagic)
	binary.LittleEndian.PutUint16(b[12:], Version)
	if s.Clean {
		b[14] |= 1
	}
	if s.Log {
		b[14] |= 2
	}
	copy(b[16:], s.Store[:])
	binary.LittleEndian.PutUint32(b[32:], uint32(s.SegmentSize))
	binary.LittleEndian.PutUint64(b[40:], uint64(s.Generation))
	binary.LittleEndian.PutUint64(b[48:], uint64(s.End))
	binary.LittleEndian.PutUint64(b[56:], s.NextID)
	binary.LittleEndian.PutUint64(b[64:], uint64(s.NextPage))
	binary.LittleEndian.PutUint64(b[72:], s.IDInterval)
	binary.LittleEndian.PutUint32(b[8:], superCRC(b[:]))
	return append(dst, b[:]...)
}

func superCRC(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:8]), castagnoli, b[12:SuperblockSize])
}

// The errors of DecodeSuperblock.
var (
	ErrSuperCorrupt = errors.New("corrupt superblock")
	ErrSuperVersion = errors.New("superblock of another format version")
)

// DecodeSuperblock decodes and verifies a superblock. Its error wraps ErrSuperVersion if the superblock is intact but
// of another format version, else ErrSuperCorrupt.
func DecodeSuperblock(src []byte) (Superblock, error) {
	if len(src) != SuperblockSize {
		return Superblock{}, fmt.Errorf("%w: %d bytes, want %d", ErrSuperCorrupt, len(src), SuperblockSize)
	}
	if string(src[:8]) != superMagic || binary.LittleEndian.Uint32(src[8:]) != superCRC(src) {
		return Superblock{}, fmt.Errorf("%w: wrong magic or checksum", ErrSuperCorrupt)
	}
	if v := binary.LittleEndian.Uint16(src[12:]); v != Version {
		return Superblock{}, fmt.Errorf("%w: version %d, this program knows %d", ErrSuperVersion, v, Version)
	}
	s := Superblock{
		SegmentSize: int(binary.LittleEndian.Uint32(src[32:])),
		Clean:       src[14]&1 != 0,
		Log:         src[14]&2 != 0,
		Generation:  Generation(binary.LittleEndian.Uint64(src[40:])),
		End:         LSN(binary.LittleEndian.Uint64(src[48:])),
		NextID:      binary.LittleEndian.Uint64(src[56:]),
		NextPage:    PageID(binary.LittleEndian.Uint64(src[64:])),
		IDInterval:  binary.LittleEndian.Uint64(src[72:]),
	}
	copy(s.Store[:], src[16:])
	if s.SegmentSize < MinSegmentSize || s.SegmentSize > MaxSegmentSize || s.SegmentSize%Align != 0 ||
		s.End < 0 || s.NextPage > MaxPageID+1 {
		return Superblock{}, fmt.Errorf("%w: a field is out of range", ErrSuperCorrupt)
	}
	return s, nil
}
