package osfs

import (
	"errors"
	"fmt"
	"testing"

	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/mmapread"
)

// The errors of the seam and those of the packages below it find each other, and no others.
func TestSentinels(t *testing.T) {
	pairs := map[error]error{vfs.ErrInFlight: iouring.ErrInFlight, vfs.ErrFault: mmapread.ErrFault, vfs.ErrBounds: mmapread.ErrBounds}
	for seam := range pairs {
		for other, below := range pairs {
			wrapped := fmt.Errorf("at %d: %w", 1, below)
			if errors.Is(wrapped, seam) != (other == seam) || errors.Is(fmt.Errorf("at %d: %w", 1, seam), below) != (other == seam) {
				t.Errorf("%v and %v", seam, below)
			}
		}
	}
}

// Proves that the seam costs nothing per write: Do of the device is the Writer's own.
func TestDeviceIsNotWrapped(t *testing.T) {
	f := mustOpen(t, t.TempDir()+"/file", vfs.FlagWrite|vfs.FlagCreate)
	d, _, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, ok := d.(*iouring.Writer); !ok {
		t.Errorf("the device is a %T", d)
	}
}
