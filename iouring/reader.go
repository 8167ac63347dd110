//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	blockBytes = 4096
	// pieceBytes is how much of a long range is read at once; longFlights is how many such pieces are in flight at a time, so that short reads find
	// the device's queue not longer than that. 1 GiB by 16 pieces of 256 KiB, or 8 of
	// 1 MiB, takes as long within the noise, and a third longer by populating a map.
	pieceBytes, longFlights = 512 << 10, 8
	// readDepth is how many reads are in flight unless the Options say otherwise.
	readDepth = 128
	// readTries bounds how often one read is tried again without progress.
	readTries = 16
	// leadTurns is how many submissions one caller makes for others, before one of them takes over.
	leadTurns = 8
	// attendFor is how long a caller who reads alone looks for the end before it parks, and attendRest how many such reads park at once after one that
	// took longer.
	attendFor, attendRest = 150 * time.Microsecond, 32
)

// Reader reads ranges of files so that they lie in the page cache; what was read is thrown away. Callers are parked, and sit neither on a
// thread nor on a P. Safe for concurrent use.
//
//	R1  Fetch returns once every range has been in the page cache, is known not to be there to read, or the Reader is closed.
//	R2  Once Fetch or ReadAhead has returned, the Reader does not use the descriptor again: it may be closed, and its number given to another file.
//	R3  Nothing is allocated for a read.
//	R4  Long ranges are read in pieces of which several are in flight, and leave room for the short ones.
//	R5  Close ends in bounded time and wakes everybody.
//
//	request:  queued ──fill──▶ in flight (in pieces) ──land──▶ done: its caller is woken
//
// Whoever queues a request and finds nobody submitting leads: it fills the ring from the queue, submits, takes what has completed, and stops when
// nothing is left to submit. All else that completes is taken by one goroutine that waits for the ring in Go's poller. The kernel completes
// a buffered read on the thread that submitted it, whatever that does at the time: it interrupts it, which takes some microseconds.
type Reader struct {
	ring    *ring         // nil: system calls
	scratch []byte        // what is read ends here, all of it on top of each other. On the heap, whose objects do not move
	poll    *os.File      // an eventfd that the ring signals completions to
	gone    chan struct{} // closed when the reaper has ended
	pool    sync.Pool     // of *request

	// broken says that the ring does not work any more. Set once, under mu; who reads it late finds out in the end and then makes system calls.
	broken atomic.Bool

	// users are the calls that may look at the ring outside of mu. They come under mu, before Close, and leave at any time; Close waits for zero.
	users atomic.Int64

	// leading says that somebody submits. Written under mu; Submitting reads it without, and a stale one costs a wait.
	leading atomic.Bool

	mu      sync.Mutex
	report  Report
	short   requests
	long    requests
	flights []readFlight // by id; len is the depth
	free    []uint64     // ids that are not in flight
	longs   int          // pieces of long requests in flight
	started int          // pieces in flight that nobody waits for
	settle  int          // calls of Settle under way: nothing is started meanwhile
	slow    int          // so many reads alone park at once
	lost    time.Time    // when the ring failed while something that was started was in flight
	muted   bool         // completions are not signalled: somebody attends
	closed  bool
	count   ReaderCounts

	park       bool          // nobody attends
	drainLimit time.Duration // drainLimit, save in tests
}

// request is one Fetch under way. All of it is guarded by mu, but for wake.
type request struct {
	fd     int
	ranges []Range // what is not in flight yet: ranges[0] from at on, and the others
	at     int
	long   bool // of more than a piece
	queued bool // in one of the lists: something of it is not in flight yet
	flying int  // pieces in flight
	err    error
	next   *request
	wake   chan bool // true: done; false: lead. Never more than one of each in it
}

// readFlight is a read in flight, of n > 0 bytes.
type readFlight struct {
	q     *request // nil: nobody waits for it
	fd    int
	off   int64
	n     int
	long  bool
	tries int // without progress
}

// errReader is wrapped by the errors of a Reader that is closed.
var errReader = fmt.Errorf("reader: %w", os.ErrClosed)

// OpenReader opens a Reader; of the Options, Ring, Depth and Park count. Where io_uring cannot be had the Reader uses system calls, and its Report says
// why. Errors: a Ring of On that does not work.
func OpenReader(o Options) (*Reader, error) { return openReader(linux, o) }

func openReader(k kernel, o Options) (*Reader, error) {
	if o.Depth <= 0 {
		o.Depth = readDepth
	}
	r := &Reader{park: o.Park, drainLimit: drainLimit, report: Report{Block: blockBytes}, scratch: make([]byte, pieceBytes)}
	r.pool.New = func() any { return &request{wake: make(chan bool, 2)} }
	err := errors.New("it is switched off")
	if o.Ring != ModeOff {
		if err = r.openRing(k, o.Depth); err == nil {
			return r, nil
		}
	}
	if o.Ring == ModeOn {
		return nil, fmt.Errorf("io_uring does not work here: %w", err)
	}
	r.report.Reason = fmt.Sprintf("no io_uring: %v", err)
	return r, nil
}

