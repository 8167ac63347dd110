package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// BlobID names a blob: a value in a file of its own. Ids are never used twice.
type BlobID uint64

// String returns the name of the blob's file: 16 hexadecimal digits.
func (b BlobID) String() string { return fmt.Sprintf("%016x", uint64(b)) }

// ParseBlobID is the reverse of String; false for any other name.
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
//	48 16  zero
//	64  …  contents
const BlobHeaderSize = 64

const blobMagic = "PCBLOB01"

// BlobPtr is the body of a message whose value is in a blob.
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

// MakeBlobPtr returns the pointer to a blob with the contents given.
func MakeBlobPtr(id BlobID, contents []byte) BlobPtr {
	return BlobPtr{ID: id, Len: int64(len(contents)), CRC: crc32.Checksum(contents, castagnoli)}
}

// Append encodes p.
func (p BlobPtr) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.ID))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Len))
	return binary.LittleEndian.AppendUint64(dst, uint64(p.CRC))
}

// DecodeBlobPtr decodes the body of a message.
func DecodeBlobPtr(body []byte) (BlobPtr, error) {
	if len(body) != BlobPtrSize {
		return BlobPtr{}, fmt.Errorf("pointer to a blob of %d bytes, want %d", len(body), BlobPtrSize)
	}
	n, crc := binary.LittleEndian.Uint64(body[8:]), binary.LittleEndian.Uint64(body[16:])
	if n > MaxBlob || crc > 1<<32-1 {
		return BlobPtr{}, fmt.Errorf("pointer to a blob of %d bytes, at most %d", n, int64(MaxBlob))
	}
	return BlobPtr{ID: BlobID(binary.LittleEndian.Uint64(body)), Len: int64(n), CRC: uint32(crc)}, nil
}

// AppendHeader encodes the header of the blob's file.
func (p BlobPtr) AppendHeader(dst []byte, store StoreID) []byte {
	var b [BlobHeaderSize]byte
	copy(b[:], blobMagic)
	binary.LittleEndian.PutUint32(b[12:], p.CRC)
	copy(b[16:], store[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(p.ID))
	binary.LittleEndian.PutUint64(b[40:], uint64(p.Len))
	binary.LittleEndian.PutUint32(b[8:], headerCRC(b[:]))
	return append(dst, b[:]...)
}

// ErrBlob says that a blob is not what its pointer says.
var ErrBlob = errors.New("blob is damaged")

// CheckHeader reports whether the beginning of a blob's file is that of the blob that p points to.
func (p BlobPtr) CheckHeader(src []byte, store StoreID) error {
	if string(src) != string(p.AppendHeader(nil, store)) {
		return fmt.Errorf("%w: its header is not that of blob %v, %d bytes", ErrBlob, p.ID, p.Len)
	}
	return nil
}

// CheckContents reports whether contents are those of the blob that p points to.
func (p BlobPtr) CheckContents(contents []byte) error {
	if int64(len(contents)) != p.Len || crc32.Checksum(contents, castagnoli) != p.CRC {
		return fmt.Errorf("%w: checksum mismatch over %d bytes", ErrBlob, len(contents))
	}
	return nil
}

func headerCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[12:])
}
