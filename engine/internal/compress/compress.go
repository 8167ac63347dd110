// Package compress turns the encoded values of pages into bodies of compressed messages, and back. A body is the
// length of the value in bytes (4 bytes, little-endian) followed by one zstd frame.
//
//   - Unpack returns exactly the value that was packed, or an error. A body that is cut short, or whose length field
//     does not match its frame, is an error.
//   - Unpack allocates no more than its limit for the value, whatever the body contains (rule 12).
package compress

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"pagecache/segments/format"
)

// MinLen is the length in bytes of the shortest value that callers should try to compress. Shorter values rarely get
// smaller.
const MinLen = 64

// lengthSize is the size in bytes of the length field in front of the zstd frame.
const lengthSize = 4

// A Compressor compresses values at one level. Safe for concurrent use.
type Compressor struct{ enc *zstd.Encoder }

// New returns a Compressor for a level of zstd, 1 (fastest) to 22 (smallest).
func New(level int) (*Compressor, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &Compressor{enc}, nil
}

// Pack appends the body for b to dst and returns the extended slice. The body may be longer than b. b must be shorter
// than 4 GiB.
func (c *Compressor) Pack(dst, b []byte) []byte {
	return c.enc.EncodeAll(b, binary.LittleEndian.AppendUint32(dst, uint32(len(b))))
}

// decoder is shared by all stores of the process: it holds memory for reuse, but no state of a store.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(format.MaxSegmentSize))
})

// Unpack returns the value in a body that Pack made, in memory of its own. limit is the length in bytes of the
// longest value that was ever packed: a body that claims a longer one is refused before anything is allocated. Safe
// for concurrent use.
func Unpack(body []byte, limit int) ([]byte, error) {
	dec, err := decoder()
	if err != nil {
		return nil, err
	}
	if len(body) < lengthSize {
		return nil, fmt.Errorf("unpack value: body of %d bytes is too short for a length", len(body))
	}
	n := binary.LittleEndian.Uint32(body)
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("unpack value: length of %d bytes exceeds the limit of %d", n, limit)
	}
	b, err := dec.DecodeAll(body[lengthSize:], make([]byte, 0, n)) // the decoder stays within the capacity
	if err != nil {
		return nil, fmt.Errorf("unpack value of %d bytes: %w", n, err)
	}
	if len(b) != int(n) {
		return nil, fmt.Errorf("unpack value of %d bytes: frame holds %d", n, len(b))
	}
	return b, nil
}
