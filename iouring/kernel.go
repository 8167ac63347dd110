//go:build linux

package iouring

import (
	"syscall"
	"unsafe"

	sys "github.com/iceber/iouring-go/syscall"
	"golang.org/x/sys/unix"
)

// kernel is what a ring asks of the operating system; a seam for tests, which refuse or interrupt each step.
type kernel struct {
	setup    func(entries uint, p *sys.IOURingParams) (fd int, err error)
	mmap     func(fd int, off int64, n int) ([]byte, error)
	register func(fd int, op uint8, arg unsafe.Pointer, n uint32) error
	// enter is io_uring_enter. It returns the errno as it is: an error value would be an allocation.
	enter func(fd int, submit, min, flags uint32) unix.Errno
}

var linux = kernel{
	setup:    sys.IOURingSetup,
	register: sys.IOURingRegister,
	mmap: func(fd int, off int64, n int) ([]byte, error) {
		return unix.Mmap(fd, off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	},
	// Syscall6 and not RawSyscall6: the scheduler must know that the thread may block.
	enter: func(fd int, submit, min, flags uint32) unix.Errno {
		_, _, errno := syscall.Syscall6(sys.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(min), uintptr(flags), 0, 0)
		return errno
	},
}