// openRing sets the ring up and tries it. The first read is the probe of reading.
func (r *Reader) openRing(k kernel, depth int) error {
	ring, err := newRing(k, -1, depth)
	for errors.Is(err, unix.ENOMEM) && depth > 2 && !r.park { // who parks has another
		depth /= 2
		ring, err = newRing(k, -1, depth)
	}
	if err != nil {
		return explain(err)
	}
	if err = tryNop(ring); err == nil {
		err = r.watch(ring)
	}
	if err != nil {
		return errors.Join(err, ring.close())
	}
	r.ring, r.report.Ring = ring, true
	r.flights, r.free = make([]readFlight, depth), make([]uint64, depth)
	for i := range r.free {
		r.free[i] = uint64(depth - 1 - i)
	}
	r.gone = make(chan struct{})
	raw, err := r.poll.SyscallConn()
	if err != nil { // of a closed file only
		return err
	}
	go func() {
		defer close(r.gone)
		_ = raw.Read(func(uintptr) bool { return r.reap() }) // ends when poll is closed
	}()
	return nil
}

// watch has the ring signal completions to an eventfd that the poller knows. It is never read: each signal is an event of its own there.
func (r *Reader) watch(ring *ring) error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	r.poll = os.NewFile(uintptr(fd), "io_uring completions")
	err = r.poll.SetReadDeadline(time.Time{}) // ErrNoDeadline: the poller does not take it
	if err == nil {
		err = ring.registerEventfd(fd)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("poll io_uring: %w", err), r.poll.Close())
	}
	return nil
}

// Report says whether the ring is used, and why not.
func (r *Reader) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

// Counts returns what was done so far.
func (r *Reader) Counts() ReaderCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Submitting reports whether a caller is just now submitting: another would have it submit for both, or wait. Beside it a second Reader is
// faster by some percent where many read, as the kernel does most of the work of a read when it is submitted.
func (r *Reader) Submitting() bool { return r.leading.Load() }

// Fetch returns once every 4 KiB block of the ranges of the file has been in the page cache. What lies beyond the file's end
// is left out. An error says little: whoever then reads the file finds out.
func (r *Reader) Fetch(fd int, ranges []Range) error {
	if r.ring == nil || r.broken.Load() {
		return r.fetchByCalls(fd, ranges)
	}
	q := r.pool.Get().(*request)
	q.fd, q.ranges, q.long = fd, ranges, isLong(ranges)
	r.mu.Lock()
	if r.closed || r.broken.Load() {
		r.mu.Unlock()
		r.release(q)
		return r.fetchByCalls(fd, ranges)
	}
	r.users.Add(1)
	r.queue(q)
	lead := !r.leading.Load()
	r.leading.Store(true)
	alone := lead && !r.park && len(r.free) == len(r.flights)
	if alone && r.slow > 0 {
		alone = false
		r.slow--
	}
	r.signal(!alone)
	r.mu.Unlock()
	for done := false; !done; {
		if lead {
			r.lead()
		}
		if alone {
			r.attend(q)
		}
		done = <-q.wake
		lead = !done
	}
	err := q.err
	r.release(q)
	r.users.Add(-1)
	if err == nil {
		return nil
	}
	if errno := unix.Errno(0); errors.As(err, &errno) && errno != unix.EIO {
		return r.fetchByCalls(fd, ranges) // all of it: what is there costs little
	}
	return err
}

// attend has a caller who reads alone look for the end by itself for a while, instead of parking: on a fast device waking threads takes longer than
// reading. It yields to whatever else can run. Completions are not signalled meanwhile (see signal), as each would wake a thread for nothing.
func (r *Reader) attend(q *request) {
	late := false
	for start := time.Now(); len(q.wake) == 0 && !late; runtime.Gosched() {
		if r.ring.cqTail.Load() != r.ring.cqHead.Load() {
			r.reap()
		}
		late = time.Since(start) > attendFor
	}
	r.mu.Lock()
	r.signal(true)
	if late {
		r.slow = attendRest
	}
	r.mu.Unlock()
	if late {
		// The kernel promises no order between a completion and its look at the flag: one at the moment of switching on may go without a signal.
		time.AfterFunc(time.Millisecond, func() { r.reap() })
	}
}

// signal says whether completions wake the reaper. Whoever launches something beside the one who attends switches that on before.
func (r *Reader) signal(on bool) {
	if r.ring.cqFlags != nil && r.muted == on {
		r.muted = !on
		flag := uint32(eventfdOff)
		if on {
			flag = 0
		}
		r.ring.cqFlags.Store(flag)
	}
}

