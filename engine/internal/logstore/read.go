package logstore

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// errPointer reports that a message is not as long as the pointer to it says.
var errPointer = errors.New("message does not fit the pointer to it")

// Message is a message that was read and verified.
type Message struct {
	Kind format.Kind
	Page format.PageID
	Prev format.Prev // of a delta
	Body []byte      // of a delta without the Prev
	View bool        // Body lies in the mapped file; else it is a copy
}

// Read returns the message at ptr: a view of the mapped file, or a copy from the io buffers while its segment is there.
// A corrupt message is a *recovery.CorruptError. So is one that the disk does not return; its error wraps the cause,
// such as syscall.EIO. If the operating system refuses to show the message, the error is not one of corruption.
func (s *Store) Read(lsn format.LSN, ptr format.DiskPtr) (Message, error) {
	size := int64(s.Super.SegmentSize)
	if lsn.IsZero() || lsn%format.Align != 0 || ptr.Off < 0 || int64(ptr.Off)%size != int64(lsn)%size ||
		ptr.Len < format.HeaderSize || int64(ptr.Off)%size+int64(ptr.Len) > size ||
		int64(ptr.Off)/size >= segments.MaxSlots {
		return Message{}, fmt.Errorf("read LSN %d at %v: invalid location", lsn, ptr)
	}
	seg := s.Space.At(ptr.Off)
	if base := seg.Base(); base != lsn-format.LSN(int64(lsn)%size) {
		return Message{}, fmt.Errorf("read LSN %d at %v: segment was recycled (base LSN %d)", lsn, ptr, base)
	}
	if seg.State() == segments.StateActive {
		buf := make([]byte, ptr.Len)
		if s.tail.planned {
			return s.readUnmoved(buf, lsn, ptr)
		}
		if s.readBuffered(buf, lsn) {
			h, body, err := format.DecodeMessage(buf, lsn, seg.Seed())
			m, err := makeMessage(h, body, err)
			if err != nil {
				err = s.causeOf(err, ptr)
			}
			return m, s.CorruptMessage(lsn, ptr, err)
		}
	}
	h, body, err := readMapped(s.View, ptr, lsn, seg.Seed())
	if s.again(err) {
		h, body, err = s.readCopy(ptr, lsn, seg.Seed(), err)
	}
	m, err := makeMessage(h, body, err)
	m.View = len(m.Body) > 0 && s.View.Holds(int64(ptr.Off), m.Body)
	return m, s.CorruptMessage(lsn, ptr, err)
}

// Locate returns where the message at lsn and ptr lies now: an opening since ptr was returned may have moved it.
func (s *Store) Locate(lsn format.LSN, ptr format.DiskPtr) format.DiskPtr {
	size := format.LSN(s.Super.SegmentSize)
	base := lsn - lsn%size
	if lsn < 0 || ptr.Off < 0 || int64(ptr.Off)/int64(size) >= segments.MaxSlots {
		return ptr // invalid
	}
	if g := s.Space.At(ptr.Off); g.State() != segments.StateFree && g.Base() == base {
		return ptr
	}
	if id, found := s.Space.Find(base); found && format.LSN(ptr.Off)%size == lsn%size {
		ptr.Off = id.Offset(int(size)) + format.Offset(lsn%size)
	}
	return ptr
}

// makeMessage makes the Message of one that was decoded with the error err.
func makeMessage(h format.Header, body []byte, err error) (Message, error) {
	m := Message{Kind: h.Kind, Page: h.Page}
	if err == nil {
		m.Prev, m.Body, err = format.CutPrev(h.Kind, body)
	}
	return m, err
}

// causeOf adds to err, that of a message in an io buffer, the error of the disk, if that does not return the message:
// an io buffer that was filled when the store was opened has zeros in its place.
func (s *Store) causeOf(err error, ptr format.DiskPtr) error {
	_, unread := s.file.ReadAt(make([]byte, ptr.Len), int64(ptr.Off))
	if unread != nil && vfs.IsUnreadable(unread) {
		return fmt.Errorf("%w: %w", unread, err)
	}
	return err
}

