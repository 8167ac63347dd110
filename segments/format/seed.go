package format

import (
	"encoding/binary"
	"fmt"
)

// SeedOf returns the only seed with which the checksum of the message at the beginning of msg is right. Every message
// has such a seed, so one alone proves nothing; but messages of one slot that agree on a seed are intact. want is the
// LSN at this position. Errors are those of DecodeHeader.
//
// A checksum is linear in the value that it starts from: its bits differ by those of the seed, shifted through all
// bytes of the message. SeedOf shifts them back.
func SeedOf(msg []byte, want LSN) (Header, Seed, error) {
	h, err := DecodeHeader(msg, len(msg), want)
	if err != nil {
		return h, 0, err
	}
	w := MakeWord(h.Kind, h.Len)
	n := 4 + h.Len - 8 // bytes that the checksum covers: the word, and those from byte 8 on
	if h.Kind == KindPad {
		n = 4 + padSummed(h.Len) - 8
	}
	return h, Seed(unshift(h.CRC^messageCRC(msg, w, 0), n)), nil
}

// highByte has the index of the entry of the CRC table with this highest byte.
var highByte = func() (t [256]byte) {
	for i, v := range castagnoli {
		t[v>>24] = byte(i)
	}
	return t
}()

// unshift returns the register of the checksum before n bytes of zeros made it r.
func unshift(r uint32, n int) uint32 {
	for range n {
		i := highByte[r>>24]
		r = (r^castagnoli[i])<<8 | uint32(i)
	}
	return r
}

// StoreKey is the part that the store id has in the seeds of a store: all that is needed of the id to verify messages.
type StoreKey uint32

// KeyOf returns the key of a store.
func KeyOf(store StoreID) StoreKey {
	return StoreKey(MakeSeed(store, 0, 0) ^ MakeSeed(StoreID{}, 0, 0))
}

// KeyFrom returns the key of the store in which a slot has a seed.
func KeyFrom(s Seed, g Generation, slot SegmentID) StoreKey {
	return StoreKey(s ^ MakeSeed(StoreID{}, g, slot))
}

// Seed returns the seed of a slot's messages, as MakeSeed does for the store id.
func (k StoreKey) Seed(g Generation, slot SegmentID) Seed {
	return Seed(k) ^ MakeSeed(StoreID{}, g, slot)
}

// String returns the key in hexadecimal.
func (k StoreKey) String() string { return fmt.Sprintf("%08x", uint32(k)) }

// FindSegmentHeader decodes the segment header at offset off of a log whose segment size is not known. It returns false
// if there is no intact header of this version whose slot and size agree with the offset.
func FindSegmentHeader(src []byte, off Offset) (SegmentHeader, bool) {
	if len(src) < SegmentHeaderSize || string(src[:8]) != segmentMagic {
		return SegmentHeader{}, false
	}
	size := int64(binary.LittleEndian.Uint32(src[16:]))
	if size < MinSegmentSize || size > MaxSegmentSize || int64(off)%size != 0 {
		return SegmentHeader{}, false
	}
	h, err := DecodeSegmentHeader(src, SegmentID(int64(off)/size), int(size))
	return h, err == nil
}

// BlobStore returns the store id in the header of a blob's file, or false if the header is corrupt.
func BlobStore(src []byte) (id StoreID, ok bool) {
	if len(src) < BlobHeaderSize || string(src[:8]) != blobMagic ||
		headerCRC(src[:BlobHeaderSize]) != binary.LittleEndian.Uint32(src[8:]) {
		return id, false
	}
	copy(id[:], src[16:])
	return id, true
}
