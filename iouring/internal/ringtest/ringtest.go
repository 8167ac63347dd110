//go:build linux

// Package ringtest plays the kernel for tests of rings: it sees the memory that a ring shares with the kernel, and
// nothing else of the ring.
package ringtest

import (
	"sync/atomic"
	"unsafe"

	"pagecache/iouring/internal/ring"
)

// Side is the kernel's side of one ring. Take and Complete must not be called at the same time.
type Side struct {
	p            ring.Params
	sq, cq, sqes []byte
}

// Watch returns a kernel that works like k, and the kernel's side of the ring that will be set up with it.
func Watch(k ring.Kernel) (ring.Kernel, *Side) {
	s := &Side{}
	setup, mmap := k.Setup, k.Mmap
	k.Setup = func(entries uint, p *ring.Params) (int, error) {
		fd, err := setup(entries, p)
		s.p = *p
		return fd, err
	}
	k.Mmap = func(fd int, off int64, n int) ([]byte, error) {
		m, err := mmap(fd, off, n)
		switch off {
		case ring.OffSubmissions:
			s.sq = m
			if s.cq == nil { // one mapping for both, unless another follows
				s.cq = m
			}
		case ring.OffCompletions:
			s.cq = m
		case ring.OffEntries:
			s.sqes = m
		}
		return m, err
	}
	return k, s
}

// Entry is a submitted request. The layout is the kernel's.
type Entry struct {
	Op, _  byte
	_      uint16
	FD     int32
	Off    int64
	Addr   uint64
	Len, _ uint32
	ID     uint64
	_      [24]byte
}

type completion struct {
	id         uint64
	res, flags int32
}

func word(m []byte, off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[off])) }

// Take takes all submitted entries and calls f for each.
func (s *Side) Take(f func(e *Entry)) {
	head, tail := word(s.sq, s.p.SQOffset.Head), word(s.sq, s.p.SQOffset.Tail)
	mask := word(s.sq, s.p.SQOffset.RingMask).Load()
	for at, end := head.Load(), tail.Load(); at != end; at++ {
		i := word(s.sq, s.p.SQOffset.Array+at&mask*4).Load()
		f((*Entry)(unsafe.Pointer(&s.sqes[uintptr(i)*unsafe.Sizeof(Entry{})])))
		head.Store(at + 1)
	}
}

// Complete puts a completion in the queue.
func (s *Side) Complete(id uint64, res int32) {
	tail, mask := word(s.cq, s.p.CQOffset.Tail), word(s.cq, s.p.CQOffset.RingMask).Load()
	at := tail.Load()
	off := uintptr(s.p.CQOffset.Cqes) + uintptr(at&mask)*unsafe.Sizeof(completion{})
	*(*completion)(unsafe.Pointer(&s.cq[off])) = completion{id: id, res: res}
	tail.Store(at + 1)
}
