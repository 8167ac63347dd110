//go:build !invariants

// Package invariants holds the debug aids that cost nothing in a normal build: with the build tag "invariants"
// Enabled is true and Jitter shakes the schedule; without it both compile to nothing.
package invariants

// Enabled says whether the costly checks are compiled in (build tag invariants).
const Enabled = false

// Jitter does nothing in this build.
func Jitter() {}
