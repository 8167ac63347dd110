//go:build !invariants

package invariants

// A Box holds a T. In this build it is the T itself, and takes no more memory.
type Box[T any] struct{ v T }

// P returns the T.
func (b *Box[T]) P() *T { return &b.v }

// Share does nothing in this build.
func (b *Box[T]) Share(*Box[T]) {}
