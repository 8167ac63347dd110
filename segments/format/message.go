package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Kind is the kind of a message. On disk: do not renumber.
type Kind uint8

// The kinds of message.
const (
	KindInvalid     Kind = 0  // never written; a zero length word is "no message"
	KindFailed      Kind = 1  // an aborted reservation; the checksum covers the body, which means nothing
	KindPad         Kind = 2  // filler up to a block boundary or the segment's end; see PutPad
	KindBatchBegin  Kind = 3  // opens a batch; no body
	KindBatchEnd    Kind = 4  // closes a batch; the body is a Manifest
	KindFree        Kind = 5  // frees a page; no body
	KindCounter     Kind = 6  // id counter (page 1); the body is 8 bytes
	KindAppend      Kind = 8  // a delta of a page, inline; the body of a delta begins with a Prev
	KindAppendBlob  Kind = 9  // a delta of a page, in a blob file; the body is a Prev and a BlobPtr
	KindCompact     Kind = 10 // a whole page, inline
	KindCompactBlob Kind = 11 // a whole page, in a blob file; the body is a BlobPtr
	KindData        Kind = 12 // a record of a standalone log
	KindAppendZstd  Kind = 13 // a delta of a page, compressed; see Kind.Zstd
	KindCompactZstd Kind = 14 // a whole page, compressed
	KindGroup       Kind = 15 // several messages that are recovered all or none; see GroupHeadSize
	KindGroupPart   Kind = 16 // a further part of a group
	kindLast             = KindGroupPart

	KindRecord   Kind = 17 // a record of a stream of a standalone log; see RecordHeadSize
	KindNote     Kind = 18 // a small named value of a stream; the body is a Note
	KindTruncate Kind = 19 // records of a stream do not count any more; the body is a Cut

	KindRoot  Kind = 20 // a name and the page that it names; the body is a Root
	KindIndex Kind = 21 // index of a sealed segment of a standalone log; see Index
	KindLeave Kind = 22 // segments leave the set of segments in use; see Leave

	KindRecordPart Kind = 24 // a part of a record of a stream that does not fit a segment; see LongRecord
	KindLongRecord Kind = 25 // makes parts a record; the body is a LongRecord
	KindDecided    Kind = 26 // groups in several parts have taken effect; see Decision

	kindUnused Kind = 7 // it was the kind of a message with all roots
)

// KindMark is a kind that version 2 reserves. It has a number and a name; this code neither writes nor accepts it.
const KindMark Kind = 23 // a message that only carries the durable end; for now a pad serves as one

var kindNames = [...]string{"invalid", "failed", "pad", "batch-begin", "batch-end", "free", "counter", "",
	"append", "append-blob", "compact", "compact-blob", "data", "append-zstd", "compact-zstd",
	"group", "group-part", "record", "note", "truncate", "root", "index", "leave", "mark",
	"record-part", "long-record", "decided"}

// Plain returns KindAppend or KindCompact for their blob and zstd variants, and any other k as it is.
func (k Kind) Plain() Kind {
	switch k {
	case KindAppendBlob, KindAppendZstd:
		return KindAppend
	case KindCompactBlob, KindCompactZstd:
		return KindCompact
	}
	return k
}

// Delta reports whether a message of kind k is a delta.
func (k Kind) Delta() bool { return k == KindAppend || k == KindAppendBlob || k == KindAppendZstd }

// Blob reports whether the body of a message of kind k is a BlobPtr, in a delta behind the Prev.
func (k Kind) Blob() bool { return k == KindAppendBlob || k == KindCompactBlob }

// OfPage reports whether a message of kind k is part of its page's state.
func (k Kind) OfPage() bool {
	return k >= KindFree && k <= KindCompactBlob || k.Zstd() || k == KindRoot
}

// OfStream reports whether a message of kind k belongs to a stream of a standalone log: its page id is the stream's.
func (k Kind) OfStream() bool {
	return k >= KindRecord && k <= KindTruncate || k == KindRecordPart || k == KindLongRecord
}

// Zstd reports whether the body of a message of kind k is compressed: the length of the value in bytes (4 bytes), then
// one zstd frame, in a delta behind the Prev.
func (k Kind) Zstd() bool { return k == KindAppendZstd || k == KindCompactZstd }

