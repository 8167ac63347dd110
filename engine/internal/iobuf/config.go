package iobuf

import (
	"errors"
	"time"

	"pagecache/engine/internal/report"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Errors of this package. A log that has stopped after a failed write returns an error that wraps ErrFailed and the
// cause.
var (
	ErrClosed     = errors.New("log is closed")
	ErrReadOnly   = errors.New("store is open for reading only")
	ErrTooLarge   = errors.New("message does not fit a segment")
	ErrFailed     = errors.New("log has stopped after an I/O error")
	ErrBatchEnded = errors.New("batch has already ended")

	errNotDrained = errors.New("device writes are still in flight")
)

// CloseTimeout is the longest time that Close waits for reservations to end, and again for the device.
const CloseTimeout = 10 * time.Second

// Space hands out the slots of segments. The Log calls OpenSegment from one goroutine at a time.
type Space interface {
	// OpenSegment takes a slot for the segment that begins at base; its space, or that below Config.Limit, is reserved
	// on the disk when OpenSegment returns. least is the least urgency of writers that may use the segment without
	// asking Room. An error that wraps segments.ErrNoRoom has changed nothing; any other stops the log.
	OpenSegment(base format.LSN, u segments.Urgency) (slot format.SegmentID, least segments.Urgency, err error)
	// Room reports whether writers of urgency u may write to segments whose least urgency is higher: nil, or an error
	// as those of OpenSegment.
	Room(u segments.Urgency) error
	// SealSegment reports that every byte of the segment is durable, just before its buffer is reused. pages lists the
	// segment's pages; nil if they are too many or lists are not wanted.
	SealSegment(slot format.SegmentID, base format.LSN, pages segments.PageList)
	// Blank returns from which offset on nothing was written to the slot that OpenSegment has returned last, since its
	// space was reserved; the segment's size if all of it may have been written. It is called by the same goroutine.
	Blank() int
	// Ledger returns the ledger of the segments, for segment headers. It includes those that OpenSegment has opened.
	Ledger() format.Ledger
}

// Config is the configuration of a Log.
type Config struct {
	Device     vfs.Device
	Space      Space
	Buffers    [][]byte // io buffers, each of the segment size, page aligned, all zero; at least 2
	Store      format.StoreID
	Generation format.Generation
	Timeline   format.Timeline
	FlushEvery time.Duration // interval of background flushes; 0: none
	MarkAfter  time.Duration // from the last acknowledgement to the mark that proves it; 0: no marks
	Patience   time.Duration // the longest time that BeginBatch waits for a group of batches to end; 0: none
	Chunk      int           // bytes to be written although no goroutine waits for them; 0: 1 MiB
	ListPages  bool          // make the lists of pages for SealSegment
	Index      bool          // end each sealed segment with an index of its records: for a standalone log
	Report     *report.Reporter
	SlowWrite  time.Duration // from which on a device write is reported as slow; 0: never
	// BadWrite, if not nil, is called for each device write that fails, once the log has stopped. It may block.
	BadWrite func(slot format.SegmentID, err error)

	// The end of the log so far: everything below End is stable. Unless End is a multiple of the segment size, Slot and
	// Seed are those of the partly filled segment, and Fill reads its first bytes, up to End, into a buffer.
	End  format.LSN
	Slot format.SegmentID
	Seed format.Seed
	Fill func(mem []byte) error
	// Listing lists the bytes that Fill reads, if the segment will end with an index. If nil, New lists them.
	Listing *Listing
	// Limit is the number of bytes that have disk space of the segment that the log goes on in, or of the first one
	// that is opened if the log ends between segments; 0: all. It is a multiple of the device's block, and End is at
	// least a block below it. A log with an index has none.
	Limit int
	// Zero durably writes zeros to a range of the log file, in whole blocks. With it, the leader zeroes blank parts of
	// a slot in steps, before small writes reach them: the first write to space that is only reserved makes the file
	// system change its metadata, so a small durable write takes about twice as long as one to space that was written
	// before. Nil disables this.
	Zero func(off, n int64) error
	// ZeroStep is the number of bytes that are zeroed at once, in whole blocks; 0: the default.
	ZeroStep int
}

// Stats counts the work of a Log since it was opened.
type Stats struct {
	BytesWritten int64 // bytes given to the device, padding included
	BytesPadded  int64
	Flushes      int64 // device writes
	BufferWaits  int64 // number of times a writer waited for a free buffer
	StableEnd    format.LSN
}
