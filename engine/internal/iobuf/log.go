// Package iobuf is the write side of the log: io buffers, reservation, group commit and stability.
//
// What it guarantees:
//
//	B1  A stable byte is never written again (rule 1): every device write covers whole blocks past all earlier ones, and
//	    a partly filled block is completed by a pad before it is written.
//	B2  The log becomes stable strictly in order (rule 5): completions are taken from the front of one queue.
//	B3  Reserving never waits for a flush of its own buffer: a flush seals nothing.
//	B4  After a failed write every waiter wakes and every later call fails with the same cause (rule 8, trap 10).
//	B5  Lack of space fails the reservation that needs a new segment and nothing else (rule 9). What is kept for making room is used for nothing else, to
//	    its last byte: else writers who try again would fill what the cleaner has opened, and there would never be room again.
//	B6  A batch keeps the stable LSN below its beginning until its end is durable; it holds no reservation open
//	    (trap 11).
//
// A reservation is one atomic add on the active buffer's tail, as in Aeron's term buffers; a message is committed by
// storing its length word last. One goroutine at a time, the leader, walks the committed prefix and drives the device;
// the others wait on the stable LSN. (Group commit: DeWitt et al., SIGMOD 1984.)
package iobuf

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/iouring"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Errors of this package. A log that has stopped after a failed write returns a *FailedError.
var (
	ErrClosed   = errors.New("log is closed")
	ErrTooLarge = errors.New("message does not fit a segment")
	ErrFailed   = errors.New("log has stopped after an I/O error")
	ErrBatch    = errors.New("batch has ended already")
)

// Space hands out the slots in which segments lie. OpenSegment is called by one goroutine at a time.
type Space interface {
	// OpenSegment takes a slot for the segment that begins at base. Its space is reserved on the disk when it returns. An error that
	// wraps segments.ErrNoRoom leaves everything as it was; any other stops the log.
	// least is how urgent one has to be to write into it, unless there is Room.
	OpenSegment(base format.LSN, u segments.Urgency) (slot format.SegmentID, least segments.Urgency, err error)
	// Room reports, by an error as OpenSegment's, whether who is no more urgent than u may write into segments of which least is more.
	Room(u segments.Urgency) error
	// SealSegment says that every byte of the segment is durable and that no buffer holds it any more. pages lists its pages; nil: it has too many, or lists are not wanted.
	SealSegment(slot format.SegmentID, base format.LSN, pages segments.PageList)
	// Recycled is how many segments have been recycled, for headers.
	Recycled() uint64
}

// Config is what a Log is made of.
type Config struct {
	Device     iouring.Device
	Space      Space
	Buffers    [][]byte // io buffers, each of the segment size, page aligned, all zero; at least 2
	Store      format.StoreID
	Generation format.Generation
	FlushEvery time.Duration // 0: never by itself
	Chunk      int           // bytes that are worth a write of their own without anybody waiting; 0: 1 MiB
	ListPages  bool          // segments will be cleaned, and the lists of their pages are wanted

	// Where the log goes on: everything below End is stable. Unless End is a multiple of the segment size, Slot is the
	// partly filled segment's, Seed its seed, and Fill reads its first bytes (up to End) into a buffer.
	End  format.LSN
	Slot format.SegmentID
	Seed format.Seed
	Fill func(mem []byte) error
}

// Log is the write side of the log. All methods are safe for concurrent use.
type Log struct {
	dev         iouring.Device
	space       Space
	store       format.StoreID
	generation  format.Generation
	segmentSize int
	block       int
	depth       int
	chunk       int
	listPages   bool
	bufs        []*buffer

	// active is the buffer that reservations come from, nil before the first. Written by open under mu (publishes the
	// buffer's base and header); a stale read finds its tail above the end, or a place that is as good.
	active atomic.Pointer[buffer]
	// stable is the LSN of the first byte that is not stable. Only the leader and batch ends move it, only up, under mu. A
	// stale read is a lower LSN, which is still true.
	stable atomic.Int64
	// stopped is set once, after err, when the log has failed or closed.
	stopped atomic.Bool
	// starved counts the goroutines that wait for a free buffer: while it is not zero every commit kicks the flusher.
	starved atomic.Int32
	// messages counts those that were found committed. Written by the leader; a stale one is lower.
	messages atomic.Int64
	// drained says that the device has nothing in flight any more, after Close.
	drained atomic.Bool

	rotateMu sync.Mutex // held while the next segment is opened
	nextBase format.LSN // under rotateMu

	mu      sync.Mutex
	freed   sync.Cond     // on mu: a buffer was freed, or the log stopped
	err     error         // why the log stopped
	closed  bool          // Close was called
	free    []*buffer     // Free
	queue   []*buffer     // Active and Sealed, by LSN
	waiters []*waiter     // unordered
	batches []*batch      // not wholly stable, by LSN of their beginning
	durable format.LSN    // the first byte that is not durable
	leading bool          // some goroutine is, or was told to be, the leader
	stats   Stats         // counts
	wanted  format.LSN    // the highest LSN that anybody wants durable
	kick    chan struct{} // wakes the flusher: full blocks, or somebody must lead
	handoff chan struct{} // tells the flusher that it is the leader now
	quit    chan struct{}
	done    chan struct{}

	fl flight // the leader's
}