// BlobKind returns the variant of k, KindAppend or KindCompact, with the value in a blob.
func (k Kind) BlobKind() Kind { return k + 1 }

// ZstdKind returns the variant of k, KindAppend or KindCompact, with a compressed value.
func (k Kind) ZstdKind() Kind { return KindAppendZstd + (k-KindAppend)/2 }

// String returns the kind's name, as docs/FORMAT.md spells it.
func (k Kind) String() string {
	if int(k) < len(kindNames) && k != kindUnused {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Valid reports whether k is a kind that this version writes.
func (k Kind) Valid() bool {
	return k > KindInvalid && k <= kindLast && k != kindUnused || k >= KindRoot && k <= KindLeave || k.OfStream() ||
		k == KindDecided
}

// The layout of a message on disk:
//
//	 0        3 4        7 8                  15 16                 23 24
//	┌──────────┬──────────┬─────────────────────┬─────────────────────┬───────────┐
//	│ word     │ CRC-32C  │ LSN                 │ page id, distance   │ body …    │
//	└──────────┴──────────┴─────────────────────┴─────────────────────┴───────────┘
//
// The word (see Word) is stored last: a zero word means "not committed yet". The checksum covers the word, then bytes
// 8 to the end of the body (of a pad: to byte 31 at most), and starts from the segment's Seed. The next message begins
// at the next multiple of Align. A rest of a segment that is shorter than HeaderSize holds no message.
//
// Bytes 16…23 are one number:
//
//	bits 63…36  D: the durable end that was known when the message was committed is LSN − 8·D; all ones: not known
//	bits 35…0   page id
//
// So every message proves how far the log was durable before it (rule 13).
const (
	HeaderSize    = 24
	Align         = 8
	wordKindShift = 24
	wordLenMask   = 1<<wordKindShift - 1
	distanceShift = 36
	noDistance    = 1<<(64-distanceShift) - 1
	padStableSize = 8 // the body of a pad begins with the stable LSN, if it is that long
)

// Word is the length word of a message.
//
//	bits 31…24  kind
//	bits 23…0   length in bytes, header included; at least HeaderSize
type Word uint32

// MakeWord packs a kind and a length (header included).
func MakeWord(k Kind, length int) Word {
	return Word(uint32(k)<<wordKindShift | uint32(length)&wordLenMask)
}

// Kind returns the message's kind.
func (w Word) Kind() Kind { return Kind(w >> wordKindShift) }

// Len returns the message's length in bytes, header included.
func (w Word) Len() int { return int(w & wordLenMask) }

// AlignUp rounds n up to the alignment of messages.
func AlignUp(n int) int { return (n + Align - 1) &^ (Align - 1) }

// MaxBody returns the longest body, in bytes, that fits a segment of the given size.
func MaxBody(segmentSize int) int { return segmentSize - SegmentStart - HeaderSize }

// Header is a decoded message header.
type Header struct {
	Kind     Kind
	Len      int // header included, not rounded up
	CRC      uint32
	distance uint32 // see Durable
	LSN      LSN
	Page     PageID
}

// BodyLen returns the length of the body in bytes.
func (h Header) BodyLen() int { return h.Len - HeaderSize }

// Durable returns the durable end that was known when the message was committed: every byte of the log below was
// durable. It is NoLSN if the message does not carry it.
func (h Header) Durable() LSN {
	if h.distance == noDistance {
		return NoLSN
	}
	return max(NoLSN, h.LSN-LSN(h.distance)*Align)
}

// PutHeader writes a message's header to dst, except for the length word and the checksum. durable is the durable end
// known to the caller, at most lsn. The message does not carry it if it is NoLSN or lies 2 GiB or more below lsn.
func PutHeader(dst []byte, lsn LSN, page PageID, durable LSN) {
	distance := uint64(lsn-durable+Align-1) / Align // rounded up: a lower end is always true
	if durable < 0 || distance > noDistance {
		distance = noDistance
	}
	binary.LittleEndian.PutUint64(dst[8:], uint64(lsn))
	binary.LittleEndian.PutUint64(dst[16:], distance<<distanceShift|uint64(page&MaxPageID))
}

// MessagePage returns the page id of the message at the beginning of src, which holds at least the header.
func MessagePage(src []byte) PageID { return PageID(binary.LittleEndian.Uint64(src[16:])) & MaxPageID }

// PutCRC writes the checksum of the message at the beginning of msg. Its header, except for the word, and its body
// are in place.
func PutCRC(msg []byte, w Word, seed Seed) {
	binary.LittleEndian.PutUint32(msg[4:], messageCRC(msg, w, seed))
}

// PutWord writes the length word. If other goroutines may read the message the caller must store the word atomically
// instead.
func PutWord(msg []byte, w Word) { binary.LittleEndian.PutUint32(msg, uint32(w)) }

// Known is what a log knows of its own ends.
type Known struct {
	Durable LSN // the first byte that is not durable
	Stable  LSN // the last byte that is stable, NoLSN if there is none
}

// PutPad writes a pad message of the given length in bytes to dst, except for its word, which it returns. The pad
// carries k.Stable if it has at least 8 bytes of body. The rest of the body means nothing.
func PutPad(dst []byte, lsn LSN, k Known, length int, seed Seed) Word {
	w := MakeWord(KindPad, length)
	PutHeader(dst, lsn, 0, k.Durable)
	if length >= HeaderSize+padStableSize {
		binary.LittleEndian.PutUint64(dst[HeaderSize:], uint64(k.Stable))
	}
	PutCRC(dst, w, seed)
	return w
}

// PadStable returns the stable LSN that a pad with this body carries: every message at or below it was stable. It is
// NoLSN if the pad carries none.
func PadStable(body []byte) LSN {
	if len(body) < padStableSize {
		return NoLSN
	}
	return max(NoLSN, LSN(binary.LittleEndian.Uint64(body)))
}

// padSummed returns the end of the bytes that the checksum of a pad of the given length covers.
func padSummed(length int) int {
	if length >= HeaderSize+padStableSize {
		return HeaderSize + padStableSize
	}
	return HeaderSize
}

// PadSummed is the most bytes at the beginning of a pad that its checksum covers.
const PadSummed = HeaderSize + padStableSize

// VerifyPad returns ErrCRC if the checksum of the pad with header h at the beginning of b is wrong. b has at least the
// first PadSummed bytes of the pad, or all of it.
func VerifyPad(b []byte, h Header, seed Seed) error {
	if messageCRC(b, MakeWord(h.Kind, h.Len), seed) != h.CRC {
		return ErrCRC
	}
	return nil
}

func messageCRC(msg []byte, w Word, seed Seed) uint32 {
	end := w.Len()
	if w.Kind() == KindPad {
		end = padSummed(end)
	}
	return crc32.Update(wordCRC(uint32(seed), uint32(w)), castagnoli, msg[8:end])
}

// wordCRC is crc32.Update over the four bytes of v. A slice for crc32.Update would escape to the heap.
func wordCRC(c, v uint32) uint32 {
	x := ^c ^ v
	return ^(crcOf4[0][x&0xff] ^ crcOf4[1][x>>8&0xff] ^ crcOf4[2][x>>16&0xff] ^ crcOf4[3][x>>24])
}

// crcOf4[i][b] is the contribution of byte b to the checksum if 3−i bytes follow it.
var crcOf4 = func() (t [4]crc32.Table) {
	t[3] = *castagnoli
	for i := 2; i >= 0; i-- {
		for b, c := range t[i+1] {
			t[i][b] = castagnoli[byte(c)] ^ c>>8
		}
	}
	return t
}()

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The errors of DecodeMessage, in the order of its checks.
var (
	ErrNoMessage = errors.New("no message (zero length word)")
	ErrKind      = errors.New("unknown message kind")
	ErrLength    = errors.New("message length out of range")
	ErrLSN       = errors.New("message LSN does not match its position")
	ErrCRC       = errors.New("message checksum mismatch")
)

// DecodeHeader decodes the header at the beginning of src and checks all of it but the checksum. room is the number of
// bytes left in the segment, which limits the length (rule 12); want is the LSN at this position.
func DecodeHeader(src []byte, room int, want LSN) (Header, error) {
	if len(src) < HeaderSize || room < HeaderSize {
		return Header{}, ErrLength
	}
	w := Word(binary.LittleEndian.Uint32(src))
	if w == 0 {
		return Header{}, ErrNoMessage
	}
	last := binary.LittleEndian.Uint64(src[16:])
	h := Header{Kind: w.Kind(), Len: w.Len(), CRC: binary.LittleEndian.Uint32(src[4:]),
		distance: uint32(last >> distanceShift), LSN: LSN(binary.LittleEndian.Uint64(src[8:])),
		Page: PageID(last) & MaxPageID}
	switch {
	case !h.Kind.Valid():
		return h, ErrKind
	case h.Len < HeaderSize || h.Len > room:
		return h, ErrLength
	case h.LSN != want:
		return h, ErrLSN
	}
	return h, nil
}

// DecodeMessage decodes and verifies the message at the beginning of src, which ends at the end of the segment or
// before; want is the LSN at this position. The body aliases src.
func DecodeMessage(src []byte, want LSN, seed Seed) (Header, []byte, error) {
	h, err := DecodeHeader(src, len(src), want)
	if err != nil {
		return h, nil, err
	}
	if messageCRC(src, MakeWord(h.Kind, h.Len), seed) != h.CRC {
		return h, nil, ErrCRC
	}
	return h, src[HeaderSize:h.Len:h.Len], nil
}

// SearchEffort is the number of bytes, for each byte of a segment, that a search for the messages behind a place that
// is not valid should verify at most. Bytes of this program need less; it limits the time that hostile ones cost (rule
// 12).
const SearchEffort = 16

// NextMessage returns the offset in src of the first valid message, len(src) if there is none. lsn is the LSN of src,
// which begins where a message may. NextMessage subtracts the bytes that it verifies from effort, and finds nothing
// more once that is used up.
func NextMessage(src []byte, lsn LSN, seed Seed, effort *int) int {
	for pos := 0; len(src)-pos >= HeaderSize && *effort > 0; pos += Align {
		h, err := DecodeHeader(src[pos:], len(src)-pos, lsn+LSN(pos))
		if err != nil {
			continue
		}
		*effort -= h.Len
		if messageCRC(src[pos:], MakeWord(h.Kind, h.Len), seed) == h.CRC {
			return pos
		}
	}
	return len(src)
}

// FlippedBit reports whether one flipped bit in the body is all that is wrong with the message at the beginning of msg,
// which has a valid header h and the wrong checksum. So the header is right: two flipped bits never look like one.
func FlippedBit(msg []byte, h Header, seed Seed) bool {
	end := h.Len
	if h.Kind == KindPad {
		end = padSummed(end)
	}
	wrong := messageCRC(msg, MakeWord(h.Kind, h.Len), seed) ^ h.CRC
	// The change that the last bit makes in the checksum. That of each bit before it is shifted once more.
	diff := uint32(crc32.Castagnoli)
	for range 8 * (end - HeaderSize) {
		if diff == wrong {
			return true
		}
		diff = diff>>1 ^ -(diff&1)&crc32.Castagnoli
	}
	return false
}

// Manifest is the body of a KindBatchEnd message; it names the batch that the message closes.
//
//	0…7  LSN of the KindBatchBegin message
type Manifest struct{ Begin LSN }

// ManifestSize is the length of an encoded Manifest in bytes.
const ManifestSize = 8

// Append appends the encoding of m to dst and returns the extended slice.
func (m Manifest) Append(dst []byte) []byte {
	return binary.LittleEndian.AppendUint64(dst, uint64(m.Begin))
}

// DecodeManifest decodes the body of the KindBatchEnd message at lsn.
func DecodeManifest(body []byte, lsn LSN) (Manifest, error) {
	if len(body) != ManifestSize {
		return Manifest{}, fmt.Errorf("decode batch manifest: %d bytes, want %d", len(body), ManifestSize)
	}
	m := Manifest{Begin: LSN(binary.LittleEndian.Uint64(body))}
	if m.Begin.IsZero() || m.Begin >= lsn {
		return Manifest{}, fmt.Errorf("decode batch manifest: batch that ends at LSN %d begins at %d", lsn, m.Begin)
	}
	return m, nil
}

// AppendCounter appends the body of a KindCounter message to dst and returns the extended slice.
func AppendCounter(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }

// DecodeCounter decodes the body of a KindCounter message.
func DecodeCounter(body []byte) (uint64, error) {
	if len(body) != 8 {
		return 0, fmt.Errorf("decode counter: %d bytes, want 8", len(body))
	}
	return binary.LittleEndian.Uint64(body), nil
}
