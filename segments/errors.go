package segments

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNoRoom reports that the log file cannot grow: the disk is full, or a quota or file-size limit was reached. Nothing
// was changed, and the call may succeed later (rule 9). Any other error while growing is an I/O error.
var ErrNoRoom = errors.New("log file cannot grow")

// ErrBadSlot reports that the disk does not take writes to a slot.
var ErrBadSlot = errors.New("slot cannot be written")

var errSegmentLimit = fmt.Errorf("%w: segment limit reached", ErrNoRoom)

// wrapNoRoom adds ErrNoRoom to an error that means lack of room, and returns any other error as it is.
func wrapNoRoom(err error) error {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
	}
	return err
}
