package slab

import "math/bits"

const (
	pageSize  = 4 << 10
	chunkSize = 2 << 20 // a huge page
	chunkLen  = chunkSize / pageSize

	// Sizes of slots are stepsPerDouble for each power of two, so that rounding up costs an eighth at most.
	stepBits       = 3
	stepsPerDouble = 1 << stepBits

	// MaxLen is the length in bytes of the longest value that a Pool takes.
	MaxLen     = 1 << maxSlotBits
	minSlot    = 1 << minSlotBits // shorter values take as much
	numClasses = (maxSlotBits-minSlotBits)*stepsPerDouble + 1

	minSlotBits, maxSlotBits = 14, 20

	// A span of slots of 2^k bytes has this many pages, and one of slots of 2^k·(1 + i/8) bytes has i more. Spans of
	// slots of 32 KiB and more have one slot. So the slots of a span always fill its pages.
	spanPages = stepsPerDouble
	maxSlots  = spanPages * pageSize / minSlot
)

// classOf returns the class of slots for values of n bytes, 0 < n ≤ MaxLen.
func classOf(n int) int {
	if n <= minSlot {
		return 0
	}
	// n lies in (2^k, 2^(k+1)].
	k := bits.Len(uint(n-1)) - 1
	step := 1 << (k - stepBits)
	return (k-minSlotBits)*stepsPerDouble + (n-1<<k+step-1)/step
}

// sizeOf returns the size in bytes of the slots of a class.
func sizeOf(class int) int {
	k := minSlotBits + class/stepsPerDouble
	return (stepsPerDouble + class%stepsPerDouble) << (k - stepBits)
}

// slotsOf returns the number of slots in a span of a class.
func slotsOf(class int) int {
	return max(1, spanPages*pageSize>>(minSlotBits+class/stepsPerDouble))
}

// pagesOf returns the number of pages of a span of a class.
func pagesOf(class int) int { return slotsOf(class) * sizeOf(class) / pageSize }
