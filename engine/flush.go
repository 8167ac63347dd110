package engine

import (
	"fmt"

	"pagecache/engine/internal/iobuf"
)

// Flush makes everything written so far stable and returns how many bytes of the log became stable meanwhile. Errors:
// ErrFailed, ErrClosed. Safe for concurrent use.
func (s *store) Flush() (int, error) {
	if s.closed.Load() {
		return 0, logError("flush", iobuf.ErrClosed)
	}
	before := s.log.StableEnd()
	err := s.log.Flush()
	return int(s.log.StableEnd() - before), logError("flush", err)
}

// MakeStable waits until the message at lsn is stable: on stable storage together with all before it, and in no open
// batch. It returns how many bytes of the log became stable meanwhile. An lsn that was not handed out yet stands for everything
// written so far. Callers at the same time share writes. Errors: ErrFailed, ErrClosed. Safe for concurrent use.
func (s *store) MakeStable(lsn LSN) (int, error) {
	if s.closed.Load() {
		return 0, logError("make stable", iobuf.ErrClosed)
	}
	before := s.log.StableEnd()
	if before > lsn {
		return 0, nil
	}
	if err := s.log.MakeStable(lsn); err != nil {
		return int(s.log.StableEnd() - before), logError(fmt.Sprintf("make LSN %d stable", lsn), err)
	}
	return int(s.log.StableEnd() - before), nil
}

// StableLSN is the LSN of the last stable byte of the log, −1 if there is none. The message at an LSN is stable if that is at
// or below it. Safe for concurrent use.
func (s *store) StableLSN() LSN { return s.log.StableLSN() }
