//go:build linux

package iouring

import "time"

// queue carries durable writes to the kernel: a ring.Ring, or the system calls that stand in for one. The Writer is its
// only user.
type queue interface {
	// Push queues a durable write. id comes back from Pop. There is room for as many writes as the Writer's depth.
	Push(id uint64, off int64, buf []byte)
	// Pending reports whether a write was pushed that the kernel has not taken yet.
	Pending() bool
	// Enter hands the pushed writes to the kernel and waits until at least need completions can be popped. If there are
	// completions it may return early, without an error. After an error the queue is unusable.
	Enter(need int) error
	// Pop returns a completion: the bytes written, or a negative errno.
	Pop() (id uint64, res int32, ok bool)
	// Await waits until a completion can be popped, for limit at most. It hands nothing to the kernel, so it works
	// after Enter has failed.
	Await(limit time.Duration) error
	Close() error
}