// Stats counts what a Log did since it was opened.
type Stats struct {
	BytesWritten int64 // given to the device, padding included
	BytesPadded  int64
	Flushes      int64 // device writes
	BufferWaits  int64 // times a writer waited for a free buffer
	StableEnd    format.LSN
}

// New starts a log.
func New(c Config) (*Log, error) {
	if len(c.Buffers) < 2 {
		return nil, fmt.Errorf("%d io buffers, at least 2", len(c.Buffers))
	}
	size := len(c.Buffers[0])
	l := &Log{dev: c.Device, space: c.Space, store: c.Store, generation: c.Generation, segmentSize: size,
		block: c.Device.Block(), depth: c.Device.Depth(), chunk: c.Chunk, listPages: c.ListPages, durable: c.End, wanted: format.NoLSN,
		kick: make(chan struct{}, 1), handoff: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	if l.chunk == 0 {
		l.chunk = 1 << 20
	}
	l.chunk = max(l.block, min(l.chunk, size/2)&^(l.block-1))
	if size%l.block != 0 {
		return nil, fmt.Errorf("segment size %d is not a multiple of the device's block %d", size, l.block)
	}
	l.freed.L = &l.mu
	l.stable.Store(int64(c.End))
	l.fl.init(l.depth)
	for _, m := range c.Buffers {
		b := &buffer{mem: m}
		b.base.Store(int64(format.NoLSN))
		b.tail.Store(uint64(size) + 1)
		l.bufs = append(l.bufs, b)
		l.free = append(l.free, b)
	}
	used := int(int64(c.End) % int64(size))
	l.nextBase = c.End - format.LSN(used)
	if used != 0 {
		if err := l.resume(c, used); err != nil {
			return nil, err
		}
	}
	go l.flusher(c.FlushEvery)
	return l, nil
}

// ErrReadOnly is the error of a log that was never to be written.
var ErrReadOnly = errors.New("store is open for reading only")

// ReadOnly returns a log that ends at end, all of it stable, and takes nothing: what would write is ErrReadOnly.
func ReadOnly(end format.LSN) *Log {
	l := &Log{durable: end, wanted: format.NoLSN, err: ErrReadOnly, closed: true}
	l.freed.L = &l.mu
	l.stable.Store(int64(end))
	l.stopped.Store(true)
	l.drained.Store(true)
	return l
}

// resume goes on in a partly filled segment.
func (l *Log) resume(c Config, used int) error {
	if used%l.block != 0 {
		return fmt.Errorf("log goes on at LSN %d, which is not at a block boundary of %d bytes", c.End, l.block)
	}
	b, err := l.takeFree()
	if err != nil {
		return err
	}
	if err := c.Fill(b.mem[:used]); err != nil {
		return err
	}
	b.slot, b.seed = c.Slot, c.Seed
	b.walked, b.boundary, b.submitted, b.covered = used, used, used, used
	b.listed = false                                      // what is there already is not walked
	b.least.Store(leastOf(l.nextBase, segments.Cleaning)) // it may have been opened in a slot that was kept: who writes asks for room
	l.open(b, l.nextBase, used)
	l.nextBase += format.LSN(l.segmentSize)
	return nil
}

// StableEnd is the LSN of the first byte that is not stable.
func (l *Log) StableEnd() format.LSN { return format.LSN(l.stable.Load()) }

// StableLSN is the LSN of the last stable byte, NoLSN if there is none.
func (l *Log) StableLSN() format.LSN { return format.LSN(l.stable.Load() - 1) }

// Block is the unit of device writes in bytes.
func (l *Log) Block() int { return l.block }

// Tail is the LSN below which everything has been reserved. It may be too high by a message that did not fit. It takes no
// lock that a writer holds while it waits for a buffer, since the flusher asks for it.
func (l *Log) Tail() format.LSN {
	if b := l.active.Load(); b != nil {
		base := b.base.Load()
		tail := b.tail.Load()
		if tail <= uint64(l.segmentSize) && b.base.Load() == base && base >= 0 {
			return format.LSN(base) + format.LSN(tail)
		}
	}
	l.mu.Lock() // the active buffer is full, or about to be another segment's: open changes it under mu
	defer l.mu.Unlock()
	b := l.active.Load()
	if b == nil {
		return l.durable
	}
	base := b.base.Load()
	if base < 0 {
		return l.durable // retired, and nobody has opened the next
	}
	return format.LSN(base) + format.LSN(min(b.tail.Load(), uint64(l.segmentSize)))
}

// Messages is about how many messages were written since the log was opened.
func (l *Log) Messages() int64 { return l.messages.Load() }

// Err is why the log has stopped: nil, ErrClosed, or an error that wraps ErrFailed and its cause.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.StableEnd = l.StableEnd()
	return s
}

