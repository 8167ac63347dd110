package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxLeave is the largest number of segments that leave with one message.
const MaxLeave = 64

// Leave is the body of a KindLeave message: segments leave the set of segments in use. Once the message is durable,
// their slots may be written again (rule 14). Everything that replaced their contents was stable before.
//
//	 0  8  segments that have left over the life of the store, these included
//	 8  8  sum of the identities of all of those
//	16  8  the stable LSN known when the message was written
//	24 8n  the identities of the n segments that leave with this message
type Leave struct {
	Recycled uint64
	Left     Identity
	Stable   LSN
	Segments []Identity
}

const leaveFixedSize = 24

// ErrLeave reports that the body of a KindLeave message is not valid.
var ErrLeave = errors.New("corrupt list of segments that leave")

// LeaveSize returns the length in bytes of the body for n segments.
func LeaveSize(n int) int { return leaveFixedSize + 8*n }

// Put encodes l into dst, which has LeaveSize(len(l.Segments)) bytes.
func (l *Leave) Put(dst []byte) {
	binary.LittleEndian.PutUint64(dst, l.Recycled)
	binary.LittleEndian.PutUint64(dst[8:], uint64(l.Left))
	binary.LittleEndian.PutUint64(dst[16:], uint64(l.Stable))
	for i, id := range l.Segments {
		binary.LittleEndian.PutUint64(dst[leaveFixedSize+8*i:], uint64(id))
	}
}

// DecodeLeave decodes the body of a KindLeave message at LSN at. The error wraps ErrLeave.
func DecodeLeave(body []byte, at LSN) (l Leave, err error) {
	n := (len(body) - leaveFixedSize) / 8
	if n < 1 || n > MaxLeave || len(body) != LeaveSize(n) {
		return l, fmt.Errorf("%w: %d bytes", ErrLeave, len(body))
	}
	l.Recycled = binary.LittleEndian.Uint64(body)
	l.Left = Identity(binary.LittleEndian.Uint64(body[8:]))
	l.Stable = LSN(binary.LittleEndian.Uint64(body[16:]))
	if l.Recycled < uint64(n) || l.Stable < 0 || l.Stable >= at {
		return Leave{}, fmt.Errorf("%w: %d have left in all, %d with this message, at stable LSN %d", ErrLeave,
			l.Recycled, n, l.Stable)
	}
	l.Segments = make([]Identity, n)
	for i := range l.Segments {
		l.Segments[i] = Identity(binary.LittleEndian.Uint64(body[leaveFixedSize+8*i:]))
	}
	return l, nil
}
