//go:build !invariants

package invariants

// A Sum is empty in this build. As a field that is not the last of a struct it takes no memory.
type Sum struct{}

// SumOf returns the zero Sum in this build.
func SumOf([]byte) Sum { return Sum{} }

// IsSet returns false in this build.
func (Sum) IsSet() bool { return false }

// Matches returns true in this build.
func (Sum) Matches([]byte) bool { return true }
