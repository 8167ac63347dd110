package lru

import "strconv"

// Outcome is the result of an attempt to evict a page.
type Outcome uint8

// The outcomes of Pages.Evict.
const (
	OutcomeEvicted     Outcome = iota // the page was resident; at most a part that saves more than it costs still is
	OutcomeNotResident                // the page was not resident
	OutcomeBusy                       // the page stays resident because its writes are not stable yet
)

// String returns the outcome's name.
func (o Outcome) String() string {
	switch o {
	case OutcomeEvicted:
		return "evicted"
	case OutcomeNotResident:
		return "not resident"
	case OutcomeBusy:
		return "busy"
	}
	return "Outcome(" + strconv.Itoa(int(o)) + ")"
}

// Pages is the store whose pages the policy evicts. The policy's goroutine calls the methods, one at a time. Evict and
// Sweep settle the bytes that they free with the budget before they return. Nothing recovers a panic in a method: it
// ends the process.
type Pages interface {
	// Cost returns the resident bytes of the page, 0 if it is not resident.
	Cost(key uint64) int64
	// Evict evicts the page unless it is busy.
	Evict(key uint64) Outcome
	// Each calls visit for every resident page until visit returns false. visit may call Cost.
	Each(visit func(key uint64) bool)
	// Sweep evicts pages in clock order until it has freed want bytes or the hand has gone round. It calls evicted for
	// each page that it evicts. It skips busy pages and, once, pages touched since the hand last passed them. more
	// reports whether it stopped because it had freed enough.
	Sweep(want int64, evicted func(key uint64)) (freed int64, more bool)
	// Touch makes the next Sweep skip the page.
	Touch(key uint64)
}
