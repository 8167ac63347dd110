package format

import (
	"encoding/binary"
	"fmt"
)

// A LongRecord is a record that does not fit a segment. It is written in parts. Each part is a KindRecordPart message,
// whose body is a part of the record's bytes. The KindLongRecord message behind the last part makes them a record;
// without it, the parts mean nothing. The log is recovered as a prefix, so if that message is there, all parts are. Its
// body:
//
//	 0  8  number
//	 8  8  length of the record in bytes
//	16  8  LSN of the first part
//	24  …  the LSNs of the other parts, 8 bytes each, rising
//
// The record is not longer than the distance from its first part to the message.
type LongRecord struct {
	Seq   Seq
	Len   uint64
	Parts []LSN // not empty
}

const longHeadSize = 16

// LongRecordSize returns the length in bytes of an encoded LongRecord of n parts.
func LongRecordSize(n int) int { return longHeadSize + 8*n }

// Put encodes r into dst, which has LongRecordSize bytes.
func (r LongRecord) Put(dst []byte) {
	PutSeq(dst, r.Seq)
	binary.LittleEndian.PutUint64(dst[8:], r.Len)
	for i, p := range r.Parts {
		binary.LittleEndian.PutUint64(dst[longHeadSize+8*i:], uint64(p))
	}
}

// DecodeLongRecord decodes the body of the KindLongRecord message at lsn. Errors wrap ErrRecord.
func DecodeLongRecord(body []byte, lsn LSN) (LongRecord, error) {
	if len(body) < LongRecordSize(1) || len(body)%8 != 0 {
		return LongRecord{}, fmt.Errorf("%w: a long record of %d bytes", ErrRecord, len(body))
	}
	q, _, err := CutSeq(body)
	if err != nil {
		return LongRecord{}, err
	}
	r := LongRecord{Seq: q, Len: binary.LittleEndian.Uint64(body[8:]), Parts: make([]LSN, len(body)/8-2)}
	last := LSN(0)
	for i := range r.Parts {
		p := LSN(binary.LittleEndian.Uint64(body[longHeadSize+8*i:]))
		if p <= last || p >= lsn || p%Align != 0 {
			return LongRecord{}, fmt.Errorf("%w: record %d at LSN %d has a part at LSN %d", ErrRecord, q, lsn, p)
		}
		r.Parts[i], last = p, p
	}
	if r.Len > uint64(lsn-r.Parts[0]) {
		return LongRecord{}, fmt.Errorf("%w: record %d of %d bytes in %d parts", ErrRecord, q, r.Len, len(r.Parts))
	}
	return r, nil
}
