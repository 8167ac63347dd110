package engine

import (
	"errors"
	"fmt"
	"syscall"

	"pagecache/engine/internal/iobuf"
	"pagecache/recovery"
	"pagecache/segments"
)

// The errors that errors.Is finds in what this package returns.
var (
	ErrClosed       = errors.New("store is closed")
	ErrCorrupt      = recovery.ErrCorrupt // a *CorruptError says where
	ErrLocked       = errors.New("store is open elsewhere")
	ErrReadOnly     = iobuf.ErrReadOnly
	ErrNoSpace      = errors.New("no space left for the log")
	ErrUnsupported  = errors.New("not supported")
	ErrRootNotFound = errors.New("no root of that name")
	ErrFailed       = iobuf.ErrFailed // the log stopped after an I/O error; wraps the cause
	ErrTooLarge     = iobuf.ErrTooLarge
	ErrTxEnded      = errors.New("transaction has ended")
	ErrBatchEnded   = iobuf.ErrBatchEnded
)

// CorruptError says where acknowledged data is damaged. It wraps ErrCorrupt.
type CorruptError = recovery.CorruptError

// logError turns an error of the log into one of this package's.
func logError(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, iobuf.ErrClosed):
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	case errors.Is(err, ErrFailed):
		return fmt.Errorf("%s: %w", doing, err)
	case isNoSpace(err):
		return fmt.Errorf("%s: %w: %w", doing, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func isNoSpace(err error) bool {
	return errors.Is(err, segments.ErrNoRoom) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EDQUOT)
}
