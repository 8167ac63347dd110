package engine

import (
	"bytes"

	"pagecache/engine/internal/compress"
	"pagecache/segments/format"
)

// payload is a value on its way into the log: the body of its message, and how the body holds the value.
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

// kind returns the kind of the message that holds the payload. k is KindAppend, KindCompact, or a kind without payload forms.
func (p *payload) kind(k format.Kind) format.Kind {
	switch p.form {
	case formZstd:
		return k.ZstdKind()
	case formBlob:
		return k.BlobKind()
	}
	return k
}

// own returns a value that the store may keep: v itself, or a copy if v is a view of the disk, such as Get returns. A page that
// was given a view would not keep its place from being written again (rule 3). Only Bytes has views that are found so.
func (pc *PageCache[P]) own(pid PageID, v P) (P, error) {
	if pc.raw == nil {
		return v, nil
	}
	b := pc.raw(v)
	if len(b) == 0 || !pc.core.store.View.Holds(b) && !pc.blobs.Holds(b) {
		return v, nil
	}
	err := pc.guard(true, pid, func() (err error) {
		v, err = pc.m.Decode(bytes.Clone(b))
		return err
	})
	return v, err
}

// encode makes the payload of a fragment: in the Tx's scratch memory unless the fragment is its own encoding, or in a blob,
// durably, if it is long. A payload that is not installed must be discarded.
func (pc *PageCache[P]) encode(tx *Tx, frag P) (payload, error) {
	if pc.raw != nil {
		return pc.pack(tx, pc.raw(frag))
	}
	return pc.pack(tx, pc.appended(tx, frag))
}

// appended returns the encoded fragment, in the Tx's scratch memory.
func (pc *PageCache[P]) appended(tx *Tx, frag P) []byte {
	b := pc.m.Append(tx.s().scratch[:0], frag)
	tx.s().scratch = keepScratch(b)
	return b
}

// pack makes the payload of an encoded fragment: compressed if that is shorter, in a blob if it is too long for the log.
func (pc *PageCache[P]) pack(tx *Tx, b []byte) (payload, error) {
	if z := pc.compressed(tx, b); z != nil {
		return payload{body: z, form: formZstd}, nil
	}
	if len(b) <= pc.inline {
		return payload{body: b}, nil
	}
	id, err := pc.ids.Draw()
	if err != nil {
		return payload{}, err
	}
	ptr, err := pc.blobs.Write(format.BlobID(id), b)
	if err != nil {
		return payload{}, err
	}
	return payload{body: ptr.Append(nil), form: formBlob, blob: ptr.ID}, nil
}

// compressed returns an encoded fragment compressed, in the Tx's scratch memory; nil if that gains nothing.
func (pc *PageCache[P]) compressed(tx *Tx, b []byte) []byte {
	if pc.zip == nil || len(b) < compress.MinLen || len(b) > pc.core.store.SegmentSize() {
		return nil
	}
	z := pc.zip.Pack(tx.s().zipped[:0], b)
	if len(z) >= len(b) || len(z) > pc.inline {
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
func (pc *PageCache[P]) discard(p *payload) {
	if p.form == formBlob && !p.kept {
		pc.blobs.Discard(p.blob)
	}
}

// encodeView is encode for a value that may be a view of the disk. It copies the value to the Tx's scratch memory first, and
// returns that copy too.
func (pc *PageCache[P]) encodeView(tx *Tx, pid PageID, v P) (p payload, encoded []byte, err error) {
	err = pc.guard(true, pid, func() error {
		encoded = pc.appended(tx, v)
		return nil
	})
	if err == nil {
		p, err = pc.pack(tx, encoded)
	}
	return p, encoded, err
}
