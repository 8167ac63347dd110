package engine

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"

	"pagecache/engine/internal/compress"
	"pagecache/internal/invariants"
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

// owned is a copy of a fragment that a caller has given: the store keeps the fragment, and the payload goes into the
// log.
type owned[P any] struct {
	frag    P
	size    int64 // Size of frag
	payload payload
	sum     invariants.Sum
	entry   *entry[P] // not initialized, holds frag in memory of its own; nil: there is none yet
}

// copyIn makes the payload of a fragment that a caller has given, and a copy of the fragment, which the store keeps
// (rule 20). The caller may change its own as soon as the call returns, and a part of a page that goes into another one
// is copied, too: no page keeps memory of another, or a view of the disk behind which the place is used again (rule 3).
// in makes an entry with a short fragment in it.
//
// Memory for a copy is taken once, for a short fragment of Bytes together with that of its entry. What Append has
// written is decoded; so a type that aliases what it decodes aliases memory that belongs to this fragment alone. A
// fragment that Decode refuses could never be read: nothing is written. Size is called before a blob may be written: it
// may panic, as Append and Decode may.
func (pc *PageCache[P]) copyIn(tx *Tx, pid PageID, frag P, in inlined[P]) (c owned[P], err error) {
	var encoded []byte
	if pc.raw != nil {
		c.frag, c.entry, err = pc.copyRaw(tx, pid, frag, in)
		encoded = pc.raw(c.frag)
	} else if encoded, err = pc.appended(tx, pid, frag); err == nil {
		if c.frag = frag; !pc.flat {
			c.frag, err = pc.m.Decode(clip(bytes.Clone(encoded)))
		}
		if err != nil {
			err = fmt.Errorf("decode the fragment, to keep it: %w", err)
		}
	}
	if err != nil {
		return c, err
	}
	c.size, c.sum = pc.mem.size(c.frag), sumOf(pc.m, c.frag)
	if c.payload, err = pc.values.pack(tx, encoded); err != nil {
		pc.mem.slabs.free(c.frag)
	}
	return c, err
}

// copyRaw copies a fragment of Bytes, with its entry if it is short. The fragment may be a view of the disk.
func (pc *PageCache[P]) copyRaw(tx *Tx, pid PageID, frag P, in inlined[P]) (c P, e *entry[P], err error) {
	b := pc.raw(frag)
	views := mmapread.MayView(b)
	if in.make != nil && len(b) <= in.most {
		err = pc.values.guard(views, pid, func() error {
			e = in.make(b)
			c = e.Frag
			return nil
		})
		return c, e, err
	}
	c, err = pc.joined(tx, pid, views, frag)
	return c, nil, err
}

// joined returns a copy of the fragments of Bytes, one behind the other, which may be views.
func (pc *PageCache[P]) joined(tx *Tx, pid PageID, views bool, frags ...P) (c P, err error) {
	n := 0
	for _, f := range frags {
		n += len(pc.raw(f))
	}
	b := pc.mem.slabs.alloc(tx, n)
	c, _ = pc.m.Decode(b) // of Bytes: it does not fail
	err = pc.values.guard(views, pid, func() (err error) {
		switch {
		case b != nil:
			for _, f := range frags {
				b = b[copy(b, pc.raw(f)):]
			}
		case len(frags) == 1:
			c, err = pc.m.Decode(clip(bytes.Clone(pc.raw(frags[0]))))
		default:
			c = pc.m.Merge(frags)
		}
		return err
	})
	if err != nil {
		pc.mem.slabs.free(c)
	}
	return c, err
}

// isFlat reports whether a value of type t has no pointers.
func isFlat(t reflect.Type) bool {
	switch k := t.Kind(); {
	case k == reflect.Array:
		return isFlat(t.Elem())
	case k == reflect.Struct:
		for i := range t.NumField() {
			if !isFlat(t.Field(i).Type) {
				return false
			}
		}
		return true
	default:
		return k >= reflect.Bool && k <= reflect.Complex128 // the numbers, in the order of package reflect
	}
}

// clip returns b without the room behind it, so that appending to a value that the store has handed out copies it.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

// encode makes the payload of a fragment that the store owns and that is no view: in the Tx's scratch memory unless the
// fragment is its own encoding, or in a blob, durably, if it is long. A payload that is not installed must be
// discarded. It is valid until the call of the Tx releases the scratch memory.
func (pc *PageCache[P]) encode(tx *Tx, pid PageID, frag P) (payload, error) {
	if pc.raw != nil {
		return pc.values.pack(tx, pc.raw(frag))
	}
	encoded, err := pc.appended(tx, pid, frag)
	if err != nil {
		return payload{}, err
	}
	return pc.values.pack(tx, encoded)
}

// appended returns the encoded fragment, which may be a view, in the Tx's scratch memory.
func (pc *PageCache[P]) appended(tx *Tx, pid PageID, frag P) (encoded []byte, err error) {
	buf := tx.buffer()
	err = pc.values.guard(true, pid, func() error {
		encoded = pc.m.Append(buf.Encoded[:0], frag)
		return nil
	})
	if err == nil {
		buf.Encoded = encoded
	}
	return encoded, err
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
	buf := tx.buffer()
	buf.Packed = v.zip.Pack(buf.Packed[:0], b)
	if z := buf.Packed; len(z) < len(b) && len(z) <= v.inline {
		return z
	}
	return nil
}

// discard deletes the blob of a payload that was not installed.
func (v *values) discard(p *payload) {
	if p.form == formBlob && !p.kept {
		v.blobs.Discard(p.blob)
	}
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