// readUnmoved reads the message at lsn and ptr, which lies in the tail, into buf.
func (s *Store) readUnmoved(buf []byte, lsn format.LSN, ptr format.DiskPtr) (Message, error) {
	seed, err := s.copyUnmoved(buf, ptr.Off)
	if err != nil {
		return Message{}, s.CorruptMessage(lsn, ptr, err)
	}
	h, body, err := format.DecodeMessage(buf, lsn, seed)
	m, err := makeMessage(h, body, err)
	return m, s.CorruptMessage(lsn, ptr, err)
}

// copyUnmoved copies the bytes at off, which lie in the tail, to buf, and returns the seed of their checksums. From
// Prepare until Start has begun the log, no io buffer holds the tail, and it may be in another slot than off says.
func (s *Store) copyUnmoved(buf []byte, off format.Offset) (format.Seed, error) {
	n, err := s.file.ReadAt(buf, int64(s.onDisk(off)))
	if err == io.EOF {
		clear(buf[n:])
		err = nil
	}
	g := &s.tail.from
	return format.MakeSeed(s.Super.Store, g.Generation, g.Slot), err
}

// onDisk returns where the byte at off is now, if Start has not moved the tail yet.
func (s *Store) onDisk(off format.Offset) format.Offset {
	if t := &s.tail; t.planned && s.SlotOf(off) == t.to {
		size := s.Super.SegmentSize
		return off - t.to.Offset(size) + t.from.Slot.Offset(size)
	}
	return off
}

// readMapped reads and verifies a message through the map. The body aliases the map. Errors wrap those of
// format.DecodeMessage, errPointer, vfs.ErrFault, or the error of View. It allocates only if it fails.
func readMapped(v vfs.Map, ptr format.DiskPtr, lsn format.LSN, seed format.Seed) (
	h format.Header, body []byte, err error,
) {
	b, err := v.View(int64(ptr.Off), int(ptr.Len))
	if err != nil {
		return h, nil, err
	}
	err = mmapread.Guard(func() (err error) {
		touch(b)
		h, body, err = format.DecodeMessage(b, lsn, seed)
		return err
	})
	if err == nil && h.Len != int(ptr.Len) {
		err = fmt.Errorf("%w: it is %d bytes long", errPointer, h.Len)
	}
	if err != nil {
		return h, nil, err
	}
	return h, body, nil
}

// again reports whether to try by a system call what the map did not show: a fault does not say why, and a file that is
// not written may end inside a slot, whose rest counts as zeros.
func (s *Store) again(err error) bool {
	return err != nil && (errors.Is(err, vfs.ErrFault) || s.c.ReadOnly && errors.Is(err, vfs.ErrBounds))
}

// copyOf reads part of the file to the heap, once. Bytes beyond the end of the file are zeros, as for recovery.Scan.
// cause is the error of the map, which an error of the system call is added to.
func (s *Store) copyOf(off format.Offset, n int, cause error) ([]byte, error) {
	buf := make([]byte, n) // n is limited by the size of a segment
	got, err := s.file.ReadAt(buf, int64(off))
	if got == 0 || err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", cause, err)
	}
	clear(buf[got:])
	return buf, nil
}

// readCopy is readMapped without the map.
func (s *Store) readCopy(ptr format.DiskPtr, lsn format.LSN, seed format.Seed, cause error) (
	h format.Header, body []byte, err error,
) {
	b, err := s.copyOf(ptr.Off, int(ptr.Len), cause)
	if err != nil {
		return h, nil, err
	}
	if h, body, err = format.DecodeMessage(b, lsn, seed); err == nil && h.Len != int(ptr.Len) {
		err = errPointer
	}
	if err != nil {
		return h, nil, fmt.Errorf("%w: %w", cause, err)
	}
	return h, body, nil
}

