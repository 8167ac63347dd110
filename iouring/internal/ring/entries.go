//go:build linux

package ring

import (
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// Push queues a durable write of buf to the ring's file: the data and its durability (RWF_DSYNC) are one request. id
// comes back from Pop.
//
// Push gives the kernel the bare address of the buffer. That is safe because the memory neither moves nor goes away: it
// is mapped, or, under the race detector, on the heap, whose objects do not move, and the caller keeps a reference to
// it until the write has completed.
func (r *Ring) Push(id uint64, off int64, buf []byte) {
	op, index := sys.IORING_OP_WRITE, r.fixedIndex(buf)
	if index >= 0 {
		op = sys.IORING_OP_WRITE_FIXED
	}
	e := r.next(id)
	e.PrepOperation(op, int32(r.target), address(buf), uint32(len(buf)), uint64(off))
	if index >= 0 {
		e.SetBufIndex(uint16(index))
	}
	if r.fixedFile {
		e.SetFdIndex(int32(r.target))
	}
	e.SetOpFlags(unix.RWF_DSYNC)
	r.publish()
}

// Read queues a read of file fd into buf. The caller keeps a reference to buf until the read has completed.
func (r *Ring) Read(id uint64, fd int, off int64, buf []byte) {
	r.next(id).PrepOperation(sys.IORING_OP_READ, int32(fd), address(buf), uint32(len(buf)), uint64(off))
	r.publish()
}

// nop queues an operation that does nothing.
func (r *Ring) nop(id uint64) {
	r.next(id).PrepOperation(sys.IORING_OP_NOP, -1, 0, 0, 0)
	r.publish()
}

// next returns the entry at the tail, empty but for the id. There is room, since at most depth requests are in flight.
func (r *Ring) next(id uint64) *sys.SubmissionQueueEntry64 {
	i := r.sqTail.Load() & r.sqMask
	e := &r.sqes[i]
	e.Reset()
	e.SetUserData(id)
	r.array[i] = i
	return e
}

// publish shows the entry at the tail to the kernel.
func (r *Ring) publish() { r.sqTail.Store(r.sqTail.Load() + 1) }

func address(buf []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))) }

// RegisterFile registers the ring's file, which saves the kernel the look-up of the descriptor for each write.
func (r *Ring) RegisterFile() error {
	fds := [1]int32{int32(r.target)}
	if err := r.k.Register(r.fd, sys.IORING_REGISTER_FILES, unsafe.Pointer(&fds), 1); err != nil {
		return err
	}
	r.target, r.fixedFile = 0, true
	return nil
}

// RegisterEventfd has the kernel signal completions to an eventfd.
func (r *Ring) RegisterEventfd(fd int) error {
	fds := [1]int32{int32(fd)}
	return r.k.Register(r.fd, sys.IORING_REGISTER_EVENTFD, unsafe.Pointer(&fds), 1)
}
