//go:build linux

package ring

import (
	"errors"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// fixed is the ring's table of registered buffers: the kernel need not pin their pages for each write from them.
//
// Registering a buffer pins all its pages, and a page that was never touched is allocated and zeroed first: 3 ms for
// 8 MiB. So a buffer is registered after its last part was written for the first time, when all its pages exist. Until
// then it is written like other memory. Kernels that cannot register buffers one by one (before 5.19) register all of
// them at once, at the beginning.
type fixed []fixedBuffer

type fixedBuffer struct {
	mem        []byte
	filled     bool // its last part was written: it is registered before the next write
	registered bool
	refused    bool // the kernel did not register it; it is not asked again
}

// The kernel's structures and numbers for registering buffers one by one.
type (
	rsrcRegister struct {
		nr, flags  uint32
		_          uint64
		data, tags uint64
	}
	rsrcUpdate struct {
		offset, _  uint32
		data, tags uint64
		nr, _      uint32
	}
)

const (
	registerBuffers2      = 15 // IORING_REGISTER_BUFFERS2
	registerBuffersUpdate = 16 // IORING_REGISTER_BUFFERS_UPDATE
	registerSparse        = 1  // IORING_RSRC_REGISTER_SPARSE
	lastPart              = 8  // a buffer counts as filled once something in its last eighth was written
)

// RegisterBuffers prepares the ring for registering the buffers, each when it was filled for the first time. probe
// finds out whether a write from registered memory works: it gets the first block bytes of the first buffer. Its error
// leaves no buffer registered.
func (r *Ring) RegisterBuffers(bufs [][]byte, block int, probe func(b []byte) error) error {
	r.fixed = make(fixed, len(bufs))
	for i, b := range bufs {
		r.fixed[i].mem = b
	}
	err := r.registerSparse(bufs[0], block, probe)
	if errors.Is(err, errOneByOne) {
		err = r.registerAll(bufs, block, probe)
	}
	if err != nil {
		r.fixed = nil
	}
	return err
}

var errOneByOne = errors.New("buffers cannot be registered one by one")

// registerSparse registers an empty table and tries it.
func (r *Ring) registerSparse(first []byte, block int, probe func(b []byte) error) error {
	table := rsrcRegister{nr: uint32(len(r.fixed)), flags: registerSparse}
	n := uint32(unsafe.Sizeof(table))
	if err := r.k.Register(r.fd, registerBuffers2, unsafe.Pointer(&table), n); errors.Is(err, unix.EINVAL) {
		return errOneByOne
	} else if err != nil {
		return err
	}
	if len(first) < block {
		return nil
	}
	err := r.setFixed(0, first[:block])
	if err == nil {
		r.fixed[0] = fixedBuffer{mem: first[:block], registered: true}
		err = probe(first[:block])
		r.fixed[0] = fixedBuffer{mem: first}
		err = errors.Join(err, r.setFixed(0, nil))
	}
	if err != nil {
		r.unregisterBuffers()
	}
	return err
}

// registerAll registers all buffers now.
func (r *Ring) registerAll(bufs [][]byte, block int, probe func(b []byte) error) error {
	iov := make([]unix.Iovec, len(bufs))
	for i, b := range bufs {
		iov[i] = iovec(b)
	}
	err := r.k.Register(r.fd, sys.IORING_REGISTER_BUFFERS, unsafe.Pointer(&iov[0]), uint32(len(iov)))
	if err != nil {
		return err
	}
	for i := range r.fixed {
		r.fixed[i].registered = true
	}
	if len(bufs[0]) < block {
		return nil
	}
	if err := probe(bufs[0][:block]); err != nil {
		r.unregisterBuffers()
		return err
	}
	return nil
}

// setFixed registers mem as buffer i of the table; nil: nothing.
func (r *Ring) setFixed(i int, mem []byte) error {
	r.iov = iovec(mem) // in the ring, which does not move as a stack does
	u := rsrcUpdate{offset: uint32(i), data: uint64(uintptr(unsafe.Pointer(&r.iov))), nr: 1}
	return r.k.Register(r.fd, registerBuffersUpdate, unsafe.Pointer(&u), uint32(unsafe.Sizeof(u)))
}

func iovec(b []byte) (v unix.Iovec) {
	if len(b) > 0 {
		v.Base = unsafe.SliceData(b)
		v.SetLen(len(b))
	}
	return v
}

// unregisterBuffers undoes RegisterBuffers. If the kernel refuses, the pages stay pinned until Close, but no write uses
// the registration.
func (r *Ring) unregisterBuffers() {
	_ = r.k.Register(r.fd, sys.IORING_UNREGISTER_BUFFERS, nil, 0)
	r.fixed = nil
}

// fixedIndex returns the index of the registered buffer that contains buf, −1 if none does. It registers the buffer if
// the time has come. A buffer that the kernel does not take (others of the same user may have used up the limit on
// locked memory meanwhile) is written like other memory.
func (r *Ring) fixedIndex(buf []byte) int {
	p := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	for i := range r.fixed {
		f := &r.fixed[i]
		base := uintptr(unsafe.Pointer(unsafe.SliceData(f.mem)))
		end := base + uintptr(len(f.mem))
		if p < base || p+uintptr(len(buf)) > end {
			continue
		}
		if !f.registered && f.filled && !f.refused {
			f.registered = r.setFixed(i, f.mem) == nil
			f.refused = !f.registered
		}
		f.filled = f.filled || p+uintptr(len(buf)) > end-uintptr(len(f.mem)/lastPart)
		if f.registered {
			return i
		}
	}
	return -1
}
