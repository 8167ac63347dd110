//go:build linux

package iouring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// ring is one io_uring: the queues that it shares with the kernel. One goroutine at a time uses it, on any thread.
//
// Of the shared words the kernel writes sqHead, sqFlags and cqTail, we write sqTail and cqHead. Storing sqTail publishes
// the entries below it to the kernel; loading cqTail makes the completions below it, and what the kernel did for them, visible.
// Go's atomics are sequentially consistent, which is more than the acquire and release that io_uring asks for. The
// race detector does not see the kernel: raceRelease and raceAcquire stand for it.
type ring struct {
	fd                      int
	sqHead, sqTail, sqFlags *atomic.Uint32
	cqHead, cqTail          *atomic.Uint32
	sqMask, cqMask          uint32
	array                   []uint32
	sqes                    []sys.SubmissionQueueEntry64
	cqes                    []sys.CompletionQueueEvent16
	maps                    [][]byte
	target                  int32                                         // the file, or its index if fixedFile
	fixedFile               bool                                          //
	fixed                   [][]byte                                      // registered buffers
	enterCall               func(fd int, submit, min, flags uint32) error // seam
}

var errRingLayout = errors.New("io_uring: the kernel's queue layout makes no sense")

// newRing sets up a ring for depth writes to the file descriptor.
func newRing(fd, depth int) (*ring, error) {
	var p sys.IOURingParams
	rfd, err := sys.IOURingSetup(uint(depth), &p)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(rfd)
	r := &ring{fd: rfd, target: int32(fd), enterCall: enterRing}
	if err := r.mapQueues(&p); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func enterRing(fd int, submit, min, flags uint32) error {
	_, err := sys.IOURingEnter(fd, submit, min, flags, nil)
	return err
}

// mapQueues maps the three areas and checks that every queue lies inside its own.
func (r *ring) mapQueues(p *sys.IOURingParams) error {
	const word = 4
	sqeSize, cqeSize := uint64(unsafe.Sizeof(sys.SubmissionQueueEntry64{})), uint64(unsafe.Sizeof(sys.CompletionQueueEvent16{}))
	sqSize := uint64(p.SQOffset.Array) + uint64(p.SQEntries)*word
	cqSize := uint64(p.CQOffset.Cqes) + uint64(p.CQEntries)*cqeSize
	const limit = 1 << 24
	if p.SQEntries == 0 || p.CQEntries < p.SQEntries || sqSize > limit || cqSize > limit {
		return fmt.Errorf("%w: %d and %d entries", errRingLayout, p.SQEntries, p.CQEntries)
	}
	single := p.Features&sys.IORING_FEAT_SINGLE_MMAP != 0
	if single {
		sqSize = max(sqSize, cqSize)
	}
	sq, err := r.mmap(sqSize, sys.IORING_OFF_SQ_RING)
	if err != nil {
		return err
	}
	cq := sq
	if !single {
		if cq, err = r.mmap(cqSize, sys.IORING_OFF_CQ_RING); err != nil {
			return err
		}
	}
	sqes, err := r.mmap(uint64(p.SQEntries)*sqeSize, sys.IORING_OFF_SQES)
	if err != nil {
		return err
	}
	for _, o := range []uint32{p.SQOffset.Head, p.SQOffset.Tail, p.SQOffset.RingMask, p.SQOffset.Flags, p.SQOffset.Array} {
		if uint64(o)+word > sqSize || o%word != 0 {
			return fmt.Errorf("%w: submission offset %d of %d", errRingLayout, o, sqSize)
		}
	}
	for _, o := range []uint32{p.CQOffset.Head, p.CQOffset.Tail, p.CQOffset.RingMask, p.CQOffset.Cqes} {
		if uint64(o)+word > cqSize || o%word != 0 {
			return fmt.Errorf("%w: completion offset %d of %d", errRingLayout, o, cqSize)
		}
	}
	at := func(m []byte, off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[off])) }
	r.sqHead, r.sqTail, r.sqFlags = at(sq, p.SQOffset.Head), at(sq, p.SQOffset.Tail), at(sq, p.SQOffset.Flags)
	r.cqHead, r.cqTail = at(cq, p.CQOffset.Head), at(cq, p.CQOffset.Tail)
	r.sqMask, r.cqMask = at(sq, p.SQOffset.RingMask).Load(), at(cq, p.CQOffset.RingMask).Load()
	if r.sqMask != p.SQEntries-1 || r.cqMask != p.CQEntries-1 {
		return fmt.Errorf("%w: masks %#x and %#x", errRingLayout, r.sqMask, r.cqMask)
	}
	r.array = unsafe.Slice((*uint32)(unsafe.Pointer(&sq[p.SQOffset.Array])), p.SQEntries)
	r.sqes = unsafe.Slice((*sys.SubmissionQueueEntry64)(unsafe.Pointer(&sqes[0])), p.SQEntries)
	r.cqes = unsafe.Slice((*sys.CompletionQueueEvent16)(unsafe.Pointer(&cq[p.CQOffset.Cqes])), p.CQEntries)
	return nil
}

