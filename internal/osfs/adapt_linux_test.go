package osfs

import (
	"errors"
	"fmt"
	"testing"

	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/mmapread"
)

// errors.Is matches each error of the seam with the one of the package below, and with no other.
func TestSentinels(t *testing.T) {
	pairs := map[error]error{vfs.ErrInFlight: iouring.ErrInFlight, vfs.ErrFault: mmapread.ErrFault,
		vfs.ErrBounds: mmapread.ErrBounds}
	for seam := range pairs {
		for other, below := range pairs {
			up, down := fmt.Errorf("at %d: %w", 1, below), fmt.Errorf("at %d: %w", 1, seam)
			if errors.Is(up, seam) != (other == seam) || errors.Is(down, below) != (other == seam) {
				t.Errorf("%v and %v", seam, below)
			}
		}
	}
}

// The seam costs nothing per write: the device is the iouring.Writer itself.
func TestDeviceIsNotWrapped(t *testing.T) {
	f := mustOpen(t, t.TempDir()+"/file", writable)
	d, _, err := f.OpenDevice(vfs.DeviceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, ok := d.(*iouring.Writer); !ok {
		t.Errorf("the device is a %T", d)
	}
}
