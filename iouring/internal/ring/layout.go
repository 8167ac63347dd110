//go:build linux

package ring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
)

var errLayout = errors.New("invalid queue layout from the kernel")

// mapQueues maps the three areas and checks that every queue lies inside its own.
func (r *Ring) mapQueues(p *Params) error {
	const word, limit = 4, 1 << 24
	sqeSize := uint64(unsafe.Sizeof(sys.SubmissionQueueEntry64{}))
	cqeSize := uint64(unsafe.Sizeof(sys.CompletionQueueEvent16{}))
	sqSize := uint64(p.SQOffset.Array) + uint64(p.SQEntries)*word
	cqSize := uint64(p.CQOffset.Cqes) + uint64(p.CQEntries)*cqeSize
	if p.SQEntries == 0 || p.CQEntries < p.SQEntries || sqSize > limit || cqSize > limit {
		return fmt.Errorf("%w: %d and %d entries", errLayout, p.SQEntries, p.CQEntries)
	}
	single := p.Features&sys.IORING_FEAT_SINGLE_MMAP != 0
	if single {
		sqSize = max(sqSize, cqSize)
		cqSize = sqSize
	}
	if err := checkOffsets(p, sqSize, cqSize); err != nil {
		return err
	}
	sq, err := r.mmap(sqSize, OffSubmissions)
	if err != nil {
		return err
	}
	cq := sq
	if !single {
		if cq, err = r.mmap(cqSize, OffCompletions); err != nil {
			return err
		}
	}
	sqes, err := r.mmap(uint64(p.SQEntries)*sqeSize, OffEntries)
	if err != nil {
		return err
	}
	at := func(m []byte, off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[off])) }
	r.sqHead, r.sqTail, r.sqFlags = at(sq, p.SQOffset.Head), at(sq, p.SQOffset.Tail), at(sq, p.SQOffset.Flags)
	r.cqHead, r.cqTail = at(cq, p.CQOffset.Head), at(cq, p.CQOffset.Tail)
	if p.CQOffset.Flags != 0 {
		r.cqFlags = at(cq, p.CQOffset.Flags)
	}
	r.sqMask, r.cqMask = at(sq, p.SQOffset.RingMask).Load(), at(cq, p.CQOffset.RingMask).Load()
	if r.sqMask != p.SQEntries-1 || r.cqMask != p.CQEntries-1 {
		return fmt.Errorf("%w: masks %#x and %#x", errLayout, r.sqMask, r.cqMask)
	}
	r.array = unsafe.Slice((*uint32)(unsafe.Pointer(&sq[p.SQOffset.Array])), p.SQEntries)
	r.sqes = unsafe.Slice((*sys.SubmissionQueueEntry64)(unsafe.Pointer(&sqes[0])), p.SQEntries)
	r.cqes = unsafe.Slice((*sys.CompletionQueueEvent16)(unsafe.Pointer(&cq[p.CQOffset.Cqes])), p.CQEntries)
	return nil
}

// checkOffsets checks that the words whose offsets the kernel returned lie in the areas. The arrays do: the sizes of
// the areas come from them.
func checkOffsets(p *Params, sqSize, cqSize uint64) error {
	const word = 4
	sq, cq := &p.SQOffset, &p.CQOffset
	for _, o := range []uint32{sq.Head, sq.Tail, sq.RingMask, sq.Flags, sq.Array} {
		if uint64(o)+word > sqSize || o%word != 0 {
			return fmt.Errorf("%w: submission offset %d of %d", errLayout, o, sqSize)
		}
	}
	for _, o := range []uint32{cq.Head, cq.Tail, cq.RingMask, cq.Cqes, cq.Flags} {
		if uint64(o)+word > cqSize || o%word != 0 {
			return fmt.Errorf("%w: completion offset %d of %d", errLayout, o, cqSize)
		}
	}
	return nil
}

func (r *Ring) mmap(size uint64, off int64) ([]byte, error) {
	m, err := r.k.Mmap(r.fd, off, int(size))
	if err != nil {
		return nil, fmt.Errorf("map io_uring queue: %w", err)
	}
	r.maps = append(r.maps, m)
	return m, nil
}
