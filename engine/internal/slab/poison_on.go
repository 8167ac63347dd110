//go:build invariants

package slab

import "fmt"

// poisoned is what released memory is filled with, so that a goroutine that looks at a value for too long sees no
// value.
const poisoned = 0xdb

func poison(b []byte) {
	for i := range b {
		b[i] = poisoned
	}
}

// checkReleased panics if memory was written to after it was released.
func checkReleased(b []byte) {
	for i, x := range b {
		if x != poisoned {
			panic(fmt.Sprintf("slab: byte %d of a released value was overwritten with %#x", i, x))
		}
	}
}