// touch makes the processor fetch all cache lines of a message at once. Decoding and summing would fetch one after
// another, which takes half as long again for 1 KiB of memory that is in no cache.
//
//go:noinline
func touch(b []byte) (sum byte) {
	const line, most = 64, 8 << 10
	for i := 0; i < min(len(b), most); i += line {
		sum += b[i]
	}
	return sum
}

// readBuffered copies a whole message from the io buffers. The page table shows an entry some instructions before its
// message is committed; a reader that finds the entry by then yields a few times, and then waits for the writer. The
// places of a standalone log are not shown to anybody before they are committed, but its callers may pass any place.
func (s *Store) readBuffered(buf []byte, lsn format.LSN) bool {
	const yields = 16
	const patience = 5 * time.Second // for a place that nobody writes to
	var notice *iobuf.CommitNotice
	var late <-chan time.Time
	for turn := 0; s.Log.Read(buf, lsn); turn++ {
		if s.Super.Log || [4]byte(buf) != [4]byte{} { // the word of a committed message is not zero
			return true
		}
		if lsn < s.Log.DurableEnd() { // it was committed, and is corrupt
			return true
		}
		if turn < yields {
			runtime.Gosched()
			continue
		}
		if notice == nil { // then it looks once more
			notice = s.Log.NoticeCommit(lsn)
			defer notice.Stop()
			t := time.NewTimer(patience)
			defer t.Stop()
			late = t.C
			continue
		}
		select {
		case <-notice.C:
		case <-late: // also if the notice has come: the goroutine may have been stopped for as long
			return s.Log.Read(buf, lsn)
		}
	}
	return false
}

// ReadHeader reads the header of the message that begins at lsn and off and checks its bounds. It verifies the checksum
// of a pad, which covers the header only; the checksum of any other message covers its body, so Read verifies it.
func (s *Store) ReadHeader(lsn format.LSN, off format.Offset) (format.Header, error) {
	size := int64(s.Super.SegmentSize)
	room := int(size - int64(off)%size)
	seg := s.Space.At(off)
	seed := seg.Seed()
	var buf [format.PadSummed]byte
	active := seg.State() == segments.StateActive
	if active && s.tail.planned {
		return s.headerUnmoved(lsn, off, room)
	}
	if b := buf[:format.HeaderSize]; active && s.Log.Read(b, lsn) {
		h, err := format.DecodeHeader(b, room, lsn)
		if err != nil || h.Kind != format.KindPad {
			return h, err
		}
		if s.Log.Read(buf[:min(h.Len, format.PadSummed)], lsn) {
			return h, format.VerifyPad(buf[:], h, seed)
		}
	}
	n := min(format.PadSummed, room)
	var h format.Header
	err := mmapread.Guard(func() error {
		b, err := s.View.View(int64(off), n)
		if err == nil {
			h, err = decodeHeader(b, room, lsn, seed)
		}
		return err
	})
	if s.again(err) {
		var b []byte
		if b, err = s.copyOf(off, n, err); err == nil {
			h, err = decodeHeader(b, room, lsn, seed)
		}
	}
	return h, s.CorruptMessage(lsn, format.DiskPtr{Off: off, Len: format.HeaderSize}, err)
}

// headerUnmoved is ReadHeader for the tail, as readUnmoved is Read. The message takes at most room bytes.
func (s *Store) headerUnmoved(lsn format.LSN, off format.Offset, room int) (h format.Header, err error) {
	buf := make([]byte, min(format.PadSummed, room))
	seed, err := s.copyUnmoved(buf, off)
	if err == nil {
		h, err = decodeHeader(buf, room, lsn, seed)
	}
	return h, s.CorruptMessage(lsn, format.DiskPtr{Off: off, Len: format.HeaderSize}, err)
}

