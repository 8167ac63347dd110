package bench

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Floor is a Store that no store can beat: arrays in huge pages, without lookups, transactions, versions, checksums or
// disk. Each change is also copied to the end of a log in memory. Nothing keeps goroutines from changing a page at the
// same time, and nothing is durable.
type Floor struct {
	pages  []byte // stride bytes for each page: its length in 8 bytes, and its value
	stride int
	log    []byte        // a ring
	end    atomic.Uint64 // bytes that were appended to log. A goroutine owns what it adds
}

var _ Updater = (*Floor)(nil)

const (
	floorHeader  = 8
	floorLog     = 64 << 20
	floorMessage = 24 // of a message in the log besides its value
)

// NewFloor returns a store for pages whose values have at most size bytes each.
func NewFloor(pages, size int) (*Floor, error) {
	const line = 64
	stride := (floorHeader + size + line - 1) / line * line
	p, err := hugeMemory(pages * stride)
	if err != nil {
		return nil, err
	}
	log, err := hugeMemory(floorLog)
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(p))
	}
	return &Floor{pages: p, stride: stride, log: log}, nil
}

// hugeMemory maps memory outside the Go heap, in huge pages if the kernel has any, and touches all of it.
func hugeMemory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a hint
	clear(b)
	return b, nil
}

// page returns the memory of a page and the length of its value.
func (s *Floor) page(i int) (memory []byte, n int) {
	p := s.pages[i*s.stride:][:s.stride]
	return p[floorHeader:], int(binary.LittleEndian.Uint64(p))
}

func (s *Floor) setLength(i, n int) { binary.LittleEndian.PutUint64(s.pages[i*s.stride:], uint64(n)) }

// append copies a message to the end of the log.
func (s *Floor) append(b []byte) {
	n := uint64(floorMessage + len(b))
	at := (s.end.Add(n) - n) % floorLog
	copy(s.log[min(at+floorMessage, floorLog):], b)
}

// Replace implements Store.
func (s *Floor) Replace(i int, value []byte) error {
	memory, _ := s.page(i)
	s.setLength(i, copy(memory, value))
	s.append(value)
	return nil
}

// Link implements Store. A page that has no room for delta loses what it has beyond the length of its first half.
func (s *Floor) Link(i int, delta []byte) error {
	memory, n := s.page(i)
	if n+len(delta) > len(memory) {
		n = len(memory) / 2
	}
	s.setLength(i, n+copy(memory[n:], delta))
	s.append(delta)
	return nil
}

// Commit implements Store. Nothing becomes durable.
func (s *Floor) Commit(i int, delta []byte) error { return s.Link(i, delta) }

// Get implements Store.
func (s *Floor) Get(i int) (int, error) {
	memory, n := s.page(i)
	return look(memory[:n]), nil
}

// GetLink implements Updater.
func (s *Floor) GetLink(i int, delta []byte) error {
	_, _ = s.Get(i)
	return s.Link(i, delta)
}

// BlindLink implements Updater.
func (s *Floor) BlindLink(i int, delta []byte) error { return s.Link(i, delta) }

// FragmentsLink implements Updater.
func (s *Floor) FragmentsLink(i int, delta []byte) error { return s.GetLink(i, delta) }

// GetReplace implements Updater.
func (s *Floor) GetReplace(i int, value []byte) error {
	_, _ = s.Get(i)
	return s.Replace(i, value)
}

// GetMany implements Updater.
func (s *Floor) GetMany(pages []int) error {
	for _, i := range pages {
		first(s.pages[i*s.stride+floorHeader:])
	}
	return nil
}

// Flush implements Store.
func (s *Floor) Flush() error { return nil }

// Close implements Store. The store must not be used afterwards.
func (s *Floor) Close() error { return errors.Join(unix.Munmap(s.pages), unix.Munmap(s.log)) }
