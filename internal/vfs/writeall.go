package vfs

import (
	"errors"
	"fmt"
	"slices"
)

// WriteAll makes writes through a Device that nothing else is using, at most Depth of them at a time, and returns
// once they have ended. It tries all of them, also after one has failed, and joins their errors. If the device itself
// is unusable the error wraps ErrInFlight too: some writes may still be outstanding, so their buffers must not be
// freed or reused.
func WriteAll(dev Device, writes []Write) (err error) {
	for some := range slices.Chunk(writes, dev.Depth()) {
		comps, doErr := dev.Do(some, len(some), nil)
		for doErr == nil && len(comps) < len(some) {
			comps, doErr = dev.Do(nil, 1, comps)
		}
		if doErr != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", ErrInFlight, doErr))
		}
		for _, c := range comps {
			err = errors.Join(err, c.Err)
		}
	}
	return err
}
