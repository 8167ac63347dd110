package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// An entry is a record of a stream. Its index is the number of the record, which the log keeps and checks. On disk, do
// not renumber:
//
//	bytes   field
//	1       format in the high 4 bits, flags in the low 4
//	1       raft.LogType
//	1 … 10  term, a uvarint
//	8 + 4   with flagTime: AppendedAt as seconds since 1970 and nanoseconds, little endian
//	1 … 10  with flagExtensions: the length of Extensions, a uvarint, and then its bytes
//	rest    Data; with flagData it is not nil
//
// The log has a checksum of the record.
const entryFormat = 1

const (
	flagTime       = 1 << 0
	flagExtensions = 1 << 1
	flagData       = 1 << 2
	allFlags       = flagTime | flagExtensions | flagData
)

const timeSize = 12

// maxEntryHead is the length of an entry in bytes at most, without Extensions and Data.
const maxEntryHead = 2 + binary.MaxVarintLen64 + timeSize + binary.MaxVarintLen64

// errEntry reports bytes that are no entry, below a checksum that is right.
var errEntry = errors.New("record is not an entry of raft's log")

// appendEntry appends the encoding of l to dst and returns the extended slice.
func appendEntry(dst []byte, l *raft.Log) []byte {
	at := len(dst)
	dst = append(dst, entryFormat<<4, byte(l.Type))
	dst = binary.AppendUvarint(dst, l.Term)
	if !l.AppendedAt.IsZero() {
		dst[at] |= flagTime
		dst = binary.LittleEndian.AppendUint64(dst, uint64(l.AppendedAt.Unix()))
		dst = binary.LittleEndian.AppendUint32(dst, uint32(l.AppendedAt.Nanosecond()))
	}
	if l.Extensions != nil {
		dst[at] |= flagExtensions
		dst = binary.AppendUvarint(dst, uint64(len(l.Extensions)))
		dst = append(dst, l.Extensions...)
	}
	if l.Data != nil {
		dst[at] |= flagData
		dst = append(dst, l.Data...)
	}
	return dst
}

// decodeEntry sets all fields of l from an encoding. Data and Extensions are parts of src. Errors: errEntry, and
// engine.ErrFormat for an entry that a newer version of this package has written; then l is as it was.
func decodeEntry(src []byte, index uint64, l *raft.Log) error {
	if len(src) < 2 {
		return errEntry
	}
	if f := src[0] >> 4; f != entryFormat {
		return fmt.Errorf("%w: an entry of format %d, known is %d", engine.ErrFormat, f, entryFormat)
	}
	flags := src[0] & 0xf
	e := raft.Log{Index: index, Type: raft.LogType(src[1])}
	term, n := binary.Uvarint(src[2:])
	if n <= 0 || flags&^allFlags != 0 {
		return errEntry
	}
	e.Term, src = term, src[2+n:]
	if flags&flagTime != 0 {
		if len(src) < timeSize {
			return errEntry
		}
		nanos := binary.LittleEndian.Uint32(src[8:])
		if nanos >= uint32(time.Second) {
			return errEntry
		}
		e.AppendedAt = time.Unix(int64(binary.LittleEndian.Uint64(src)), int64(nanos)).UTC()
		src = src[timeSize:]
	}
	if flags&flagExtensions != 0 {
		size, n := binary.Uvarint(src)
		if n <= 0 || size > uint64(len(src)-n) {
			return errEntry
		}
		src = src[n:]
		e.Extensions, src = src[:size:size], src[size:]
	}
	switch {
	case flags&flagData != 0:
		e.Data = src[:len(src):len(src)]
	case len(src) > 0:
		return errEntry
	}
	*l = e
	return nil
}

// batch is memory for the encodings of the entries of one call.
type batch struct {
	buf     []byte
	records [][]byte
}

// maxKept is the length in bytes of the longest batch whose memory is kept for the next one.
const maxKept = 8 << 20

// encode encodes entries.
func (b *batch) encode(logs []*raft.Log) {
	n := 0
	for _, l := range logs {
		n += maxEntryHead + len(l.Extensions) + len(l.Data)
	}
	if cap(b.buf) < n {
		b.buf = make([]byte, 0, n)
	}
	b.buf, b.records = b.buf[:0], b.records[:0]
	for _, l := range logs {
		at := len(b.buf)
		b.buf = appendEntry(b.buf, l)
		b.records = append(b.records, b.buf[at:])
	}
}
