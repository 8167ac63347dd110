//go:build !race

package enginetest

// Raced says that the race detector is on. It takes several times the memory and the time.
const Raced = false
