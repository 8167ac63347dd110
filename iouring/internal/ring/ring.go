//go:build linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// Ring is one io_uring: the queues that it shares with the kernel. One goroutine at a time uses it, on any thread. (A
// Reader's goroutines share it: one enters while others push and pop under the Reader's mutex. Beside a Writer's, a
// parked one calls Mute, Completed and Popped.) It is therefore set up
// without IORING_SETUP_SINGLE_ISSUER and DEFER_TASKRUN, which tie a ring to one thread.
//
// The kernel writes the shared words sqHead, sqFlags and cqTail; the Ring writes sqTail and cqHead. All are counters
// that only grow and wrap; the masks turn them into indexes. Storing sqTail publishes the entries below it to the
// kernel. Loading cqTail makes visible the completions below it and the kernel's work for them. A stale load of one of
// the kernel's words shows less room or fewer completions than there are. Go's atomics are sequentially consistent,
// which is more than the acquire and release that io_uring asks for.
//
// A completion is never lost. At most Depth requests are in flight or not popped (each user hands out that many ids),
// and Depth ≤ submission entries ≤ completion entries, so the completion queue cannot overflow, even on kernels without
// IORING_FEAT_NODROP. If it overflows nevertheless, Pop fetches the completions that the kernel kept back.
type Ring struct {
	k                       Kernel
	fd                      int
	depth                   int
	sqHead, sqTail, sqFlags *atomic.Uint32
	cqHead, cqTail          *atomic.Uint32
	cqFlags                 *atomic.Uint32 // written by the Ring: eventfdOff; nil if the kernel does not read it
	sqMask, cqMask          uint32
	array                   []uint32
	sqes                    []sys.SubmissionQueueEntry64
	cqes                    []sys.CompletionQueueEvent16
	maps                    [][]byte
	target                  int           // the file, or its index if fixedFile
	fixedFile               bool          // the file is registered
	fixed                   fixed         // buffers that are, or will be, registered
	iov                     unix.Iovec    // of the buffer that is being registered
	patience                time.Duration // how long Enter retries without any progress
}

// stall is the time for which io_uring_enter may refuse (EAGAIN: no memory for a request; EBUSY) without any progress
// before the ring counts as unusable.
const stall = 30 * time.Second

// New sets up a ring for depth requests. target is the file that Push writes to; −1 for a ring that only reads. The
// error of a refused setup names the usual cause.
func New(k Kernel, target, depth int) (*Ring, error) {
	var p Params
	fd, err := k.Setup(uint(depth), &p) // close-on-exec from the start
	if err != nil {
		return nil, explain(err)
	}
	r := &Ring{k: k, fd: fd, depth: depth, target: target, patience: stall}
	if int64(p.SQEntries) < int64(depth) {
		err = fmt.Errorf("%w: %d entries for %d requests", errLayout, p.SQEntries, depth)
	} else {
		err = r.mapQueues(&p)
	}
	if err != nil {
		return nil, errors.Join(explain(err), r.Close())
	}
	return r, nil
}

// NewAtMost is New with depth halved, down to 2, for as long as memory is short.
func NewAtMost(k Kernel, target, depth int) (*Ring, error) {
	r, err := New(k, target, depth)
	for errors.Is(err, unix.ENOMEM) && depth > 2 {
		depth /= 2
		r, err = New(k, target, depth)
	}
	return r, err
}

// Depth returns the number of requests that may be in flight or not popped.
func (r *Ring) Depth() int { return r.depth }

// Pending reports whether an entry was queued that the kernel has not taken yet.
func (r *Ring) Pending() bool { return r.sqTail.Load() != r.sqHead.Load() }

// Tail returns the position behind the newest queued entry, for Taken.
func (r *Ring) Tail() uint32 { return r.sqTail.Load() }

// Taken reports whether the kernel has taken every entry before a position that Tail returned.
func (r *Ring) Taken(tail uint32) bool { return int32(r.sqHead.Load()-tail) >= 0 }

