//go:build linux

package ring

import (
	"syscall"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// Params are the parameters of io_uring_setup: the kernel returns the layout of the queues in them.
type Params = sys.IOURingParams

// Kernel is what a ring asks of the operating system: a seam for tests, which refuse or interrupt each step.
type Kernel struct {
	Setup    func(entries uint, p *Params) (fd int, err error)
	Mmap     func(fd int, off int64, n int) ([]byte, error)
	Register func(fd int, op uint8, arg unsafe.Pointer, n uint32) error
	// Enter is io_uring_enter. It returns the bare errno: an error value would be an allocation.
	Enter func(fd int, submit, min, flags uint32) unix.Errno
}

// Linux is the kernel of this machine.
var Linux = Kernel{
	Setup:    sys.IOURingSetup,
	Register: sys.IOURingRegister,
	Mmap: func(fd int, off int64, n int) ([]byte, error) {
		return unix.Mmap(fd, off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	},
	// Syscall6 and not RawSyscall6: the scheduler must know that the thread may block.
	Enter: func(fd int, submit, min, flags uint32) unix.Errno {
		_, _, errno := syscall.Syscall6(sys.SYS_IO_URING_ENTER,
			uintptr(fd), uintptr(submit), uintptr(min), uintptr(flags), 0, 0)
		return errno
	},
}

// The offsets at which Mmap maps the areas of a ring.
const (
	OffSubmissions = int64(sys.IORING_OFF_SQ_RING)
	OffCompletions = int64(sys.IORING_OFF_CQ_RING)
	OffEntries     = int64(sys.IORING_OFF_SQES)
)
