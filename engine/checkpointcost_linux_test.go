package engine_test

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"pagecache/iouring"
)

// rawSpeed returns the speed of reading a file past the page cache, in pieces of 1 MiB, in bytes a second.
func rawSpeed(t *testing.T, name string) float64 {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	buf, err := iouring.AllocBuffer(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer iouring.FreeBuffer(buf)
	start, total := time.Now(), int64(0)
	for {
		n, err := f.ReadAt(buf, total)
		total += int64(n)
		if errors.Is(err, io.EOF) || n == 0 {
			return float64(total) / time.Since(start).Seconds()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
