package logstore

import (
	"encoding/binary"

	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/segments"
	"pagecache/segments/format"
)

// glanced is the number of bytes from the beginning of a message on that glance reads from memory at once.
const glanced = 256

// Glance returns the message that begins at lsn and off, and its length, if it takes at most `most` bytes, its segment
// is not being written, and it is valid. It is ReadHeader and Read in one, with fewer waits for memory. If it finds no
// message, those two have to look: they read all messages, and their errors say what is wrong.
func (s *Store) Glance(lsn format.LSN, off format.Offset, most int) (m Message, n int, found bool) {
	size := int64(s.Super.SegmentSize)
	seg := s.Space.At(off)
	if seg.State() == segments.StateActive || seg.Base() != lsn-format.LSN(int64(lsn)%size) {
		return m, 0, false
	}
	room := int(size - int64(off)%size)
	h, body, found := glance(s.View, off, min(room, most), lsn, seg.Seed())
	if !found {
		return m, 0, false
	}
	m = Message{Kind: h.Kind, Page: h.Page, Body: body, View: len(body) > 0 && s.View.Holds(int64(off), body)}
	return m, h.Len, true
}

// glance is Glance through the map. room is the number of bytes that a message takes at most. It finds no deltas, whose
// bodies begin with a pointer.
func glance(v vfs.Map, off format.Offset, room int, lsn format.LSN, seed format.Seed) (
	h format.Header, body []byte, found bool,
) {
	// The next block may not be in the page cache.
	b, err := v.View(int64(off), min(room, glanced, readBlock-int(off%readBlock)))
	if err != nil {
		return h, nil, false
	}
	err = mmapread.Guard(func() (err error) {
		touch(b)
		if h, err = format.DecodeHeader(b, room, lsn); err != nil {
			return err
		}
		if h.Len > len(b) {
			seen := len(b)
			if b, err = v.View(int64(off), h.Len); err != nil {
				return err
			}
			touch(b[seen:])
		}
		h, body, err = format.DecodeMessage(b[:h.Len], lsn, seed)
		return err
	})
	if err != nil || h.Kind.Delta() {
		return h, nil, false
	}
	return h, body, true
}

// AppendGlance appends the message that begins at lsn and off, header included, to dst, if it takes at most `most`
// bytes and is valid. The body of m is a part of what was appended. So it is the copy that was verified, and it needs
// no Guard. If it finds no message, dst is as it was, and ReadHeader and Read have to look, as for Glance.
func (s *Store) AppendGlance(dst []byte, lsn format.LSN, off format.Offset, most int) (
	b []byte, m Message, found bool,
) {
	size := int64(s.Super.SegmentSize)
	seg := s.Space.At(off)
	if seg.Base() != lsn-format.LSN(int64(lsn)%size) {
		return dst, m, false
	}
	at, room := len(dst), min(int(size-int64(off)%size), most)
	if seg.State() != segments.StateActive {
		b, found = appendMapped(dst, s.View, off, room)
	} else if !s.tail.planned { // else no io buffer holds it yet
		b, found = s.Log.AppendMessage(dst, lsn, room)
	}
	if !found {
		return dst, m, false
	}
	h, body, err := format.DecodeMessage(b[at:], lsn, seg.Seed())
	if err != nil || h.Kind.Delta() {
		return dst, m, false
	}
	return b, Message{Kind: h.Kind, Page: h.Page, Body: body}, true
}

// appendMapped appends the message that begins at off in the map to dst, if it takes at most room bytes. It does not
// verify the message.
func appendMapped(dst []byte, v vfs.Map, off format.Offset, room int) (_ []byte, ok bool) {
	// The next block may not be in the page cache.
	b, err := v.View(int64(off), min(room, glanced, readBlock-int(off%readBlock)))
	if err != nil || len(b) < format.HeaderSize {
		return dst, false
	}
	copied := dst
	err = mmapread.Guard(func() (err error) {
		touch(b)
		n := format.Word(binary.LittleEndian.Uint32(b)).Len()
		if n < format.HeaderSize || n > room {
			return format.ErrLength
		}
		if n > len(b) {
			seen := len(b)
			if b, err = v.View(int64(off), n); err != nil {
				return err
			}
			touch(b[seen:])
		}
		copied = append(dst, b[:n]...)
		return nil
	})
	return copied, err == nil
}
