package vfs

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// Trouble is the kind of an error of reading. It decides what the error says about the bytes on the disk.
type Trouble int

// The kinds of trouble.
const (
	// TroubleNone is no error.
	TroubleNone Trouble = iota
	// TroubleDamage says that the bytes were read and are not what was written, or that their file is missing or too
	// short. Every error that does not come from the operating system counts as damage.
	TroubleDamage
	// TroubleUnreadable says that the disk did not return the bytes: a read error, or a fault on mapped memory.
	TroubleUnreadable
	// TroubleRefused says that the operating system refused the call, as without a permission, memory or descriptors.
	// It says nothing about the bytes.
	TroubleRefused
)

func (t Trouble) String() string {
	switch t {
	case TroubleNone:
		return "none"
	case TroubleDamage:
		return "damage"
	case TroubleUnreadable:
		return "unreadable"
	case TroubleRefused:
		return "refused"
	}
	return "invalid trouble"
}

// Classify returns the kind of an error of reading a file, through a map or by a call. It is the one place that
// decides.
func Classify(err error) Trouble {
	errno := syscall.Errno(0)
	switch {
	case err == nil:
		return TroubleNone
	case slices.ContainsFunc(mediaErrors, func(e syscall.Errno) bool { return errors.Is(err, e) }):
		return TroubleUnreadable
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrBounds):
		return TroubleDamage
	case errors.As(err, &errno), errors.Is(err, fs.ErrClosed), errors.Is(err, fs.ErrPermission),
		errors.Is(err, os.ErrDeadlineExceeded): // a limit of our own
		return TroubleRefused
	case errors.Is(err, ErrFault):
		return TroubleUnreadable
	}
	return TroubleDamage
}

// IsNoSpace reports whether err says that the disk is full, or that a quota or file-size limit was reached.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EDQUOT)
}

// IsUnreadable reports whether err says that the disk did not return the bytes.
func IsUnreadable(err error) bool { return Classify(err) == TroubleUnreadable }