// Completed reports whether a completion can be popped.
func (r *Ring) Completed() bool { return r.cqTail.Load() != r.cqHead.Load() }

// Popped counts the completions that were popped. It wraps around. Safe for concurrent use.
func (r *Ring) Popped() uint32 { return r.cqHead.Load() }

// Enter submits the queued entries and waits until at least need completions can be popped, both in one system call. It
// reads the number of entries to submit from the queue itself, so that an interruption neither loses nor doubles any.
// It returns early, without an error, if there are completions and the kernel refuses because they are in its way.
// After an error the ring is unusable.
//
// The loop ends: each turn submits, waits in the kernel, or backs off, and it backs off for no longer than patience.
func (r *Ring) Enter(need int) error {
	var since time.Time
	for wait := time.Microsecond; ; {
		if have := int(r.cqTail.Load() - r.cqHead.Load()); have >= need {
			need = 0
		}
		head := r.sqHead.Load()
		submit := r.sqTail.Load() - head
		if submit == 0 && need <= 0 {
			return nil
		}
		var flags uint32
		if need > 0 {
			flags = sys.IORING_ENTER_FLAGS_GETEVENTS
		}
		errno := r.k.Enter(r.fd, submit, uint32(max(need, 0)), flags)
		switch errno {
		case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
		if waited := submit == 0 && (errno == 0 || errno == unix.EINTR); waited || r.sqHead.Load() != head {
			since = time.Time{}
			continue
		}
		if r.Completed() {
			return nil
		}
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > r.patience {
			return fmt.Errorf("io_uring_enter: no progress for %v: %w", r.patience, unix.EAGAIN)
		}
		time.Sleep(wait)
		wait = min(2*wait, time.Millisecond)
	}
}

// Await waits until there is a completion, for at most limit. It submits nothing, and works after Enter has failed.
func (r *Ring) Await(limit time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); !r.Completed(); {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("no answer in %v: %w", limit, os.ErrDeadlineExceeded)
		}
		// In small steps: a completion that the kernel's poll misses is then seen in the queue.
		_, err := unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1)
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case fds[0].Revents&unix.POLLNVAL != 0: // the descriptor is no ring's any more
			return unix.EBADF
		}
	}
	return nil
}

// Pop takes a completion: the id of the request and its result, a number of bytes or a negative errno.
func (r *Ring) Pop() (id uint64, res int32, ok bool) {
	head := r.cqHead.Load()
	if head == r.cqTail.Load() {
		if r.sqFlags.Load()&sys.IORING_SQ_CQ_OVERFLOW == 0 {
			return 0, 0, false
		}
		// The kernel keeps completions that found the queue full, and moves them to the queue in this call. If it
		// refuses, they stay with the kernel, and the next Pop tries again.
		r.k.Enter(r.fd, 0, 0, sys.IORING_ENTER_FLAGS_GETEVENTS)
		if head == r.cqTail.Load() {
			return 0, 0, false
		}
	}
	e := &r.cqes[head&r.cqMask]
	id, res = e.UserData(), e.Result()
	r.cqHead.Store(head + 1)
	return id, res, true
}

// eventfdOff in cqFlags keeps the kernel from signalling completions.
const eventfdOff = 1

// CanMute reports whether Mute has an effect on this kernel.
func (r *Ring) CanMute() bool { return r.cqFlags != nil }

// Mute says whether the kernel refrains from signalling completions to the eventfd.
func (r *Ring) Mute(muted bool) {
	flags := uint32(0)
	if muted {
		flags = eventfdOff
	}
	r.cqFlags.Store(flags)
}

// Close unmaps the queues and closes the ring. Requests in flight go on in the kernel.
func (r *Ring) Close() error {
	var err error
	for _, m := range r.maps {
		err = errors.Join(err, unix.Munmap(m))
	}
	r.maps = nil
	return errors.Join(err, unix.Close(r.fd))
}