func (r *ring) mmap(size, off uint64) ([]byte, error) {
	m, err := unix.Mmap(r.fd, int64(off), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map io_uring queue: %w", err)
	}
	r.maps = append(r.maps, m)
	return m, nil
}

// registerFile spares the kernel the look-up of the descriptor for each write.
func (r *ring) registerFile(fd int) error {
	fds := [1]int32{int32(fd)}
	if err := sys.IOURingRegister(r.fd, sys.IORING_REGISTER_FILES, unsafe.Pointer(&fds), 1); err != nil {
		return err
	}
	r.target, r.fixedFile = 0, true
	return nil
}

// registerBuffers spares the kernel the pinning of pages for each write from these buffers.
func (r *ring) registerBuffers(bufs [][]byte) error {
	iov := make([]unix.Iovec, len(bufs))
	for i, b := range bufs {
		iov[i].Base = unsafe.SliceData(b)
		iov[i].SetLen(len(b))
	}
	if err := sys.IOURingRegister(r.fd, sys.IORING_REGISTER_BUFFERS, unsafe.Pointer(&iov[0]), uint32(len(iov))); err != nil {
		return err
	}
	r.fixed = bufs
	return nil
}

func (r *ring) push(id uint64, off int64, buf []byte) {
	tail := r.sqTail.Load()
	i := tail & r.sqMask
	e := &r.sqes[i]
	e.Reset()
	op, index := sys.IORING_OP_WRITE, r.fixedIndex(buf)
	if index >= 0 {
		op = sys.IORING_OP_WRITE_FIXED
	}
	e.PrepOperation(op, r.target, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))), uint32(len(buf)), uint64(off))
	if index >= 0 {
		e.SetBufIndex(uint16(index))
	}
	if r.fixedFile {
		e.SetFdIndex(r.target)
	}
	e.SetOpFlags(unix.RWF_DSYNC)
	e.SetUserData(id)
	r.array[i] = i
	r.sqTail.Store(tail + 1)
}

// nop queues an operation that does nothing.
func (r *ring) nop(id uint64) {
	tail := r.sqTail.Load()
	i := tail & r.sqMask
	r.sqes[i].Reset()
	r.sqes[i].PrepOperation(sys.IORING_OP_NOP, -1, 0, 0, 0)
	r.sqes[i].SetUserData(id)
	r.array[i] = i
	r.sqTail.Store(tail + 1)
}

// fixedIndex returns which registered buffer buf lies in, −1 if none.
func (r *ring) fixedIndex(buf []byte) int {
	p := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	for i, b := range r.fixed {
		if base := uintptr(unsafe.Pointer(unsafe.SliceData(b))); p >= base && p+uintptr(len(buf)) <= base+uintptr(len(b)) {
			return i
		}
	}
	return -1
}

// enter submits and waits in one system call. How much is left to submit is read from the queue itself, so that nothing
// is lost or doubled by an interruption. The loop ends because EINTR, EAGAIN and EBUSY go away: the last two once
// completions are taken, which is why enter then returns to the caller if there are any.
func (r *ring) enter(need int) error {
	for wait := time.Microsecond; ; {
		if have := int(r.cqTail.Load() - r.cqHead.Load()); have >= need {
			need = 0
		}
		submit := r.sqTail.Load() - r.sqHead.Load()
		if submit == 0 && need <= 0 {
			return nil
		}
		var flags uint32
		if need > 0 {
			flags = sys.IORING_ENTER_FLAGS_GETEVENTS
		}
		err := r.enterCall(r.fd, submit, uint32(max(need, 0)), flags)
		switch {
		case err == nil:
			if r.sqTail.Load() == r.sqHead.Load() {
				return nil
			}
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
			if r.cqTail.Load() != r.cqHead.Load() {
				return nil
			}
			time.Sleep(wait)
			wait = min(2*wait, time.Millisecond)
		default:
			return fmt.Errorf("io_uring_enter: %w", err)
		}
	}
}

func (r *ring) pop() (uint64, int32, bool) {
	head := r.cqHead.Load()
	if head == r.cqTail.Load() {
		if r.sqFlags.Load()&sys.IORING_SQ_CQ_OVERFLOW == 0 {
			return 0, 0, false
		}
		// Completions that found the queue full are kept by the kernel; this call brings them in.
		if err := r.enterCall(r.fd, 0, 0, sys.IORING_ENTER_FLAGS_GETEVENTS); err != nil || head == r.cqTail.Load() {
			return 0, 0, false
		}
	}
	e := &r.cqes[head&r.cqMask]
	id, res := e.UserData(), e.Result()
	r.cqHead.Store(head + 1)
	return id, res, true
}

func (r *ring) close() error {
	var err error
	for _, m := range r.maps {
		err = errors.Join(err, unix.Munmap(m))
	}
	r.maps = nil
	return errors.Join(err, unix.Close(r.fd))
}
