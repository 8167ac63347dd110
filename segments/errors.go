package segments

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNoRoom is that the file cannot grow now: the disk is full, or a quota or the file's greatest size is reached. Nothing was changed, and
// it may work later (rule 9). Any other error while growing is an I/O error.
var ErrNoRoom = errors.New("no room for another segment")

var errTooManySegments = fmt.Errorf("%w: the log file has as many as it can have", ErrNoRoom)

// noRoom says of an error whether it is lack of room.
func noRoom(err error) error {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
	}
	return err
}
