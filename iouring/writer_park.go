//go:build linux

package iouring

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
)

// A parker lets a goroutine wait for the completions of a ring in Go's poller. A goroutine that waits in
// io_uring_enter keeps its processor meanwhile, for up to 20 ms, although others could run: the runtime looks only now
// and then for long system calls.
//
// The ring signals completions to an eventfd, but only while a goroutine is parked: a signal that nobody waits for
// would wake a thread for nothing.
type parker struct {
	ring *ring.Ring
	poll *os.File // the eventfd; nobody reads it, since for the poller each signal is an event of its own
	raw  syscall.RawConn
	// limit is the longest time for the next park. It doubles while nothing completes.
	limit time.Duration
	// unparked is set by unpark, and cleared by the park that it ends. Publishes nothing. It is set before the deadline
	// of the poller is moved, and park looks at it after it has set that deadline, so one of the two ends the wait.
	unparked atomic.Bool
}

// The kernel promises no order between a completion and its look at the flag that lets it signal. So a completion at
// the moment at which a goroutine parks may have no signal: it is found leastPark later, or mostPark if nothing has
// completed for long.
const leastPark, mostPark = time.Millisecond, 64 * time.Millisecond

// newParker returns nil if the kernel or the runtime does not support it.
func newParker(r *ring.Ring) *parker {
	if !r.CanMute() {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil
	}
	p := &parker{ring: r, poll: os.NewFile(uintptr(fd), "io_uring completions"), limit: leastPark}
	err = p.poll.SetReadDeadline(time.Time{}) // ErrNoDeadline: the poller does not support it
	if err == nil {
		p.raw, err = p.poll.SyscallConn()
	}
	if err == nil {
		r.Mute(true) // before the kernel knows the eventfd
		err = r.RegisterEventfd(fd)
	}
	if err != nil {
		_ = p.poll.Close()
		return nil
	}
	return p
}

// park waits until a completion can be popped, for unpark, or for the limit. It returns false if it cannot wait.
func (p *parker) park() bool {
	if p.ring.Completed() {
		return true
	}
	if p.poll.SetReadDeadline(time.Now().Add(p.limit)) != nil {
		return false
	}
	if p.unparked.Swap(false) {
		return true
	}
	popped := p.ring.Popped()
	p.ring.Mute(false)
	err := p.raw.Read(func(uintptr) bool { return p.ring.Completed() })
	p.ring.Mute(true)
	switch {
	case err == nil:
		p.limit = leastPark
	case os.IsTimeout(err):
		switch unparked := p.unparked.Swap(false); {
		case p.ring.Popped() != popped: // another goroutine has found completions
			p.limit = leastPark
		case !unparked:
			p.limit = min(2*p.limit, mostPark)
		}
	default:
		return false
	}
	return true
}

// unpark makes park return: the present call, or the next one.
func (p *parker) unpark() {
	p.unparked.Store(true)
	_ = p.poll.SetReadDeadline(longAgo) // if it fails, the limit ends the wait
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

func (p *parker) close() error {
	if p == nil {
		return nil
	}
	return p.poll.Close()
}
