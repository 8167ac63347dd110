package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"pagecache/engine/internal/iobuf"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// payload is a value on its way into the log: the body of its message, and how that holds the value.
type payload struct {
	body []byte
	form form
	blob format.BlobID // if form is inBlob
	kept bool          // the blob is the page's own already
}

type form uint8

const (
	asIs form = iota
	compressed
	inBlob
)

// kind is the kind of message that holds the payload: k is KindAppend or KindCompact.
func (p *payload) kind(k format.Kind) format.Kind {
	switch p.form {
	case compressed:
		return k.ZstdKind()
	case inBlob:
		return k.BlobKind()
	}
	return k
}

// encode makes the payload of a fragment: in the Tx's scratch memory unless the fragment is its own encoding, or in a blob, durably, if it is long. What
// is not installed in the end must be discarded.
func (pc *PageCache[P]) encode(tx *Tx, frag P) (payload, error) {
	if pc.raw != nil {
		return pc.pack(tx, pc.raw(frag))
	}
	return pc.pack(tx, pc.appended(tx, frag))
}

// appended is the fragment, encoded in the Tx's scratch memory.
func (pc *PageCache[P]) appended(tx *Tx, frag P) []byte {
	b := pc.m.Append(tx.scratch[:0], frag)
	tx.scratch = keepScratch(b)
	return b
}

// pack makes the payload of an encoded fragment.
func (pc *PageCache[P]) pack(tx *Tx, b []byte) (payload, error) {
	if z := pc.zipped(tx, b); z != nil {
		return payload{body: z, form: compressed}, nil
	}
	if len(b) <= pc.inline {
		return payload{body: b}, nil
	}
	return pc.blobs.write(pc.ids.draw, b)
}

// zipped is an encoded fragment, compressed in the Tx's scratch memory; nil if that gains nothing.
func (pc *PageCache[P]) zipped(tx *Tx, b []byte) []byte {
	if pc.zip == nil || len(b) < worthZipping || len(b) > pc.super.SegmentSize {
		return nil
	}
	z := pc.zip.pack(tx.zipped[:0], b)
	if len(z) >= len(b) || len(z) > pc.inline {
		return nil
	}
	tx.zipped = keepScratch(z)
	return z
}

// keepScratch is what is kept of memory that was used for a value: not the memory of a rare long one.
func keepScratch(b []byte) []byte {
	const keep = 1 << 20
	if cap(b) > keep {
		return nil
	}
	return b
}

// discard forgets a payload that was not installed.
func (pc *PageCache[P]) discard(p *payload) {
	if p.form == inBlob && !p.kept {
		pc.blobs.discard(p.blob)
	}
}

// put reserves the message of a payload, which is urgent if it makes room, and writes it there. k is KindAppend or KindCompact.
func (pc *PageCache[P]) put(k format.Kind, pid PageID, p *payload, urgent bool) (r iobuf.Reservation, err error) {
	if urgent {
		r, err = pc.log.ReserveUrgent(p.kind(k), pid, len(p.body))
	} else {
		r, err = pc.log.Reserve(p.kind(k), pid, len(p.body))
	}
	if err == nil {
		copy(r.Body(), p.body)
	}
	return r, err
}

// value returns the encoded fragment that the message at lsn and ptr stands for: a view of the log or of a blob, or memory of its own if it was compressed,
// lies in an io buffer, or cannot be mapped.
func (s *store) value(pid PageID, lsn LSN, ptr DiskPtr) (b []byte, view bool, err error) {
	kind, body, view, err := s.read(lsn, ptr)
	switch {
	case err != nil:
		if ce := (*CorruptError)(nil); errors.As(err, &ce) {
			ce.Place = ce.Place.WithPage(pid) // what the damaged message says is nothing to go by
		}
		return nil, false, err
	case kind.Blob():
		b, view, err := s.blobs.read(body)
		if ce := (*CorruptError)(nil); errors.As(err, &ce) {
			ce.Place = ce.Place.WithLSN(lsn).WithPage(pid)
		}
		return b, view, err
	case kind.Zstd():
		err = mmapread.Guard(func() (err error) {
			b, err = unpack(body, s.super.SegmentSize)
			return err
		})
		return b, false, s.corrupt(lsn, ptr, format.Header{Page: pid}, err)
	}
	return body, view, nil
}

// zipper compresses values. Safe for concurrent use.
type zipper struct{ enc *zstd.Encoder }

// worthZipping is the length from which on compressing is tried.
const worthZipping = 64

func newZipper(level int) (*zipper, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &zipper{enc}, nil
}

// pack appends b's length and b compressed to dst.
func (z *zipper) pack(dst, b []byte) []byte {
	return z.enc.EncodeAll(b, binary.LittleEndian.AppendUint32(dst, uint32(len(b))))
}

// unzipper is shared by all stores: it holds memory, but no state.
var unzipper = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(format.MaxSegmentSize))
})

// unpack is the reverse of pack. No value that is longer than limit was ever packed (rule 12).
func unpack(body []byte, limit int) ([]byte, error) {
	dec, err := unzipper()
	if err != nil {
		return nil, err
	}
	if len(body) < 4 {
		return nil, fmt.Errorf("compressed value of %d bytes", len(body))
	}
	n := binary.LittleEndian.Uint32(body)
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("compressed value says that it is %d bytes long, at most %d", n, limit)
	}
	b, err := dec.DecodeAll(body[4:], make([]byte, 0, n))
	if err != nil {
		return nil, fmt.Errorf("decompress %d bytes: %w", n, err)
	}
	if len(b) != int(n) {
		return nil, fmt.Errorf("compressed value is %d bytes long, not %d", len(b), n)
	}
	return b, nil
}
