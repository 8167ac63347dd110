//go:build !invariants

package iobuf

import (
	"testing"
	"unsafe"
)

// In a normal build the debug aids do not make a Reservation or a Batch larger.
func TestTrackersTakeNoMemory(t *testing.T) {
	if got, want := unsafe.Sizeof(Reservation{}), 6*unsafe.Sizeof(uint64(0)); got != want {
		t.Errorf("a Reservation takes %d bytes, want %d", got, want)
	}
	if got, want := unsafe.Sizeof(Batch{}), 2*unsafe.Sizeof(uint64(0)); got != want {
		t.Errorf("a Batch takes %d bytes, want %d", got, want)
	}
}
