package format

import (
	"encoding/binary"
	"fmt"
)

// Prev names the message that a delta was appended to, the page's newest one at that time: the low 32 bits of its LSN
// divided by Align. So it is unique within 32 GiB of the log. A delta is part of its page only if the page's message
// before it is the one that Prev names (rule 14).
type Prev uint32

// PrevSize is the length in bytes of the encoded Prev, with which the body of a delta begins. The checksum of the
// message covers it.
const PrevSize = 4

// PrevOf returns the name of the message at lsn.
func PrevOf(lsn LSN) Prev { return Prev(lsn / Align) }

// PutPrev writes the name of the message at lsn to the body of a delta, and returns the rest of the body.
func PutPrev(body []byte, lsn LSN) []byte {
	binary.LittleEndian.PutUint32(body, uint32(PrevOf(lsn)))
	return body[PrevSize:]
}

// CutPrev returns the name at the beginning of the body of a message of kind k, and the rest of the body. The body of a
// message that is not a delta has no name. The error is ErrLength if the body of a delta is too short.
func CutPrev(k Kind, body []byte) (Prev, []byte, error) {
	if !k.Delta() {
		return 0, body, nil
	}
	if len(body) < PrevSize {
		return 0, nil, fmt.Errorf("%w: %v with a body of %d bytes", ErrLength, k, len(body))
	}
	return Prev(binary.LittleEndian.Uint32(body)), body[PrevSize:], nil
}

// Below returns the highest LSN below lsn that p names; NoLSN if there is none.
func (p Prev) Below(lsn LSN) LSN {
	below := lsn - LSN(uint32(PrevOf(lsn)-p-1))*Align - Align
	return max(NoLSN, below)
}

// Mismatch describes a delta at lsn that carries p, where the page's message before it is another one.
func (p Prev) Mismatch(lsn LSN) string {
	return fmt.Sprintf("a delta that was appended to the message at LSN %v, which is not the page's message before it",
		p.Below(lsn))
}
