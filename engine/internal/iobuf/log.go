package iobuf

import (
	"cmp"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/latency"
	"pagecache/engine/internal/report"
	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Log is the write side of the log. All methods are safe for concurrent use.
type Log struct {
	// Set by New and never changed.
	dev         vfs.Device
	parker      vfs.Parker // dev, if it can park; else nil
	space       Space
	store       format.StoreID
	generation  format.Generation
	timeline    format.Timeline
	segmentSize int
	block       int // bytes
	chunk       int // bytes
	listPages   bool
	indexed     bool // sealed segments end with an index
	maxBody     int  // of a message, bytes
	markAfter   time.Duration
	patience    time.Duration                 // Config.Patience
	bufs        []*buffer                     // nil in a read-only log
	badWrite    func(format.SegmentID, error) // Config.BadWrite
	began       time.Time                     // when New was called: a clock that nobody sets
	stuckLook   time.Duration                 // stuckLook or trusting

	// The atomics that stand alone.

	// active is the buffer of new reservations, nil before the first. Written by open, under state.mu; publishes the
	// buffer's base, slot, seed and segment header. Each store is the buffer of the next segment, perhaps the same
	// one. A stale read costs a turn of the caller's loop, since the tail of an old buffer is above its end.
	active atomic.Pointer[buffer]
	// stable is the LSN of the first byte that is not stable. Written by settleLocked; publishes nothing. It only
	// rises. A stale read is a lower LSN, below which everything is stable too.
	stable atomic.Int64
	// durableEnd is state.durable. Written by advanceLocked; publishes nothing: the bytes below are on disk. It only
	// rises. A stale read is a lower end, below which everything is durable too.
	durableEnd atomic.Int64
	// proven is the durable end that the last mark carries; at first, the end of the log when it was opened. Written by
	// the flusher; publishes nothing. It only rises. A stale read costs a needless mark.
	proven atomic.Int64
	// markArmed reports that the flusher will write a mark (see mark.go). Written under state.mu; publishes nothing. A
	// stale false costs a look under state.mu. A stale true costs nothing: the mark takes the durable end only after
	// markDue has cleared markArmed, so it covers everything that was acknowledged until then.
	markArmed atomic.Bool
	// chunkFilled tells Reserve to call help: a chunk was filled since the leader, or help, has gathered. Written by
	// finish, sealRest and the leader; publishes nothing. A stale false leaves the chunk to the next call, or to the
	// leader. A stale true costs a look.
	chunkFilled atomic.Bool
	// stopped is set once, by stopLocked, after state.err: the log has failed or closed. A reader that sees it finds
	// the error in state.err. A stale false costs nothing: the next wait or reservation fails.
	stopped atomic.Bool
	// bufferWaiters is the number of goroutines that wait for a free buffer, or have been given one and did not run
	// yet; while it is not zero and no buffer is free, a leader does not resign before the message is committed that
	// keeps the buffers. Written by takeFree, under state.mu; publishes nothing.
	bufferWaiters atomic.Int32
	// messages is the number of messages that the leader has found committed. Written by the leader; publishes
	// nothing. It only rises. A stale read is a lower count.
	messages atomic.Int64
	// padding is the number of bytes that the leader may still pad. Written by LimitPadding and UnlimitPadding, and
	// lowered by the leader; publishes nothing. A stale read costs or spares one pad.
	padding atomic.Int64
	// paddingLimited is the time since began, in nanoseconds, at which LimitPadding was called, or the leader padded
	// although nothing was left of padding. Written by LimitPadding and the leader; publishes nothing. A stale read
	// delays or permits one pad.
	paddingLimited atomic.Int64
	// fenced tells BeginBatch to look at state.batches before it begins a batch. Written by setFenceLocked; publishes
	// nothing. A stale false adds one batch to a group that should end. A stale true costs a look under state.mu.
	fenced atomic.Bool
	// drained is set once, by drain: the device has nothing in flight any more, after Close. Publishes nothing. A stale
	// false makes the caller leave the device open.
	drained atomic.Bool

	notices  notices
	rotation rotation
	state    state
	report   *report.Reporter // set by New
	watch    watch
	zero     func(off, n int64) error // Config.Zero
	zeroStep int                      // bytes zeroed at once

	// Channels, made by New.
	kick    chan struct{} // wakes the flusher: there is a chunk to write, or a leader is needed. Room for one
	arm     chan struct{} // makes the flusher begin to wait for the moment of a mark. Room for one
	handoff chan struct{} // makes the flusher the leader (see leader). Room for one
	// resigned tells the flusher that the leader has resigned after the log has stopped. Room for one.
	resigned chan struct{}
	quit     chan struct{} // closed by Close: the flusher drains the device and ends
	done     chan struct{} // closed by the flusher when it ends

	leader leader

	waiters sync.Pool      // of *waiter that nobody uses
	clearer sync.WaitGroup // on the goroutine of clearUsed

	writes latency.Counts // of the device
}

// rotation is the opening of segments: mu is held while a goroutine opens the next one, and while it waits for a free
// buffer to do so.
type rotation struct {
	mu   sync.Mutex
	next format.LSN // the base of the next segment
}

// state is the state of the log that mu guards. Methods with names that end in Locked require mu.
type state struct {
	mu      sync.Mutex
	freed   sync.Cond // on mu: a buffer was freed, or the log has stopped
	err     error     // why the log has stopped; the first cause stays, but a failed write replaces ErrClosed
	closed  bool      // Close was called
	free    []*buffer // the Free buffers, but for one that takeFree has returned
	used    []*buffer // the Used buffers, but for those that are being cleared
	queue   []*buffer // the Active and Sealed buffers, by LSN; the leader reads a copy of the slice without mu
	waiters []*waiter // in any order
	batches batches
	stuck   stuck
	durable format.LSN // the first byte that is not durable
	wanted  format.LSN // the highest LSN that a goroutine wants durable; NoLSN before the first
	leading bool       // a goroutine is the leader, or will be: see leader
	// parked says that the leader lends the lead: see leader. Written under mu; read also without it, where a stale
	// false leaves a chunk to the leader, and a stale true costs a look under mu.
	parked   atomic.Bool
	back     bool        // the leader that has lent the lead waits for it
	returned sync.Cond   // on mu: parked was set again
	clearing bool        // clearUsed runs, or will
	clears   bool        // clearUsed is clearing a buffer, which will be free
	acked    bool        // something was acknowledged since markArmed was set, or since markDue looked last
	looking  bool        // lookAtBatches will be called: a batch is, or was, open
	look     *time.Timer // that calls it; nil before the first time
	stats    Stats       // all but StableEnd
}

// New starts a log. Its flusher goroutine runs until Close.
func New(c Config) (*Log, error) {
	if len(c.Buffers) < 2 {
		return nil, fmt.Errorf("%d io buffers: at least 2 are needed", len(c.Buffers))
	}
	size, block := len(c.Buffers[0]), c.Device.Block()
	if size%block != 0 {
		return nil, fmt.Errorf("segment size %d is not a multiple of the device's block size %d", size, block)
	}
	chunk := c.Chunk
	if chunk == 0 {
		chunk = 1 << 20
	}
	l := &Log{
		dev: c.Device, space: c.Space, store: c.Store, generation: c.Generation, timeline: c.Timeline,
		segmentSize: size, block: block,
		chunk: max(block, min(chunk, size/2)&^(block-1)), listPages: c.ListPages, markAfter: c.MarkAfter,
		badWrite: c.BadWrite,
		indexed:  c.Index, maxBody: maxBody(size, c.Index),
		kick: make(chan struct{}, 1), arm: make(chan struct{}, 1), handoff: make(chan struct{}, 1),
		resigned: make(chan struct{}, 1), report: c.Report, zero: c.Zero, zeroStep: cmp.Or(c.ZeroStep, defaultZeroStep),
		quit: make(chan struct{}), done: make(chan struct{}), began: time.Now(), patience: c.Patience,
	}
	l.parker, _ = c.Device.(vfs.Parker)
	if l.stuckLook = stuckLook; invariants.Enabled {
		l.stuckLook = trusting
	}
	l.watch.init(l, c.SlowWrite)
	l.notices.due.Store(math.MaxInt64)
	l.state.init(c.End)
	l.setEnds(c.End)
	l.UnlimitPadding()
	l.leader.init(l, c.Device.Depth())
	for _, m := range c.Buffers {
		b := newBuffer(m, c.Index, size)
		l.bufs = append(l.bufs, b)
		l.state.free = append(l.state.free, b)
	}
	if c.Limit > 0 && c.Limit < size && !c.Index && len(l.bufs) > 0 {
		b := &l.state.free[len(l.state.free)-1] // the one that is opened first
		short := newBuffer((*b).mem, false, c.Limit)
		short.later = *b
		l.bufs = append(l.bufs, short)
		*b = short
	}
	used := int(int64(c.End) % int64(size))
	l.rotation.next = c.End - format.LSN(used)
	if used != 0 {
		if err := l.resume(c, used); err != nil {
			return nil, err
		}
	}
	go l.flusher(c.FlushEvery)
	return l, nil
}

// NewReadOnly returns a log that ends at end, all of it stable. Calls that would write fail with ErrReadOnly.
func NewReadOnly(end format.LSN) *Log {
	l := &Log{}
	l.state.init(end)
	l.state.err, l.state.closed = ErrReadOnly, true
	l.setEnds(end)
	l.stopped.Store(true)
	l.drained.Store(true)
	return l
}

// setEnds begins a log that ends at end, all of it stable and proven.
func (l *Log) setEnds(end format.LSN) {
	l.stable.Store(int64(end))
	l.durableEnd.Store(int64(end))
	l.proven.Store(int64(end))
}

func (s *state) init(end format.LSN) {
	s.freed.L, s.returned.L = &s.mu, &s.mu
	s.durable, s.wanted = end, format.NoLSN
	s.batches.awaited, s.batches.asked = format.NoLSN, format.NoLSN
}

// resume opens the partly filled segment that the log ends in; used is the length of its contents in bytes.
func (l *Log) resume(c Config, used int) error {
	if used%l.block != 0 {
		return fmt.Errorf("log ends at LSN %d, which is not on a boundary of %d-byte blocks", c.End, l.block)
	}
	b, err := l.takeFree()
	if err != nil {
		return err
	}
	if err := c.Fill(b.mem[:used]); err != nil {
		return err
	}
	b.slot, b.seed = c.Slot, c.Seed
	// The leader does not walk the contents, so it cannot list their pages.
	b.progress = progress{walked: used, boundary: used, submitted: used, covered: used, listed: false,
		blank: len(b.mem)}
	tail := makeTail(used, 0)
	if b.indexed {
		if c.Listing == nil {
			c.Listing = List(b.mem[:used], l.rotation.next)
		}
		tail = b.indexAgain(c.Listing, used)
	}
	// The slot may be one that is reserved for urgent writers: all others ask for room.
	b.least.Store(leastOf(l.rotation.next, segments.UrgencyCleaning))
	l.open(b, l.rotation.next, tail)
	l.rotation.next += format.LSN(l.segmentSize)
	return nil
}

// StableEnd returns the LSN of the first byte that is not stable.
func (l *Log) StableEnd() format.LSN { return format.LSN(l.stable.Load()) }

// StableLSN returns the LSN of the last stable byte, or NoLSN if there is none.
func (l *Log) StableLSN() format.LSN { return format.LSN(l.stable.Load() - 1) }

// DurableEnd returns the LSN of the first byte that is not durable. It is above StableEnd while a batch is open.
func (l *Log) DurableEnd() format.LSN { return format.LSN(l.durableEnd.Load()) }

// known returns the ends of the log, for the messages that carry them.
func (l *Log) known() format.Known {
	return format.Known{Durable: l.DurableEnd(), Stable: l.StableLSN()}
}

// Messages returns about how many messages were written since the log was opened.
func (l *Log) Messages() int64 { return l.messages.Load() }

// Err returns why the log has stopped: nil, ErrClosed, ErrReadOnly, or an error that wraps ErrFailed and its cause.
func (l *Log) Err() error {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	return l.state.err
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	s := l.state.stats
	s.StableEnd = l.StableEnd()
	return s
}

// Writes returns how long the device writes have taken that did not fail.
func (l *Log) Writes() latency.Histogram { return l.writes.Load() }

// fail stops the log for good (rule 8).
func (l *Log) fail(cause error) {
	l.state.mu.Lock()
	l.stopLocked(fmt.Errorf("%w: %w", ErrFailed, cause))
	l.state.mu.Unlock()
}

// stopLocked stops the log and wakes every goroutine that waits for it.
func (l *Log) stopLocked(err error) {
	s := &l.state
	if s.err == nil || s.err == ErrClosed { // a write that was in flight at Close may still fail
		if s.err = err; err != ErrClosed {
			l.report.LogFailed(err)
		}
	}
	l.stopped.Store(true)
	for _, w := range s.waiters {
		w.wake(wakeFailed)
	}
	s.waiters = s.waiters[:0]
	s.batches.wake()
	s.freed.Broadcast()
	l.filled(anyCommit) // for the leader, if it rests, and for readers
}