// fail stops the log for good: rule 8. The first cause stays.
func (l *Log) fail(cause error) {
	l.mu.Lock()
	l.stopLocked(fmt.Errorf("%w: %w", ErrFailed, cause))
	l.mu.Unlock()
}

func (l *Log) stopLocked(err error) {
	if l.err == nil || l.err == ErrClosed { // a write that was in flight at Close may still fail
		l.err = err
	}
	l.stopped.Store(true)
	for _, w := range l.waiters {
		w.wake(wakeFailed)
	}
	l.waiters = l.waiters[:0]
	l.freed.Broadcast()
}

// Read copies len(dst) bytes at lsn, where a message begins, out of the io buffers. Of a message that is not committed yet it copies zeros. It
// reports false if no buffer holds them: then the segment is sealed and can be read from the file.
func (l *Log) Read(dst []byte, lsn format.LSN) bool {
	for _, b := range l.bufs {
		base := format.LSN(b.base.Load())
		if base < 0 || lsn < base || lsn >= base+format.LSN(l.segmentSize) {
			continue
		}
		b.read.RLock()
		off := int(lsn - base)
		ok := format.LSN(b.base.Load()) == base && off+len(dst) <= len(b.mem)
		if ok && b.word(off).Load() == 0 { // nothing else of it may be looked at
			clear(dst)
		} else if ok {
			copy(dst, b.mem[off:])
		}
		b.read.RUnlock()
		return ok
	}
	return false
}

// Close makes everything that is committed durable, stops the log and returns the end of the log: the first byte
// after what is durable. The device stays open. Reservations must have ended; those that have not make Close fail after
// a while. After a failure Close returns the sticky error.
func (l *Log) Close() (format.LSN, error) {
	if l.bufs == nil { // ReadOnly
		return l.durable, nil
	}
	err := l.closeFlush()
	l.mu.Lock()
	again := l.closed
	l.closed = true
	if l.err == nil {
		l.stopLocked(ErrClosed)
	}
	l.mu.Unlock()
	if again {
		return l.DurableEnd(), ErrClosed
	}
	close(l.quit)
	select {
	case <-l.done:
	case <-time.After(Patience): // a completion does not come; Drained says so
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.err != ErrClosed {
		err = l.err // it failed before it was closed
	}
	if err == nil && !l.Drained() {
		err = errNotDrained
	}
	// Only now: somebody, such as a note of ids, may have begun to write after the flush, and what came to the disk is the log's.
	return l.durable, err
}

var errNotDrained = errors.New("the device does not complete its writes")

// Drained reports whether nothing is in flight after Close, so that the device can be closed.
func (l *Log) Drained() bool { return l.drained.Load() }

func (l *Log) closeFlush() error {
	tail := l.Tail()
	if tail <= l.DurableEnd() || l.active.Load() == nil {
		return l.Err()
	}
	return l.wait(tail-1, waitDurable, Patience)
}

// DurableEnd is the LSN of the first byte that is not durable. It is above StableEnd while a batch is open.
func (l *Log) DurableEnd() format.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}
