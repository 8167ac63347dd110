package stream

import (
	"fmt"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// Read returns the bytes of the record with number q at a place that Find or Ceil returned, and the place with its
// length. Those of a long record are a copy. Errors are those of logstore's Read.
func (t *Stream) Read(q format.Seq, at At) (logstore.Message, At, error) {
	m, at, err := t.find(q, at)
	if err == nil && m.Kind == format.KindLongRecord {
		m.Body, err = t.appendParts(nil, m.Body, at)
		m.View = false
	}
	return m, at, err
}

// AppendTo appends the bytes of a record to dst, as Read.
func (t *Stream) AppendTo(dst []byte, q format.Seq, at At) ([]byte, error) {
	if b, found := t.appendShort(dst, q, at); found {
		return b, nil
	}
	m, at, err := t.find(q, at)
	if err != nil {
		return dst, err
	}
	if m.Kind == format.KindLongRecord {
		return t.appendParts(dst, m.Body, at)
	}
	n := len(dst)
	dst = append(dst, make([]byte, len(m.Body))...)
	if err := mmapread.Guard(func() error { copy(dst[n:], m.Body); return nil }); err != nil {
		return dst[:n], t.set.store.CorruptMessage(at.LSN, at.Ptr, err)
	}
	return dst, nil
}

// appendShort is AppendTo for a short record that is intact. Its bytes are verified where they were copied to. If it
// finds none, dst is as it was.
func (t *Stream) appendShort(dst []byte, q format.Seq, at At) ([]byte, bool) {
	b, m, found := t.set.store.AppendGlance(dst, at.LSN, at.Ptr.Off, longMessage)
	if !found || m.Kind != format.KindRecord || format.StreamID(m.Page) != t.id {
		return dst, false
	}
	number, record, err := format.CutSeq(m.Body)
	if err != nil || number != q {
		return dst, false
	}
	return append(b[:len(dst)], record...), true // over the headers before it
}

// find is read for the record with number q.
func (t *Stream) find(q format.Seq, at At) (logstore.Message, At, error) {
	found, m, at, err := t.read(at)
	if err == nil && found != q {
		err = fmt.Errorf("%w: number %d, not %d", format.ErrRecord, found, q)
		err = t.set.store.CorruptMessage(at.LSN, at.Ptr, err)
	}
	return m, at, err
}

// read reads the message of the record at a place, and returns the record's number and the place with its length. The
// body of m is the record's bytes, or all of the message's body if it is a long one.
func (t *Stream) read(at At) (q format.Seq, m logstore.Message, placed At, err error) {
	store := t.set.store
	m, n, found := store.Glance(at.LSN, at.Ptr.Off, longMessage) // it lies in a block that is warm, or the next one too
	if at.Ptr.Len = uint32(n); !found {
		h, err := store.ReadHeader(at.LSN, at.Ptr.Off)
		if err != nil {
			return 0, m, at, err
		}
		if at.Ptr.Len = uint32(h.Len); h.Len > longMessage {
			t.Warm(at)
		}
		if m, err = store.Read(at.LSN, at.Ptr); err != nil {
			return 0, m, at, err
		}
	}
	if m.Kind != format.KindRecord && m.Kind != format.KindLongRecord || format.StreamID(m.Page) != t.id {
		err = fmt.Errorf("%w: a %v message of stream %d", format.ErrRecord, m.Kind, m.Page)
	} else {
		err = mmapread.Guard(func() (err error) {
			var record []byte
			if q, record, err = format.CutSeq(m.Body); m.Kind == format.KindRecord {
				m.Body = record
			}
			return err
		})
	}
	return q, m, at, store.CorruptMessage(at.LSN, at.Ptr, err)
}

// Warm reads the message at a place into the page cache without blocking a thread, if its segment is read through the
// map. If the length of the message is not known yet, Warm reads its header.
func (t *Stream) Warm(at At) {
	store := t.set.store
	r := vfs.Range{Off: int64(at.Ptr.Off), Len: max(format.HeaderSize, int(at.Ptr.Len))}
	if store.IsSealed(at.Ptr.Off) && !store.View.IsWarm(r) {
		_, _ = store.View.Warm([]vfs.Range{r}) // reading shows the error
	}
}
