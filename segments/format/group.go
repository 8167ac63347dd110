package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A group is several messages that are recovered all or none. It is one message of kind group, whose checksum covers
// all of it. Its body is a head and then the messages, one after another, each with its own header, LSN and checksum,
// so that each is read by itself as any other message is:
//
//	┌────────────────┬──────┬─────────┬─────────┬───┐
//	│ header (group) │ head │ message │ message │ … │
//	└────────────────┴──────┴─────────┴─────────┴───┘
//
// The head:
//
//	0  4  number of parts, 1 so far
//	4  4  number of messages in this part
//
// A further part (KindGroupPart, not written yet) has a longer head: the LSN of the group (8), its own number from 1 on
// (4), and the number of its messages (4). The messages of all parts take effect where the last part ends.
const (
	GroupHeadSize = 8
	// GroupStep is the distance from a group to its first message, in bytes.
	GroupStep = HeaderSize + GroupHeadSize
)

// ErrGroup reports that the body of a group is not valid.
var ErrGroup = errors.New("invalid group of messages")

// GroupSize returns the length in bytes of a group of messages whose bodies have these lengths, header included.
func GroupSize(bodies ...int) int {
	size := GroupStep
	for _, n := range bodies {
		size += AlignUp(HeaderSize + n)
	}
	return size
}

// PutGroupHead writes the head of a group of n messages to dst.
func PutGroupHead(dst []byte, n int) {
	binary.LittleEndian.PutUint32(dst, 1)
	binary.LittleEndian.PutUint32(dst[4:], uint32(n))
}

// Grouped reports whether a message of kind k may be part of a group.
func (k Kind) Grouped() bool {
	return k.OfPage() || k == KindData || k.OfStream() && k != KindRecordPart
}

// Step returns the distance in bytes from the message to the one that a reader of the log looks at next: the first in
// it, if it is a group, else the one behind it.
func (h Header) Step() int {
	if h.Kind == KindGroup && h.Len >= GroupStep {
		return GroupStep
	}
	return AlignUp(h.Len)
}

// CheckGroup checks the messages in the body of a group at LSN at, whose own checksum is right (rule 12). Errors wrap
// ErrGroup.
func CheckGroup(body []byte, at LSN, seed Seed) error {
	if len(body) < GroupHeadSize || binary.LittleEndian.Uint32(body) != 1 {
		return fmt.Errorf("%w: %d bytes", ErrGroup, len(body))
	}
	n, want := uint32(0), binary.LittleEndian.Uint32(body[4:])
	pos := GroupHeadSize
	for pos < len(body) {
		h, _, err := DecodeMessage(body[pos:], at+HeaderSize+LSN(pos), seed)
		if err != nil {
			return fmt.Errorf("%w: message %d: %w", ErrGroup, n, err)
		}
		if !h.Kind.Grouped() {
			return fmt.Errorf("%w: message %d is of kind %v", ErrGroup, n, h.Kind)
		}
		pos += AlignUp(h.Len)
		n++
	}
	if pos != len(body) || n != want || n == 0 {
		return fmt.Errorf("%w: %d messages in %d bytes, want %d", ErrGroup, n, len(body), want)
	}
	return nil
}

// ResealGroup computes the checksums of the messages in the group at the beginning of msg anew, but not that of the
// group. CheckGroup has accepted it.
func ResealGroup(msg []byte, h Header, seed Seed) {
	for pos := GroupStep; pos < h.Len; {
		w := Word(binary.LittleEndian.Uint32(msg[pos:]))
		PutCRC(msg[pos:], w, seed)
		pos += AlignUp(w.Len())
	}
}
