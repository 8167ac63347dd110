package vfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"pagecache/internal/vfs"
)

// Every error of reading has one kind, also below other errors: the disk did not return the bytes, the bytes are wrong,
// or the operating system refused the call, which says nothing about the bytes.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want vfs.Trouble
	}{
		{nil, vfs.TroubleNone},
		{syscall.EIO, vfs.TroubleUnreadable},
		{syscall.ENODATA, vfs.TroubleUnreadable},
		{syscall.EILSEQ, vfs.TroubleUnreadable},
		{syscall.EREMOTEIO, vfs.TroubleUnreadable},
		{syscall.EBADMSG, vfs.TroubleUnreadable},
		{syscall.EUCLEAN, vfs.TroubleUnreadable},
		{syscall.ETIMEDOUT, vfs.TroubleUnreadable},
		{syscall.ENOLINK, vfs.TroubleUnreadable},
		{vfs.ErrFault, vfs.TroubleUnreadable},
		{fmt.Errorf("%w: %w", vfs.ErrFault, syscall.EIO), vfs.TroubleUnreadable},
		{fmt.Errorf("%w: %w", vfs.ErrFault, io.EOF), vfs.TroubleUnreadable},
		{fmt.Errorf("%w: %w", vfs.ErrFault, syscall.ENOMEM), vfs.TroubleRefused},
		{syscall.EPERM, vfs.TroubleRefused},
		{syscall.EACCES, vfs.TroubleRefused},
		{syscall.EINVAL, vfs.TroubleRefused},
		{syscall.ENOMEM, vfs.TroubleRefused},
		{syscall.EAGAIN, vfs.TroubleRefused},
		{syscall.EINTR, vfs.TroubleRefused},
		{syscall.EMFILE, vfs.TroubleRefused},
		{syscall.ENFILE, vfs.TroubleRefused},
		{syscall.EBADF, vfs.TroubleRefused},
		{syscall.ENOSYS, vfs.TroubleRefused},
		{syscall.EOPNOTSUPP, vfs.TroubleRefused},
		{syscall.ENOSPC, vfs.TroubleRefused},
		{fs.ErrClosed, vfs.TroubleRefused},
		{fs.ErrPermission, vfs.TroubleRefused},
		{fs.ErrNotExist, vfs.TroubleDamage},
		{syscall.ENOENT, vfs.TroubleDamage},
		{vfs.ErrBounds, vfs.TroubleDamage},
		{io.EOF, vfs.TroubleDamage},
		{io.ErrUnexpectedEOF, vfs.TroubleDamage},
		{errors.New("checksum mismatch"), vfs.TroubleDamage},
	} {
		wrapped := c.err
		if wrapped != nil {
			wrapped = fmt.Errorf("read: %w", &fs.PathError{Op: "read", Path: "log", Err: c.err})
		}
		for _, err := range []error{c.err, wrapped} {
			if got := vfs.Classify(err); got != c.want {
				t.Errorf("%v: %v, want %v", err, got, c.want)
			}
			if vfs.IsUnreadable(err) != (c.want == vfs.TroubleUnreadable) {
				t.Errorf("%v: IsUnreadable disagrees with %v", err, c.want)
			}
		}
	}
}
