//go:build linux

package iouring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

const (
	blockBytes = 4096
	// pieceBytes is the size of the pieces in which long ranges are read. longPieces is the limit on such pieces in
	// flight, so that short reads find at most that many before them in the device's queue. 1 GiB by 16 pieces of 256
	// KiB, or 8 of 1 MiB, takes as long within the noise, and a third longer by populating a map.
	pieceBytes, longPieces = 512 << 10, 8
	// shortsFirst is the number of short reads that go before a piece of a long one that could go.
	shortsFirst = 32
	// readDepth is the default of ReaderOptions.Depth.
	readDepth = 128
	// readRetries is the limit on retries of one read without progress.
	readRetries = 16
	// leaderTurns is the number of submissions that one leader makes for other callers before one of them takes over.
	leaderTurns = 8
	// pollFor is the time for which a caller that reads alone polls for the completion before it parks. After a read
	// that took longer, the next parkNext such reads park at once: polling in vain takes at most pollFor of a processor
	// for parkNext+1 reads that each take longer.
	pollFor, parkNext = 250 * time.Microsecond, 8
	// yieldEvery is the time after which a caller that polls, one read after the other, lets other goroutines run.
	yieldEvery = 2 * time.Millisecond
)

// Reader reads ranges of files so that they lie in the page cache; it discards the bytes. Callers are parked, and block
// neither a thread nor a P. Safe for concurrent use. R1 to R6 of the package comment are its guarantees.
//
//	request:  queued ──fill──▶ in flight (in pieces) ──complete──▶ done: its caller is woken
//
// The caller that queues a request while nobody submits becomes the leader: it fills the ring from the queue, submits,
// takes completions, and stops when nothing is left to submit. One goroutine, the reaper, waits for the ring in Go's
// poller and takes all other completions. The kernel completes a buffered read on the thread that submitted it, which
// it interrupts for some microseconds.
type Reader struct {
	ring    *ring.Ring    // nil: system calls
	scratch []byte        // every read ends here, on top of the others. On the heap, whose objects do not move
	poll    *os.File      // an eventfd that the ring signals completions to
	reaped  chan struct{} // closed when the reaper has ended
	pool    sync.Pool     // of *request

	// broken says that the ring no longer works. It is set once, under mu. A caller that reads a stale false finds out
	// under mu and then makes system calls.
	broken atomic.Bool

	// users counts the calls that may look at the ring outside of mu. They enter under mu, before Close, and leave at
	// any time; Close waits for 0.
	users atomic.Int64
	// draining says that drain waits for users to become 0. Written by drain; publishes nothing. A call that leaves
	// subtracts itself first and then reads it, and drain stores it first and then reads users, so one of them sees
	// the other.
	draining atomic.Bool

	// leading says that there is a leader. Written under mu; Submitting reads it without, and a stale value costs a
	// wait.
	leading atomic.Bool

	mu       sync.Mutex
	report   ReaderReport
	short    requests
	long     requests
	inFlight []readInFlight // by id; len is the depth
	free     []uint64       // ids that are not in flight
	longs    int            // pieces of long requests in flight
	passed   int            // short reads that went before the next piece of a long request
	ahead    int            // pieces of read ahead in flight
	settling int            // calls of Settle under way: no read ahead is started meanwhile
	parking  int            // the number of reads alone that park at once
	yielded  time.Time      // when a caller that polls has last yielded because yieldEvery was over
	brokenAt time.Time      // when the ring failed with read ahead in flight
	changed  chan struct{}  // closed when a read has ended, or a leader or user left; nil unless somebody waits
	muted    bool           // the ring does not signal completions: a caller polls
	closed   bool
	count    ReaderCounts

	park       bool                // ReaderOptions.Park: nobody polls
	degraded   func(reason string) // ReaderOptions.Degraded
	drainLimit time.Duration       // drainLimit; tests change it
}

