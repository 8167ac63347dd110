// Package compress turns the encoded values of pages into bodies of compressed messages, and back. A body is the
// length of the value in bytes (4 bytes, little-endian) followed by one zstd frame.
//
//   - Unpack returns exactly the value that was packed, or an error. A body that is cut short, or whose length field
//     does not match its frame, is an error.
//   - Unpack allocates no more than its limit for the value, whatever the body contains (rule 12).
//   - The memory of zstd, up to 36 MiB for each processor at the highest levels, is counted as scratch memory and
//     released when the store is idle (trap 48).
package compress

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"pagecache/engine/internal/scratch"
	"pagecache/segments/format"
)

// MinLen is the length in bytes of the shortest value that callers should try to compress. Shorter values rarely get
// smaller.
const MinLen = 64

// lengthSize is the size in bytes of the length field in front of the zstd frame.
const lengthSize = 4

// encoderSizes are the most bytes that an encoder takes at each level (measured).
var encoderSizes = map[zstd.EncoderLevel]int64{
	zstd.SpeedFastest:           1664 << 10,
	zstd.SpeedDefault:           3 << 20,
	zstd.SpeedBetterCompression: 6 << 20,
	zstd.SpeedBestCompression:   36 << 20,
}

// decoderSize is the most bytes that a decoder takes (measured).
const decoderSize = 384 << 10

// A Compressor compresses values at one level. Safe for concurrent use: one call for each processor goes on at a time,
// and others wait.
type Compressor struct{ encoders *coders[zstd.Encoder] }

// MostKept returns the most bytes that a Compressor of that level, and an Unpacker, keep.
func MostKept(level int) int64 {
	return int64(processors()) * (encoderSizes[zstd.EncoderLevelFromZstd(level)] + decoderSize)
}

// New returns a Compressor for a level of zstd, 1 (fastest) to 22 (smallest). Its memory is counted by k and released
// when k is idle.
func New(level int, k *scratch.Keeper) (*Compressor, error) {
	l := zstd.EncoderLevelFromZstd(level)
	c, err := newCoders(func() (*zstd.Encoder, error) { // an encoder takes its memory when it is first used
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20),
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(1))
	}, encoderSizes[l], k)
	return &Compressor{c}, err
}

// Pack appends the body for b to dst and returns the extended slice. The body may be longer than b. b must be shorter
// than 4 GiB.
func (c *Compressor) Pack(dst, b []byte) []byte {
	enc := c.encoders.take()
	defer c.encoders.put(enc)
	return enc.EncodeAll(b, binary.LittleEndian.AppendUint32(dst, uint32(len(b))))
}

// An Unpacker decompresses values. Safe for concurrent use, as a Compressor is.
type Unpacker struct{ decoders *coders[zstd.Decoder] }

// NewUnpacker returns an Unpacker. Its memory is counted by k and released when k is idle.
func NewUnpacker(k *scratch.Keeper) (*Unpacker, error) {
	c, err := newCoders(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(format.MaxSegmentSize))
	}, decoderSize, k)
	return &Unpacker{c}, err
}

// Unpack returns the value in a body that Pack made, in memory of its own. limit is the length in bytes of the
// longest value that was ever packed: a body that claims a longer one is refused before anything is allocated. Safe
// for concurrent use.
func (u *Unpacker) Unpack(body []byte, limit int) ([]byte, error) {
	if len(body) < lengthSize {
		return nil, fmt.Errorf("unpack value: body of %d bytes is too short for a length", len(body))
	}
	n := binary.LittleEndian.Uint32(body)
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("unpack value: length of %d bytes exceeds the limit of %d", n, limit)
	}
	dec := u.decoders.take()
	// Also if body is a view that faults.
	defer u.decoders.put(dec)
	b, err := dec.DecodeAll(body[lengthSize:], make([]byte, 0, n)) // the decoder stays within the capacity
	if err != nil {
		return nil, fmt.Errorf("unpack value of %d bytes: %w", n, err)
	}
	if len(b) != int(n) {
		return nil, fmt.Errorf("unpack value of %d bytes: frame holds %d", n, len(b))
	}
	return b, nil
}
