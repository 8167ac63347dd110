package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"pagecache/mmapread"
	"pagecache/recovery"
	"pagecache/segments"
	"pagecache/segments/format"
)

// read returns the body of the message at ptr: a view of the mapped file, or a copy from the io buffers while its segment
// is there, or where it cannot be mapped. A damaged one is a *CorruptError.
func (s *store) read(lsn format.LSN, ptr format.DiskPtr) (kind format.Kind, body []byte, view bool, err error) {
	size := int64(s.super.SegmentSize)
	if lsn.IsZero() || lsn%format.Align != 0 || ptr.Off < 0 || int64(ptr.Off)%size != int64(lsn)%size || ptr.Len < format.HeaderSize ||
		int64(ptr.Off)%size+int64(ptr.Len) > size || int64(ptr.Off)/size >= segments.MaxSlots {
		return 0, nil, false, fmt.Errorf("read LSN %d at %v: no message can lie there", lsn, ptr)
	}
	seg := s.space.At(ptr.Off)
	if seg.Base() != lsn-format.LSN(int64(lsn)%size) {
		return 0, nil, false, fmt.Errorf("read LSN %d at %v: that segment holds other LSNs", lsn, ptr)
	}
	if seg.State() == segments.StateActive {
		buf := make([]byte, ptr.Len)
		if s.readBuffered(buf, lsn) {
			h, body, err := format.DecodeMessage(buf, lsn, seg.Seed())
			return h.Kind, body, false, s.corrupt(lsn, ptr, h, err)
		}
	}
	h, body, err := pull(s.view, ptr, lsn, seg.Seed())
	return h.Kind, body, len(body) > 0 && s.view.Holds(body), s.corrupt(lsn, ptr, h, err)
}

// readBuffered is Log.Read of a whole message. An entry is in the page table some instructions before its message is committed (install): whoever finds it there
// by then waits for the writer. The places of a standalone log are its caller's to know.
func (s *store) readBuffered(buf []byte, lsn format.LSN) bool {
	const patience = 5 * time.Second // of one who was given a place that nobody writes to
	var start time.Time
	for turn := 0; s.log.Read(buf, lsn); turn++ {
		if s.super.Log || [4]byte(buf) != [4]byte{} { // the word of a message is not zero
			return true
		}
		if turn == 0 {
			start = time.Now()
		} else if time.Since(start) > patience {
			return true
		}
		if runtime.Gosched(); turn > 100 {
			time.Sleep(20 * time.Microsecond)
		}
	}
	return false
}

func (s *store) corrupt(lsn format.LSN, ptr format.DiskPtr, h format.Header, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOMEM) { // it could not be looked at
		return fmt.Errorf("read LSN %d at %v: %w", lsn, ptr, err)
	}
	return &CorruptError{File: filepath.Join(s.dir, logName), Err: err,
		Place: recovery.Place{}.WithSlot(format.SegmentID(int64(ptr.Off) / int64(s.super.SegmentSize))).
			WithOffset(ptr.Off).WithLSN(lsn).WithPage(h.Page)}
}

// header reads and bounds the header at a place where a message begins, without its checksum.
func (s *store) header(lsn format.LSN, off format.Offset) (format.Header, error) {
	size := int64(s.super.SegmentSize)
	room := int(size - int64(off)%size)
	var buf [format.HeaderSize]byte
	if s.space.At(off).State() == segments.StateActive && s.log.Read(buf[:], lsn) {
		return format.DecodeHeader(buf[:], room, lsn)
	}
	var h format.Header
	err := mmapread.Guard(func() error {
		b, err := s.view.View(int64(off), format.HeaderSize)
		if err == nil {
			h, err = format.DecodeHeader(b, room, lsn)
		}
		return err
	})
	return h, s.corrupt(lsn, format.DiskPtr{Off: off, Len: format.HeaderSize}, h, err)
}
