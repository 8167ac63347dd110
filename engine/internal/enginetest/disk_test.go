package enginetest

import (
	"runtime"
	"syscall"
	"testing"
)

// Mapped counts a map, and not the growth of the collector's heap, wherever the runtime has placed it.
func TestMappedLeavesOutTheHeap(t *testing.T) {
	if Raced {
		t.Skip("with the race detector the heap counts")
	}
	const size = 256 << 20
	before := Mapped(t)
	heap := make([]byte, size)
	if n := Mapped(t) - before; n > size/4 {
		t.Errorf("%d MiB more after the heap has grown", n>>20)
	}
	runtime.KeepAlive(heap)
	before = Mapped(t)
	m, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	if n := Mapped(t) - before; n < size || n > size*5/4 {
		t.Errorf("%d MiB more for a map of %d MiB", n>>20, size>>20)
	}
	if err := syscall.Munmap(m); err != nil {
		t.Error(err)
	}
}
