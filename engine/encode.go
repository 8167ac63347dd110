package engine

import (
	"bytes"
	"errors"

	"pagecache/engine/internal/compress"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// payload is a value on its way into the log: the body of its message, of a delta without the format.Prev, and how the
// body holds the value.
type payload struct {
	body []byte
	form form
	blob format.BlobID // if form is formBlob
	kept bool          // the blob already belongs to the page
}

// form is how a message body holds a value.
type form uint8

const (
	formPlain form = iota
	formZstd
	formBlob
)

// String returns the name of the form.
func (f form) String() string { return enumName("form", int(f), "plain", "zstd", "blob") }

// kind returns the kind of the message that holds the payload. k is KindAppend, KindCompact, or a kind without payload
// forms.
func (p *payload) kind(k format.Kind) format.Kind {
	switch p.form {
	case formZstd:
		return k.ZstdKind()
	case formBlob:
		return k.BlobKind()
	}
	return k
}

// own returns a value that the store may keep: v itself, or a copy if v is a view of the disk, such as Get returns. If
// a page kept a view, nothing would keep the place behind it from being written again (rule 3). Only views of Bytes can
// be recognized.
func (pc *PageCache[P]) own(pid PageID, v P) (P, error) {
	if pc.raw == nil {
		return v, nil
	}
	b := pc.raw(v)
	if len(b) == 0 || !pc.core.store.View.Holds(b) && !pc.blobs.Holds(b) {
		return v, nil
	}
	err := pc.values.guard(true, pid, func() (err error) {
		v, err = pc.m.Decode(bytes.Clone(b))
		return err
	})
	return v, err
}

// encode makes the payload of a fragment: in the Tx's scratch memory unless the fragment is its own encoding, or in a
// blob, durably, if it is long. A payload that is not installed must be discarded.
func (pc *PageCache[P]) encode(tx *Tx, frag P) (payload, error) {
	if pc.raw != nil {
		return pc.values.pack(tx, pc.raw(frag))
	}
	return pc.values.pack(tx, pc.appended(tx, frag))
}

// appended returns the encoded fragment, in the Tx's scratch memory.
func (pc *PageCache[P]) appended(tx *Tx, frag P) []byte {
	b := pc.m.Append(tx.s().scratch[:0], frag)
	tx.s().scratch = keepScratch(b)
	return b
}

// pack makes the payload of an encoded fragment: compressed if that is shorter, in a blob if it is too long for the
// log.
func (v *values) pack(tx *Tx, b []byte) (payload, error) {
	if z := v.compressed(tx, b); z != nil {
		return payload{body: z, form: formZstd}, nil
	}
	if len(b) <= v.inline {
		return payload{body: b}, nil
	}
	if err := v.blobs.CheckLen(len(b)); err != nil { // before an id is used up
		return payload{}, err
	}
	id, err := v.ids.Draw()
	if err != nil {
		return payload{}, err
	}
	ptr, err := v.blobs.Write(format.BlobID(id), b)
	if err != nil {
		return payload{}, err
	}
	return payload{body: ptr.Append(nil), form: formBlob, blob: ptr.ID}, nil
}

// compressed returns an encoded fragment compressed, in the Tx's scratch memory; nil if that gains nothing.
func (v *values) compressed(tx *Tx, b []byte) []byte {
	if v.zip == nil || len(b) < compress.MinLen || len(b) > v.store.SegmentSize() {
		return nil
	}
	z := v.zip.Pack(tx.s().zipped[:0], b)
	if len(z) >= len(b) || len(z) > v.inline {
		return nil
	}
	tx.s().zipped = keepScratch(z)
	return z
}

// keepScratch returns the memory that is kept for the next value: not that of a rare long one.
func keepScratch(b []byte) []byte {
	const keep = 1 << 20
	if cap(b) > keep {
		return nil
	}
	return b
}

// discard deletes the blob of a payload that was not installed.
func (v *values) discard(p *payload) {
	if p.form == formBlob && !p.kept {
		v.blobs.Discard(p.blob)
	}
}

// encodeView encodes a value that may be a view of the disk, as a copy in the Tx's scratch memory.
func (pc *PageCache[P]) encodeView(tx *Tx, pid PageID, v P) (encoded []byte, err error) {
	err = pc.values.guard(true, pid, func() error {
		encoded = pc.appended(tx, v)
		return nil
	})
	return encoded, err
}

// guard calls f, which looks at values of a page. If they may be views, a fault becomes an error: the file was
// truncated, or the disk failed.
func (v *values) guard(views bool, pid PageID, f func() error) error {
	if !views {
		return f()
	}
	err := mmapread.Guard(f)
	if errors.Is(err, vfs.ErrFault) {
		at := recovery.Place{}.WithPage(pid)
		return v.store.Reporter().Corrupt(&CorruptError{File: v.store.LogFile(), Place: at, Err: err})
	}
	return err
}
