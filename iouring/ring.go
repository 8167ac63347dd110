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

// ring is one io_uring: the queues that it shares with the kernel. One goroutine at a time uses it (of a Reader's one enters while others push and
// pop, under its mutex), on any thread, which is why it is set up without IORING_SETUP_SINGLE_ISSUER and DEFER_TASKRUN: they tie a ring to one thread.
//
// Of the shared words the kernel writes sqHead, sqFlags and cqTail, we write sqTail and cqHead. All are counters that only
// grow and wrap; the masks turn them into places. Storing sqTail publishes the entries below it to the kernel; loading cqTail
// makes the completions below it, and what the kernel did for them, visible; a stale load of either of the kernel's shows less room or
// fewer completions than there are. Go's atomics are sequentially consistent, which is more than the acquire and
// release that io_uring asks for.
//
// A completion is never lost. At most depth requests are in flight or not popped (the writer's ids, the reader's), depth ≤ submission entries
// ≤ completion entries, so the queue cannot overflow, on kernels without IORING_FEAT_NODROP either. If it does
// nevertheless, pop fetches what the kernel kept back.
type ring struct {
	k                       kernel
	fd                      int
	sqHead, sqTail, sqFlags *atomic.Uint32
	cqHead, cqTail          *atomic.Uint32
	cqFlags                 *atomic.Uint32 // ours to write: eventfdOff; nil where the kernel does not look
	sqMask, cqMask          uint32
	array                   []uint32
	sqes                    []sys.SubmissionQueueEntry64
	cqes                    []sys.CompletionQueueEvent16
	maps                    [][]byte
	target                  int           // the file, or its index if fixedFile
	fixedFile               bool          // the file is registered
	fixed                   [][]byte      // registered buffers
	patience                time.Duration // how long enter tries without any progress
}

// stall is how long io_uring_enter may refuse (EAGAIN: no memory for a request; EBUSY) without any progress, until the ring
// counts as unusable.
const stall = 30 * time.Second

var errRingLayout = errors.New("the kernel's queue layout makes no sense")

// newRing sets up a ring for depth requests; fd is the file that push writes to.
func newRing(k kernel, fd, depth int) (*ring, error) {
	var p sys.IOURingParams
	rfd, err := k.setup(uint(depth), &p) // close-on-exec from the start
	if err != nil {
		return nil, err
	}
	r := &ring{k: k, fd: rfd, target: fd, patience: stall}
	if int64(p.SQEntries) < int64(depth) {
		err = fmt.Errorf("%w: %d entries for %d writes", errRingLayout, p.SQEntries, depth)
	} else {
		err = r.mapQueues(&p)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// mapQueues maps the three areas and checks that every queue lies inside its own.
func (r *ring) mapQueues(p *sys.IOURingParams) error {
	const word, limit = 4, 1 << 24
	sqeSize, cqeSize := uint64(unsafe.Sizeof(sys.SubmissionQueueEntry64{})), uint64(unsafe.Sizeof(sys.CompletionQueueEvent16{}))
	sqSize := uint64(p.SQOffset.Array) + uint64(p.SQEntries)*word
	cqSize := uint64(p.CQOffset.Cqes) + uint64(p.CQEntries)*cqeSize
	if p.SQEntries == 0 || p.CQEntries < p.SQEntries || sqSize > limit || cqSize > limit {
		return fmt.Errorf("%w: %d and %d entries", errRingLayout, p.SQEntries, p.CQEntries)
	}
	single := p.Features&sys.IORING_FEAT_SINGLE_MMAP != 0
	if single {
		sqSize = max(sqSize, cqSize)
		cqSize = sqSize
	}
	if err := checkOffsets(p, sqSize, cqSize); err != nil {
		return err
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
	at := func(m []byte, off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[off])) }
	r.sqHead, r.sqTail, r.sqFlags = at(sq, p.SQOffset.Head), at(sq, p.SQOffset.Tail), at(sq, p.SQOffset.Flags)
	r.cqHead, r.cqTail = at(cq, p.CQOffset.Head), at(cq, p.CQOffset.Tail)
	if p.CQOffset.Flags != 0 {
		r.cqFlags = at(cq, p.CQOffset.Flags)
	}
	r.sqMask, r.cqMask = at(sq, p.SQOffset.RingMask).Load(), at(cq, p.CQOffset.RingMask).Load()
	if r.sqMask != p.SQEntries-1 || r.cqMask != p.CQEntries-1 {
		return fmt.Errorf("%w: masks %#x and %#x", errRingLayout, r.sqMask, r.cqMask)
	}
	r.array = unsafe.Slice((*uint32)(unsafe.Pointer(&sq[p.SQOffset.Array])), p.SQEntries)
	r.sqes = unsafe.Slice((*sys.SubmissionQueueEntry64)(unsafe.Pointer(&sqes[0])), p.SQEntries)
	r.cqes = unsafe.Slice((*sys.CompletionQueueEvent16)(unsafe.Pointer(&cq[p.CQOffset.Cqes])), p.CQEntries)
	return nil
}

// checkOffsets makes sure that the words which the kernel names lie in the areas. The arrays do: the sizes come from them.
func checkOffsets(p *sys.IOURingParams, sqSize, cqSize uint64) error {
	const word = 4
	for _, o := range []uint32{p.SQOffset.Head, p.SQOffset.Tail, p.SQOffset.RingMask, p.SQOffset.Flags, p.SQOffset.Array} {
		if uint64(o)+word > sqSize || o%word != 0 {
			return fmt.Errorf("%w: submission offset %d of %d", errRingLayout, o, sqSize)
		}
	}
	for _, o := range []uint32{p.CQOffset.Head, p.CQOffset.Tail, p.CQOffset.RingMask, p.CQOffset.Cqes, p.CQOffset.Flags} {
		if uint64(o)+word > cqSize || o%word != 0 {
			return fmt.Errorf("%w: completion offset %d of %d", errRingLayout, o, cqSize)
		}
	}
	return nil
}

func (r *ring) mmap(size, off uint64) ([]byte, error) {
	m, err := r.k.mmap(r.fd, int64(off), int(size))
	if err != nil {
		return nil, fmt.Errorf("map io_uring queue: %w", err)
	}
	r.maps = append(r.maps, m)
	return m, nil
}

// registerFile spares the kernel the look-up of the descriptor for each write.
func (r *ring) registerFile() error {
	fds := [1]int32{int32(r.target)}
	if err := r.k.register(r.fd, sys.IORING_REGISTER_FILES, unsafe.Pointer(&fds), 1); err != nil {
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
	if err := r.k.register(r.fd, sys.IORING_REGISTER_BUFFERS, unsafe.Pointer(&iov[0]), uint32(len(iov))); err != nil {
		return err
	}
	r.fixed = bufs
	return nil
}

// eventfdOff in cqFlags keeps the kernel from signalling completions.
const eventfdOff = 1

// registerEventfd has the kernel signal completions to an eventfd.
func (r *ring) registerEventfd(fd int) error {
	fds := [1]int32{int32(fd)}
	return r.k.register(r.fd, sys.IORING_REGISTER_EVENTFD, unsafe.Pointer(&fds), 1)
}

// unregisterBuffers undoes registerBuffers. If the kernel refuses, the pages stay pinned until close; nothing uses them.
func (r *ring) unregisterBuffers() {
	_ = r.k.register(r.fd, sys.IORING_UNREGISTER_BUFFERS, nil, 0)
	r.fixed = nil
}

// push names the buffer to the kernel by its address alone. That is safe because the memory cannot move or go away: it is mapped, or, under
// the race detector, on the heap, whose objects do not move, and the writer's flight table refers to it until it lands.
func (r *ring) push(id uint64, off int64, buf []byte) {
	op, index := sys.IORING_OP_WRITE, r.fixedIndex(buf)
	if index >= 0 {
		op = sys.IORING_OP_WRITE_FIXED
	}
	e := r.next(id)
	e.PrepOperation(op, int32(r.target), uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))), uint32(len(buf)), uint64(off))
	if index >= 0 {
		e.SetBufIndex(uint16(index))
	}
	if r.fixedFile {
		e.SetFdIndex(int32(r.target))
	}
	e.SetOpFlags(unix.RWF_DSYNC)
	r.publish()
}

