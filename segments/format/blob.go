package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// BlobID names a blob: a value in a file of its own. An id is never used again.
type BlobID uint64

// String returns the name of the blob's file: 16 hexadecimal digits.
func (b BlobID) String() string { return fmt.Sprintf("%016x", uint64(b)) }

// ParseBlobID is the reverse of BlobID.String. It returns false if name is not such a string.
func ParseBlobID(name string) (BlobID, bool) {
	v, err := strconv.ParseUint(name, 16, 64)
	return BlobID(v), err == nil && BlobID(v).String() == name
}

// MaxBlob is the length of the longest blob in bytes.
const MaxBlob = 4 << 30

// A blob file:
//
//	 0  8  magic "PCBLOB01"
//	 8  4  CRC-32C of bytes 0…7 and 12…63
//	12  4  CRC-32C of the contents
//	16 16  store id
//	32  8  blob id
//	40  8  length of the contents in bytes
//	48  8  timeline of the opening that wrote the blob
//	56  8  zero
//	64  …  contents
const BlobHeaderSize = 64

const blobMagic = "PCBLOB01"

// BlobPtr is the body of a message with the value in a blob.
//
//	 0  8  blob id
//	 8  8  length of the contents in bytes
//	16  4  CRC-32C of the contents
//	20  4  zero
type BlobPtr struct {
	ID  BlobID
	Len int64
	CRC uint32
}

// BlobPtrSize is the length of an encoded BlobPtr in bytes.
const BlobPtrSize = 24

// MakeBlobPtr returns the pointer to a blob with the given id and contents.
func MakeBlobPtr(id BlobID, contents []byte) BlobPtr {
	return BlobPtr{ID: id, Len: int64(len(contents)), CRC: crc32.Checksum(contents, castagnoli)}
}

// Append appends the encoding of p to dst and returns the extended slice.
func (p BlobPtr) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.ID))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Len))
	return binary.LittleEndian.AppendUint64(dst, uint64(p.CRC))
}

// DecodeBlobPtr decodes the body of a message with Kind.Blob. The length in it is at most MaxBlob.
func DecodeBlobPtr(body []byte) (BlobPtr, error) {
	if len(body) != BlobPtrSize {
		return BlobPtr{}, fmt.Errorf("decode blob pointer: %d bytes, want %d", len(body), BlobPtrSize)
	}
	n, crc := binary.LittleEndian.Uint64(body[8:]), binary.LittleEndian.Uint64(body[16:])
	if n > MaxBlob {
		return BlobPtr{}, fmt.Errorf("decode blob pointer: blob of %d bytes, at most %d", n, int64(MaxBlob))
	}
	if crc > 1<<32-1 {
		return BlobPtr{}, errors.New("decode blob pointer: bytes 20…23 are not zero")
	}
	return BlobPtr{ID: BlobID(binary.LittleEndian.Uint64(body)), Len: int64(n), CRC: uint32(crc)}, nil
}

// AppendHeader appends the header of the blob's file to dst and returns the extended slice.
func (p BlobPtr) AppendHeader(dst []byte, store StoreID, t Timeline) []byte {
	var b [BlobHeaderSize]byte
	copy(b[:], blobMagic)
	binary.LittleEndian.PutUint32(b[12:], p.CRC)
	copy(b[16:], store[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(p.ID))
	binary.LittleEndian.PutUint64(b[40:], uint64(p.Len))
	binary.LittleEndian.PutUint64(b[48:], uint64(t))
	binary.LittleEndian.PutUint32(b[8:], headerCRC(b[:]))
	return append(dst, b[:]...)
}

// ErrBlob reports that a blob does not match its pointer.
var ErrBlob = errors.New("corrupt blob")

// CheckHeader returns nil if src is the header of the file of the blob that p points to, of any timeline, else an error
// that wraps ErrBlob.
func (p BlobPtr) CheckHeader(src []byte, store StoreID) error {
	if len(src) != BlobHeaderSize || string(src) != string(p.AppendHeader(nil, store, blobTimeline(src))) {
		return fmt.Errorf("%w: header is not that of blob %v with %d bytes", ErrBlob, p.ID, p.Len)
	}
	return nil
}

// DecodeBlobHeader decodes and verifies the header of a blob's file. The length in it is at most MaxBlob. The error
// wraps ErrBlob.
func DecodeBlobHeader(src []byte) (p BlobPtr, store StoreID, err error) {
	if len(src) < BlobHeaderSize || string(src[:8]) != blobMagic {
		return p, store, fmt.Errorf("%w: wrong magic", ErrBlob)
	}
	src = src[:BlobHeaderSize]
	p = BlobPtr{ID: BlobID(binary.LittleEndian.Uint64(src[32:])), Len: int64(binary.LittleEndian.Uint64(src[40:])),
		CRC: binary.LittleEndian.Uint32(src[12:])}
	copy(store[:], src[16:])
	if p.Len < 0 || p.Len > MaxBlob {
		return p, store, fmt.Errorf("%w: its header says %d bytes", ErrBlob, uint64(p.Len))
	}
	return p, store, p.CheckHeader(src, store)
}

// blobTimeline returns the timeline in the header of a blob's file.
func blobTimeline(header []byte) Timeline { return Timeline(binary.LittleEndian.Uint64(header[48:])) }

// CheckContents returns nil if contents have the length and checksum in p, else an error that wraps ErrBlob.
func (p BlobPtr) CheckContents(contents []byte) error {
	if int64(len(contents)) != p.Len {
		return fmt.Errorf("%w: %d bytes, want %d", ErrBlob, len(contents), p.Len)
	}
	if crc32.Checksum(contents, castagnoli) != p.CRC {
		return fmt.Errorf("%w: checksum mismatch over %d bytes", ErrBlob, len(contents))
	}
	return nil
}

// headerCRC covers b but for bytes 8 to 11, where the checksum itself is.
func headerCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[12:])
}
