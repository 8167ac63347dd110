package values

import (
	"pagecache/engine/internal/compress"
	"pagecache/engine/internal/scope"
	"pagecache/segments/format"
)

// Payload is a value on its way into the log: the body of its message, of a delta without the format.Prev, and how the
// body holds the value.
type Payload struct {
	Body []byte
	Form Form
	Blob format.BlobID // if Form is FormBlob
	Kept bool          // the blob already belongs to the page
}

// Form is how a message body holds a value.
type Form uint8

const (
	FormPlain Form = iota // the encoded value
	FormZstd              // compressed
	FormBlob              // in a blob, to which the body points
)

// String returns the name of the form.
func (f Form) String() string { return formNames[f] }

var formNames = [...]string{"plain", "zstd", "blob"}

// Kind returns the kind of the message that holds the payload. k is KindAppend, KindCompact, or a kind without payload
// forms.
func (p *Payload) Kind(k format.Kind) format.Kind {
	switch p.Form {
	case FormZstd:
		return k.ZstdKind()
	case FormBlob:
		return k.BlobKind()
	}
	return k
}

// Pack makes the payload of an encoded fragment: compressed if that is shorter, in a blob if it is too long for the
// log.
func (v *IO) Pack(tx *scope.Scope, b []byte) (Payload, error) {
	if z := v.Compressed(tx, b); z != nil {
		return Payload{Body: z, Form: FormZstd}, nil
	}
	if len(b) <= v.Inline {
		return Payload{Body: b}, nil
	}
	return v.blob(b)
}

// ToBlob makes a payload that is not in a blob one that is.
func (v *IO) ToBlob(p *Payload) (err error) {
	b := p.Body
	if p.Form == FormZstd {
		if b, err = v.Unzip.Unpack(b, v.Store.SegmentSize()); err != nil {
			return err
		}
	}
	in, err := v.blob(b)
	if err == nil {
		*p = in
	}
	return err
}

// blob writes an encoded fragment to a blob, durably.
func (v *IO) blob(b []byte) (Payload, error) {
	if err := v.Blobs.CheckLen(len(b)); err != nil { // before an id is used up
		return Payload{}, err
	}
	id, err := v.IDs.Draw()
	if err != nil {
		return Payload{}, err
	}
	ptr, err := v.Blobs.Write(format.BlobID(id), b)
	if err != nil {
		return Payload{}, err
	}
	return Payload{Body: ptr.Append(nil), Form: FormBlob, Blob: ptr.ID}, nil
}

// Compressed returns an encoded fragment compressed, in the Tx's scratch memory; nil if that gains nothing.
func (v *IO) Compressed(tx *scope.Scope, b []byte) []byte {
	if v.Zip == nil || len(b) < compress.MinLen || len(b) > v.Store.SegmentSize() {
		return nil
	}
	buf := tx.Buffer()
	buf.Packed = v.Zip.Pack(buf.Packed[:0], b)
	if z := buf.Packed; len(z) < len(b) && len(z) <= v.Inline {
		return z
	}
	return nil
}

// Discard deletes the blob of a payload that was not installed.
func (v *IO) Discard(p *Payload) {
	if p.Form == FormBlob && !p.Kept {
		v.Blobs.Discard(p.Blob)
	}
}