// read queues a read of a file. buf is as safe as that of push, and for the same reasons; the reader keeps it.
func (r *ring) read(id uint64, fd int, off int64, buf []byte) {
	r.next(id).PrepOperation(sys.IORING_OP_READ, int32(fd), uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))), uint32(len(buf)), uint64(off))
	r.publish()
}

// nop queues an operation that does nothing.
func (r *ring) nop(id uint64) {
	r.next(id).PrepOperation(sys.IORING_OP_NOP, -1, 0, 0, 0)
	r.publish()
}

// next returns the entry at the tail, empty but for the id. There is room: see queue.push.
func (r *ring) next(id uint64) *sys.SubmissionQueueEntry64 {
	i := r.sqTail.Load() & r.sqMask
	e := &r.sqes[i]
	e.Reset()
	e.SetUserData(id)
	r.array[i] = i
	return e
}

// publish shows the entry at the tail to the kernel.
func (r *ring) publish() { r.sqTail.Store(r.sqTail.Load() + 1) }

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

func (r *ring) pending() bool { return r.sqTail.Load() != r.sqHead.Load() }

// enter submits and waits in one system call. How much is left to submit is read from the queue itself, so that nothing
// is lost or doubled by an interruption. The loop ends: each turn submits, waits in the kernel, or backs off, and the
// last no longer than patience. Where the kernel refuses because completions are in its way, enter returns for them to be popped.
func (r *ring) enter(need int) error {
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
		errno := r.k.enter(r.fd, submit, uint32(max(need, 0)), flags)
		switch errno {
		case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
		if waited := submit == 0 && (errno == 0 || errno == unix.EINTR); waited || r.sqHead.Load() != head {
			since = time.Time{}
			continue
		}
		if r.cqTail.Load() != r.cqHead.Load() {
			return nil
		}
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > r.patience {
			return fmt.Errorf("io_uring_enter: nothing taken for %v: %w", r.patience, unix.EAGAIN)
		}
		time.Sleep(wait)
		wait = min(2*wait, time.Millisecond)
	}
}

// await waits until there is a completion, for at most limit.
func (r *ring) await(limit time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); r.cqTail.Load() == r.cqHead.Load(); {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("no answer in %v: %w", limit, unix.ETIMEDOUT)
		}
		// In small steps: whatever a kernel's poll of a ring may miss is then seen in the queue.
		if _, err := unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1); err != nil && err != unix.EINTR {
			return err
		}
	}
	return nil
}

func (r *ring) pop() (uint64, int32, bool) {
	head := r.cqHead.Load()
	if head == r.cqTail.Load() {
		if r.sqFlags.Load()&sys.IORING_SQ_CQ_OVERFLOW == 0 {
			return 0, 0, false
		}
		// Completions that found the queue full are kept by the kernel; this call brings them in. If it is refused they stay
		// there, and the next call tries again.
		r.k.enter(r.fd, 0, 0, sys.IORING_ENTER_FLAGS_GETEVENTS)
		if head == r.cqTail.Load() {
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