// request is one Fetch under way. All of it but wake is guarded by mu.
type request struct {
	fd       int
	ranges   []Range // not in flight yet: ranges[0] from at on, and all of the others
	at       int
	long     bool // larger than a piece
	queued   bool // in one of the lists: something of it is not in flight yet
	inFlight int  // pieces
	err      error
	next     *request
	wake     chan bool // true: done; false: become the leader. It never holds more than one of each
}

// readInFlight is a read in flight, of n > 0 bytes.
type readInFlight struct {
	q       *request // nil: read ahead
	fd      int
	off     int64
	n       int
	long    bool
	retries int // without progress
}

// errReaderClosed is the error of calls on a closed Reader.
var errReaderClosed = fmt.Errorf("reader: %w", os.ErrClosed)

// OpenReader opens a Reader. If io_uring does not work, the Reader uses system calls, and its report says why.
// OpenReader fails if Ring is ModeOn and io_uring does not work.
func OpenReader(o ReaderOptions) (*Reader, error) { return openReader(ring.Linux, o) }

func openReader(k ring.Kernel, o ReaderOptions) (*Reader, error) {
	if o.Depth <= 0 {
		o.Depth = readDepth
	}
	r := &Reader{park: o.Park, drainLimit: drainLimit, scratch: make([]byte, pieceBytes)}
	r.pool.New = func() any { return &request{wake: make(chan bool, 2)} }
	err := errDisabled
	if o.Ring != ModeOff {
		r.degraded = o.Degraded // before the reaper starts
		if err = r.openRing(k, o.Depth); err == nil {
			return r, nil
		}
	}
	if o.Ring == ModeOn {
		return nil, fmt.Errorf("io_uring does not work here: %w", err)
	}
	r.report.Reason = fmt.Sprintf("no io_uring: %v", err)
	if o.Degraded != nil && o.Ring != ModeOff {
		o.Degraded(r.report.Reason)
	}
	return r, nil
}

// reaperLabels are the profiling labels of the reaper; it would have those of the goroutine that started it.
var reaperLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "reaper"))

// openRing sets up the ring and tries it. The first Fetch finds out whether reading works.
func (r *Reader) openRing(k ring.Kernel, depth int) error {
	open := ring.NewAtMost
	if r.park { // there is another Reader, which is better than a small ring
		open = ring.New
	}
	u, err := open(k, -1, depth)
	if err != nil {
		return err
	}
	if err = u.ProbeNop(); err == nil {
		err = r.watch(u)
	}
	if err != nil {
		return errors.Join(err, u.Close())
	}
	r.ring, r.report.Ring = u, true
	r.inFlight, r.free = make([]readInFlight, u.Depth()), make([]uint64, u.Depth())
	for i := range r.free {
		r.free[i] = uint64(u.Depth() - 1 - i)
	}
	r.reaped = make(chan struct{})
	raw, err := r.poll.SyscallConn()
	if err != nil { // only for a closed file
		return err
	}
	go func() {
		pprof.SetGoroutineLabels(reaperLabels)
		defer close(r.reaped)
		_ = raw.Read(func(uintptr) bool { return r.reap() }) // ends when poll is closed
	}()
	return nil
}

// watch makes the ring signal completions to an eventfd that Go's poller watches. Nobody reads the eventfd: for the
// poller each signal is an event of its own.
func (r *Reader) watch(u *ring.Ring) error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	r.poll = os.NewFile(uintptr(fd), "io_uring completions")
	err = r.poll.SetReadDeadline(time.Time{}) // ErrNoDeadline: the poller does not support it
	if err == nil {
		err = u.RegisterEventfd(fd)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("poll io_uring: %w", err), r.poll.Close())
	}
	return nil
}

// Report says whether the Reader uses a ring, and if not, why.
func (r *Reader) Report() ReaderReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

// Counts returns what the Reader has done so far.
func (r *Reader) Counts() ReaderCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Submitting reports whether a caller is submitting right now. Another caller would then wait for it, or have it submit
// for both. If many callers read, a second Reader beside this one is some percent faster, because the kernel does most
// of the work of a read when it is submitted.
func (r *Reader) Submitting() bool { return r.leading.Load() }
