//go:build !race

package engine

// raced reports whether the race detector is on. It takes several times the memory and the time.
const raced = false