// isLong reports whether a request waits behind those that are not: it has a long range, or very many.
func isLong(ranges []Range) bool {
	const much = 16 << 20
	sum := 0
	for _, x := range ranges {
		if sum += x.Len; x.Len > pieceBytes || sum > much {
			return true
		}
	}
	return false
}

func (r *Reader) release(q *request) {
	*q = request{wake: q.wake}
	r.pool.Put(q)
}

// ReadAhead begins to read the ranges and does not wait. It is a hint: what finds the ring half full is dropped. It returns how many ranges it took.
func (r *Reader) ReadAhead(fd int, ranges []Range) int {
	if r.ring == nil || r.broken.Load() {
		return 0
	}
	taken := 0
	r.mu.Lock()
	if !r.closed {
		r.signal(true) // before anything can complete
	}
	for taken < len(ranges) && r.startRange(fd, ranges[taken]) {
		taken++
	}
	if taken == 0 {
		r.mu.Unlock()
		return 0
	}
	r.users.Add(1)
	defer r.users.Add(-1)
	end := r.ring.sqTail.Load()
	lead := !r.leading.Load()
	r.leading.Store(true)
	r.mu.Unlock()
	if lead {
		r.lead()
	}
	// R2: until the kernel has taken them, the entries name the file by its descriptor. Whoever leads hands them over next.
	for int32(r.ring.sqHead.Load()-end) < 0 && !r.broken.Load() {
		runtime.Gosched()
	}
	return taken
}

// Settle waits until nothing is being read that was begun by ReadAhead, so that what those ranges held can be overwritten past the page cache: for limit at most, after
// which it is an error. What ReadAhead is asked for meanwhile is dropped. What was in flight when the ring failed is given that long to end: nobody is told.
func (r *Reader) Settle(limit time.Duration) error {
	if r.ring == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle++
	defer func() { r.settle-- }()
	if rest := time.Until(r.lost.Add(limit)); !r.lost.IsZero() && rest > 0 {
		r.mu.Unlock()
		time.Sleep(rest)
		r.mu.Lock()
	}
	for end := time.Now().Add(limit); r.started > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("%d reads ahead did not end: %w", r.started, unix.ETIMEDOUT)
		}
		r.mu.Unlock()
		time.Sleep(50 * time.Microsecond)
		r.reap() // in case that a signal was lost
		r.mu.Lock()
	}
	return nil
}

// startRange puts a range in the ring, all its pieces or none.
func (r *Reader) startRange(fd int, x Range) bool {
	pieces := (x.Len + pieceBytes - 1) / pieceBytes
	long := pieces > 1
	if r.closed || r.broken.Load() || r.settle > 0 || x.Len <= 0 || x.Off < 0 || len(r.free) < len(r.flights)/2+pieces || long && r.longs+pieces > longFlights {
		return false
	}
	for at := 0; at < x.Len; at += pieceBytes {
		off, n := least(x.Off+int64(at), min(pieceBytes, x.Len-at))
		r.launch(readFlight{fd: fd, off: off, n: n, long: long})
	}
	r.count.Started++
	return true
}

// least returns the shortest range that touches the same blocks as [off, off+n), n > 0: from the last byte of the first to the first of the
// last. The kernel brings in whole blocks, and copies what is asked for.
func least(off int64, n int) (int64, int) {
	first, last := off&^(blockBytes-1), (off+int64(n)-1)&^(blockBytes-1)
	if first == last {
		return off, 1
	}
	return first + blockBytes - 1, int(last-first) - (blockBytes - 2)
}

// fetchByCalls reads in the calling goroutine.
func (r *Reader) fetchByCalls(fd int, ranges []Range) error {
	for _, x := range ranges {
		for at := 0; at < x.Len; at += pieceBytes {
			if err := r.readByCalls(fd, x.Off+int64(at), min(pieceBytes, x.Len-at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// readByCalls reads a piece. The loop ends because each turn makes progress, is interrupted, or is the last.
func (r *Reader) readByCalls(fd int, off int64, n int) error {
	r.mu.Lock()
	closed := r.closed
	r.count.Calls++
	r.mu.Unlock()
	if closed {
		return errReader
	}
	for off, n = least(off, n); n > 0; {
		// Not unix.Pread, which would tell the race detector of a write to the scratch memory. Nobody reads that.
		got, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(r.scratch))), uintptr(n), uintptr(off), 0, 0)
		switch {
		case errno == unix.EINTR || errno == unix.EAGAIN:
		case errno != 0:
			return fmt.Errorf("read %d bytes at %d: %w", n, off, errno)
		case got == 0:
			return nil
		default:
			off, n = off+int64(got), n-int(got)
		}
	}
	return nil
}
