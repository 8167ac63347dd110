//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fetch returns once every 4 KiB block of the ranges of the file has been in the page cache. It ignores what lies
// beyond the end of the file. An error says that some block could not be read; reading the file shows the cause. ranges
// must not change before Fetch returns.
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
	alone := lead && !r.park && len(r.free) == len(r.inFlight)
	if alone && r.parking > 0 {
		alone = false
		r.parking--
	}
	r.signal(!alone)
	r.mu.Unlock()
	for done := false; !done; {
		if lead {
			r.lead()
		}
		if alone {
			r.pollAlone(q)
		}
		done = <-q.wake
		lead = !done
	}
	err := q.err
	r.release(q)
	r.leave()
	if err == nil {
		return nil
	}
	errno := unix.Errno(0)
	if errors.As(err, &errno) && errno != unix.EIO || errors.Is(err, os.ErrDeadlineExceeded) {
		return r.fetchByCalls(fd, ranges) // all of it: reading blocks that are cached costs little
	}
	return err
}

// pollAlone makes a caller that reads alone poll for the completion for a while instead of parking: on a fast device
// waking threads takes longer than reading. The ring does not signal completions meanwhile (see signal), as each would
// wake a thread for nothing.
func (r *Reader) pollAlone(q *request) {
	start, late := time.Now(), false
	once, often := r.yields(start)
	if once {
		runtime.Gosched()
	}
	for len(q.wake) == 0 && !late {
		if r.ring.Completed() {
			r.reap()
		}
		if often {
			runtime.Gosched()
		}
		late = time.Since(start) > pollFor
	}
	r.mu.Lock()
	r.signal(true)
	if late {
		r.parking = parkNext
	}
	r.mu.Unlock()
	if late {
		// The kernel promises no order between a completion and its look at the flag, so a completion at the moment of
		// unmuting may have no signal.
		time.AfterFunc(time.Millisecond, func() { r.reap() })
	}
}

// yields says how a caller that polls from now on yields to other goroutines: once, if the last time is yieldEvery ago,
// or all the time. If there are more processors than goroutines, the runtime wakes a thread for each yield, which may
// go on with the caller. The kernel must then interrupt or wake the thread that has submitted the read. With one
// processor yielding costs next to nothing, and nobody else could run other goroutines.
func (r *Reader) yields(now time.Time) (once, often bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if once = now.Sub(r.yielded) >= yieldEvery; once {
		r.yielded = now
	}
	return once, runtime.GOMAXPROCS(0) == 1
}

// signal says whether completions wake the reaper. A caller that launches reads beside a caller that polls calls
// signal(true) before. mu is held.
func (r *Reader) signal(on bool) {
	if r.ring.CanMute() && r.muted == on {
		r.muted = !on
		r.ring.Mute(!on)
	}
}

// isLong reports whether a request waits behind short ones: it has a long range, or very many ranges.
func isLong(ranges []Range) bool {
	const limit = 16 << 20
	sum := 0
	for _, x := range ranges {
		if sum += x.Len; x.Len > pieceBytes || sum > limit {
			return true
		}
	}
	return false
}

func (r *Reader) release(q *request) {
	*q = request{wake: q.wake}
	r.pool.Put(q)
}

// sameBlocks returns the shortest range that touches the same blocks as [off, off+n), n > 0: from the last byte of the
// first block to the first byte of the last. The kernel reads whole blocks into the page cache, and copies only the
// requested bytes.
func sameBlocks(off int64, n int) (int64, int) {
	first, last := off&^(blockBytes-1), (off+int64(n)-1)&^(blockBytes-1)
	if first == last {
		return off, 1
	}
	return first + blockBytes - 1, int(last-first) - (blockBytes - 2)
}

// fetchByCalls reads the ranges by system calls of the calling goroutine.
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

// callPatience is the time for which a system call that is interrupted, or asked to come again, is repeated without
// progress.
const callPatience = 5 * time.Second

// readByCalls reads one piece. The loop ends because each turn makes progress, is the last, or takes from callPatience.
func (r *Reader) readByCalls(fd int, off int64, n int) error {
	r.mu.Lock()
	closed := r.closed
	r.count.Calls++
	r.mu.Unlock()
	if closed {
		return errReaderClosed
	}
	var again time.Time // when the first call without progress failed; zero: the last one made progress
	for off, n = sameBlocks(off, n); n > 0; {
		// Not unix.Pread, which would report a write to the scratch memory to the race detector. Nobody reads that
		// memory.
		scratch := uintptr(unsafe.Pointer(unsafe.SliceData(r.scratch)))
		got, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), scratch, uintptr(n), uintptr(off), 0, 0)
		switch {
		case (errno == unix.EINTR || errno == unix.EAGAIN) && again.IsZero():
			again = time.Now()
		case (errno == unix.EINTR || errno == unix.EAGAIN) && time.Since(again) < callPatience:
			time.Sleep(retryPause)
		case errno != 0:
			return fmt.Errorf("read %d bytes at %d: %w", n, off, errno)
		case got == 0:
			return nil
		default:
			off, n, again = off+int64(got), n-int(got), time.Time{}
		}
	}
	return nil
}
