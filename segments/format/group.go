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
//	0  4  number of parts
//	4  4  number of messages in this part
//
// A group of pages may have several parts, each of them one message. The first part is of kind group, all others of
// kind group-part, with a longer head:
//
//	 0  8  LSN of the first part
//	 8  4  number of parts that follow; 0: it is the last one
//	12  4  number of messages in this part
//
// Other messages may lie between the parts. The messages of all parts take effect with the last part. Without it, none
// does, unless a Decision says so.
const (
	GroupHeadSize     = 8
	groupPartHeadSize = 16
	// GroupStep is the distance from a group to its first message, in bytes.
	GroupStep = HeaderSize + GroupHeadSize
	// MaxGroupParts is the largest number of parts of a group.
	MaxGroupParts = 1 << 16
)

// ErrGroup reports that the body of a group is not valid.
var ErrGroup = errors.New("invalid group of messages")

// IsGroup reports whether a message of kind k contains others.
func (k Kind) IsGroup() bool { return k == KindGroup || k == KindGroupPart }

// GroupHeadSize returns the length in bytes of the head of a group, or of a part of one, of kind k.
func (k Kind) GroupHeadSize() int {
	if k == KindGroupPart {
		return groupPartHeadSize
	}
	return GroupHeadSize
}

// GroupSize returns the length in bytes of a group of messages whose bodies have these lengths, header included.
func GroupSize(bodies ...int) int {
	size := GroupStep
	for _, n := range bodies {
		size += AlignUp(HeaderSize + n)
	}
	return size
}

// A GroupHead is the head of a group, or of a part of one.
type GroupHead struct {
	First    LSN // of the first part
	Left     int // number of parts that follow
	Messages int // in this part
}

// InParts reports whether the group of a message of kind k with this head has several parts.
func (h GroupHead) InParts(k Kind) bool { return k == KindGroupPart || h.Left > 0 }

// Put writes the head of a message of kind k to dst.
func (h GroupHead) Put(dst []byte, k Kind) {
	if k == KindGroupPart {
		binary.LittleEndian.PutUint64(dst, uint64(h.First))
		binary.LittleEndian.PutUint32(dst[8:], uint32(h.Left))
		binary.LittleEndian.PutUint32(dst[12:], uint32(h.Messages))
		return
	}
	binary.LittleEndian.PutUint32(dst, uint32(h.Left+1))
	binary.LittleEndian.PutUint32(dst[4:], uint32(h.Messages))
}

// DecodeGroupHead decodes the head at the beginning of the body of a message at LSN at, which is a group of kind k, or
// a part of one. Its error wraps ErrGroup.
func DecodeGroupHead(k Kind, body []byte, at LSN) (h GroupHead, err error) {
	if len(body) < k.GroupHeadSize() {
		return h, fmt.Errorf("%w: %d bytes", ErrGroup, len(body))
	}
	if k == KindGroupPart {
		h = GroupHead{First: LSN(binary.LittleEndian.Uint64(body)), Left: int(binary.LittleEndian.Uint32(body[8:])),
			Messages: int(binary.LittleEndian.Uint32(body[12:]))}
		if h.First <= 0 || h.First >= at || h.Left >= MaxGroupParts-1 {
			const text = "%w: part at LSN %v, %d more follow, the first at LSN %v"
			return h, fmt.Errorf(text, ErrGroup, at, h.Left, h.First)
		}
		return h, nil
	}
	parts := binary.LittleEndian.Uint32(body)
	if parts == 0 || parts > MaxGroupParts {
		return h, fmt.Errorf("%w: %d parts", ErrGroup, parts)
	}
	return GroupHead{First: at, Left: int(parts - 1), Messages: int(binary.LittleEndian.Uint32(body[4:]))}, nil
}

// PutGroupHead writes the head of a group of n messages in one part to dst.
func PutGroupHead(dst []byte, n int) { GroupHead{Messages: n}.Put(dst, KindGroup) }

// Grouped reports whether a message of kind k may be part of a group.
func (k Kind) Grouped() bool {
	return k.OfPage() || k == KindData || k.OfStream() && k != KindRecordPart
}

// Step returns the distance in bytes from the message to the one that a reader of the log looks at next: the first in
// it, if it is a group or a part of one, else the one behind it.
func (h Header) Step() int {
	if h.Kind.IsGroup() {
		if step := HeaderSize + h.Kind.GroupHeadSize(); h.Len >= step {
			return step
		}
	}
	return AlignUp(h.Len)
}

// CheckGroup checks the messages in the body of a group of kind k at LSN at, or of a part of one, whose own checksum is
// right (rule 12), and returns its head. Errors wrap ErrGroup.
func CheckGroup(k Kind, body []byte, at LSN, seed Seed) (GroupHead, error) {
	head, err := DecodeGroupHead(k, body, at)
	if err != nil {
		return head, err
	}
	n, pos := 0, k.GroupHeadSize()
	for pos < len(body) {
		h, _, err := DecodeMessage(body[pos:], at+HeaderSize+LSN(pos), seed)
		if err != nil {
			return head, fmt.Errorf("%w: message %d: %w", ErrGroup, n, err)
		}
		if !h.Kind.Grouped() || head.InParts(k) && !h.Kind.OfPage() {
			return head, fmt.Errorf("%w: message %d is of kind %v", ErrGroup, n, h.Kind)
		}
		pos += AlignUp(h.Len)
		n++
	}
	if pos != len(body) || n != head.Messages || n == 0 {
		return head, fmt.Errorf("%w: %d messages in %d bytes, want %d", ErrGroup, n, len(body), head.Messages)
	}
	return head, nil
}

// ResealGroup computes the checksums of the messages in the group, or part of one, at the beginning of msg anew, but
// not that of the group. CheckGroup has accepted it.
func ResealGroup(msg []byte, h Header, seed Seed) {
	for pos := h.Step(); pos < h.Len; {
		w := Word(binary.LittleEndian.Uint32(msg[pos:]))
		PutCRC(msg[pos:], w, seed)
		pos += AlignUp(w.Len())
	}
}
