//go:build invariants

package invariants

// A Box holds a T. In this build copies of a Box share the T, so an object that the store keeps reachable can be given
// out as a copy of its own, and a copy that is dropped becomes garbage (Track). The zero Box makes its T at the first
// use, by one goroutine.
type Box[T any] struct{ p *T }

// P returns the T.
func (b *Box[T]) P() *T {
	if b.p == nil {
		b.p = new(T)
	}
	return b.p
}

// Share makes to, which was not used yet, share the T.
func (b *Box[T]) Share(to *Box[T]) { to.p = b.P() }
