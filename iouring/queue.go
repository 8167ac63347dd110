//go:build linux

package iouring

import (
	"golang.org/x/sys/unix"
)

// queue carries writes to the kernel: a ring, or the system calls that stand in for one. The writer is its only user.
type queue interface {
	// push queues a durable write under an id that comes back from pop. There is room for as many as the writer's depth.
	push(id uint64, off int64, buf []byte)
	// pending says that something was pushed which the kernel has not taken yet.
	pending() bool
	// enter hands the kernel what was pushed and waits until at least need completions can be popped. It may return early,
	// without an error, if there are completions; its errors mean that the queue is unusable.
	enter(need int) error
	// pop returns a completion: the bytes written, or a negative errno.
	pop() (id uint64, res int32, ok bool)
	close() error
}

// verdict says what becomes of a completed write.
type verdict int

const (
	verdictDone  verdict = iota // all of it is durable
	verdictMore                 // a part is; the rest must be written
	verdictAgain                // nothing was written, and the kernel asks to try again
	verdictSpace                // no room: reported, and no fault of the device
	verdictFail                 // anything else: reported, and the log stops
)

func (v verdict) String() string {
	return [...]string{"done", "more", "again", "space", "fail"}[v]
}

// judge is the decision table for completions: res is what the kernel said of a write of want bytes, want > 0.
func judge(res int32, want int) verdict {
	switch {
	case res > 0 && int(res) == want:
		return verdictDone
	case res > 0 && int(res) < want:
		return verdictMore
	case res >= 0:
		return verdictFail // no progress at all, or more than was asked for
	}
	switch unix.Errno(-res) {
	case unix.EINTR, unix.EAGAIN, unix.ECANCELED:
		// ECANCELED: the kernel wanted a worker thread for the write, and signals that came to the process kept it from making one.
		return verdictAgain
	case unix.ENOSPC, unix.EFBIG, unix.EDQUOT:
		return verdictSpace
	}
	return verdictFail
}
