// Package invariants holds debug aids that cost nothing in a normal build. They work with the build tag "invariants";
// without it Enabled is false and all calls compile to nothing.
//
//   - Enabled guards checks that are too costly for a normal build.
//   - Jitter varies the schedule of goroutines.
//   - Sometimes counts how often a rare path is taken, so that a test can check that its run has taken it.
//   - Sum is a checksum of bytes that must not change.
//   - Track finds objects that their owner drops without ending them.
package invariants

import "sync/atomic"

// Excuse, once true, ends the duty to end the objects that were tracked with it: the log or store they belong to has
// stopped. A nil Excuse is never true.
type Excuse = *atomic.Bool