// decodeHeader decodes the header at the beginning of b, and verifies it if it is a pad's.
func decodeHeader(b []byte, room int, lsn format.LSN, seed format.Seed) (format.Header, error) {
	h, err := format.DecodeHeader(b, room, lsn)
	if err == nil && h.Kind == format.KindPad {
		err = format.VerifyPad(b, h, seed)
	}
	return h, err
}

// Next reads the message at lsn, which must be a message boundary or the beginning of a segment. It returns the
// message's LSN and place, and the boundary after it. For a pad, and where a segment has no room for a message, the
// message is zero. The first message of a group follows the group itself. The length that leads to the boundary is
// verified: with an error there is no boundary (trap 32).
// Next passes over the corrupt index of a sealed segment, with a warning, since nothing but the next segment follows.
func (s *Store) Next(lsn format.LSN) (m Message, at format.LSN, ptr format.DiskPtr, next format.LSN, err error) {
	size := format.LSN(s.Super.SegmentSize)
	if lsn%size == 0 {
		lsn += format.SegmentStart
	}
	base := lsn - lsn%size
	if format.LSN(s.Used(base))-lsn%size < format.HeaderSize {
		return m, lsn, ptr, base + size, nil
	}
	slot, found := s.Space.Find(base)
	if !found {
		return m, lsn, ptr, lsn, s.CorruptLog(recovery.Place{}.WithLSN(lsn), "no segment holds this LSN")
	}
	ptr.Off = slot.Offset(int(size)) + format.Offset(lsn-base)
	h, err := s.ReadHeader(lsn, ptr.Off)
	if ptr.Len = uint32(h.Len); err == nil && h.Kind != format.KindPad {
		m, err = s.Read(lsn, ptr)
	}
	if err != nil && s.indexAt(lsn, ptr.Off) {
		s.c.Report.Corruption("index of a segment is corrupt; it was passed over", err)
		return Message{}, lsn, format.DiskPtr{}, base + size, nil
	}
	if err != nil {
		return Message{}, lsn, ptr, lsn, err
	}
	return m, lsn, ptr, lsn + format.LSN(h.Step()), nil
}

// indexAt reports whether the message at lsn and off, which is corrupt or cannot be read, is the index of a sealed
// segment of a standalone log.
func (s *Store) indexAt(lsn format.LSN, off format.Offset) bool {
	if !s.Super.Log || !s.IsSealed(off) {
		return false
	}
	var head [format.HeaderSize]byte
	var end [format.IndexTrailerSize]byte
	size := s.Super.SegmentSize
	first := s.SlotOf(off).Offset(size)
	// An end that cannot be read is not needed if the other one shows that this is an index.
	if _, err := s.file.ReadAt(head[:], int64(off)); err != nil {
		clear(head[:])
	}
	if _, err := s.file.ReadAt(end[:], int64(first)+int64(size-len(end))); err != nil {
		clear(end[:])
	}
	return format.IndexBegins(head[:], end[:], lsn, size, s.Space.At(off).Seed())
}

// ReadSegment reads a whole slot into buf, and so into the page cache.
func (s *Store) ReadSegment(id format.SegmentID, buf []byte) error {
	_, err := s.file.ReadAt(buf, int64(id.Offset(s.Super.SegmentSize)))
	return err
}

// Blob returns the pointer to a blob that the message at lsn and ptr holds.
func (s *Store) Blob(lsn format.LSN, ptr format.DiskPtr) (format.BlobPtr, error) {
	m, err := s.Read(lsn, ptr)
	if err != nil {
		return format.BlobPtr{}, err
	}
	blob, err := format.DecodeBlobPtr(m.Body)
	return blob, s.CorruptMessage(lsn, ptr, err)
}

// IsSealed reports whether the segment at off is read through the map.
func (s *Store) IsSealed(off format.Offset) bool {
	return s.Space.At(off).State() != segments.StateActive
}
