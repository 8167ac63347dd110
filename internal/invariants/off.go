//go:build !invariants

package invariants

// Enabled reports whether the costly checks are compiled in (build tag invariants).
const Enabled = false

// Jitter does nothing in this build.
func Jitter() {}

// Sometimes does nothing in this build.
func Sometimes(string, bool) {}

// Tracker is empty in this build. As the first field of a struct it takes no memory.
type Tracker struct{}

// Track does nothing in this build.
func Track(string, Excuse) Tracker { return Tracker{} }

// Done does nothing in this build.
func (Tracker) Done() {}

// Ended returns false in this build.
func (Tracker) Ended() bool { return false }

// Begun returns "" in this build.
func (Tracker) Begun() string { return "" }
