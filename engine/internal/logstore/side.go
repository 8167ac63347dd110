package logstore

import (
	"errors"
	"fmt"
	"sync"

	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/segments"
	"pagecache/segments/format"
)

// side is a device of its own for writes beside the log: it does not delay commits.
type side struct {
	mu    sync.Mutex
	dev   vfs.Device // opened at the first use
	zeros []byte     // always zero, except while a block of it is written
}

// sidePiece is the length in bytes of one write beside the log: short enough not to delay a commit for long. sideDepth
// is the number of writes in flight.
const sidePiece, sideDepth = 512 << 10, 16

func allocBuffer(n int) ([]byte, error) { return iouring.AllocBuffer(n) }

func useHugePages(b []byte) { iouring.UseHugePages(b) }

func freeBuffer(b []byte) { iouring.FreeBuffer(b) }

// close releases the device. It reports whether a write may still be in flight.
func (d *side) close() (inFlight bool) {
	if d.dev == nil {
		return false
	}
	if inFlight = errors.Is(d.dev.Close(), vfs.ErrInFlight); !inFlight {
		freeBuffer(d.zeros)
	}
	return inFlight
}

// beside calls write with the side device and zeroed memory, one caller at a time.
func (s *Store) beside(write func(dev vfs.Device, zeros []byte) error) error {
	s.side.mu.Lock()
	defer s.side.mu.Unlock()
	if s.side.dev == nil {
		o := s.c.Device
		o.Depth = sideDepth
		dev, report, err := s.file.OpenDevice(o)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLater, err)
		}
		if report.Reason != s.report.Reason { // else it was reported for the log
			s.c.Report.Degraded("device beside the log", useOf(report), report.Reason)
		}
		if s.side.zeros, err = allocBuffer(max(sidePiece, sideDepth*dev.Block())); err != nil {
			return fmt.Errorf("%w: %w", ErrLater, errors.Join(err, dev.Close()))
		}
		s.side.dev = dev
	}
	return write(s.side.dev, s.side.zeros)
}

// errStopped reports that the store was closed while it zeroed a segment.
var errStopped = errors.New("zeroing ahead was stopped")

// zero durably writes zeros to a range of the log file. It stops with an error once quit is closed.
func (s *Store) zero(off, n int64, quit <-chan struct{}) error {
	for end := off + n; off < end; {
		select {
		case <-quit:
			return errStopped
		default:
		}
		err := s.beside(func(dev vfs.Device, zeros []byte) error {
			b := zeros[:min(int64(len(zeros)), end-off)]
			off += int64(len(b))
			return writeTo(dev, b, off-int64(len(b)))
		})
		if isBadSector(err) {
			s.suspect(s.SlotOf(format.Offset(end-1)), err)
			return fmt.Errorf("%w: %w", segments.ErrBadSlot, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freeHeader returns the header of a slot that holds nothing, as far as it is the same for several slots.
func (s *Store) freeHeader(stable format.LSN, l format.Ledger) format.SegmentHeader {
	return format.SegmentHeader{State: format.SegmentStateFree, Stable: stable, Generation: s.Super.Generation,
		Timeline: s.Timeline, Ledger: l}
}

// markSlots durably writes the headers of slots that hold nothing, so that no later scan takes their contents for the
// log (rule 4d). A header has a block of its own, so a torn write of it hurts no message (trap 33). buf has room for a
// block of dev for each slot, and is zero before and after.
func (s *Store) markSlots(dev vfs.Device, buf []byte, slots []format.SegmentID, h format.SegmentHeader) error {
	block := dev.Block()
	buf = buf[:block*len(slots)]
	inFlight := false
	defer func() {
		if !inFlight { // else zeros would be written; the device writes nothing more
			clear(buf)
		}
	}()
	h.SegmentSize, h.BlockSize = s.Super.SegmentSize, block
	h.Store = s.Super.Store
	writes := make([]vfs.Write, len(slots))
	for i, slot := range slots {
		b, off := buf[i*block:(i+1)*block], int64(slot.Offset(s.Super.SegmentSize))
		// The scan has read the slot. Its bytes must not stay cached: they would hide those written next (rule 2).
		if err := s.file.DropCache(off, int64(s.Super.SegmentSize)); err != nil {
			return fmt.Errorf("mark %v free: %w", slot, err)
		}
		h.Slot = slot
		h.Put(b)
		writes[i] = vfs.Write{Off: off, Buf: b, Tag: uint64(i)}
	}
	if err := vfs.WriteAll(dev, writes); err != nil {
		inFlight = errors.Is(err, vfs.ErrInFlight)
		return fmt.Errorf("mark %v free: %w", slots, err)
	}
	return nil
}
