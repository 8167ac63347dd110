package segments

import "strconv"

// Urgency is the class of a write; it decides how much of the reserve (Options.Reserve) the write may use when the file
// cannot grow. Higher values are more urgent.
type Urgency uint32

// The urgency classes. The comment of the type reserve says what each may use.
const (
	UrgencyOrdinary Urgency = iota // a value that a caller writes
	UrgencyFreeing                 // a free or a note of ids: it makes room once the cleaner has run
	UrgencyCleaning                // a move by the cleaner, or the end of a batch: it makes room, or room waits for it
)

// String returns the name of the class.
func (u Urgency) String() string {
	if names := [...]string{"ordinary", "freeing", "cleaning"}; int(u) < len(names) {
		return names[u]
	}
	return "urgency(" + strconv.FormatUint(uint64(u), 10) + ")"
}

// KeptForCleaning is the part of the reserve, in slots, that Free may not use: two for the cleaner, and the last slot.
// One slot would do for the cleaner if the live data of a segment always fitted into another one; but each flush also
// uses up the rest of a block.
const KeptForCleaning = 3

// keptForOpening is the part of the reserve that no write may use. After a crash Open writes the tail of the log anew
// (rule 1) before it gives the old tail's slot back.
const keptForOpening = 1

// reserve decides which of the free slots a write may use. Making room takes room: freeing a page writes a message, and
// cleaning a segment writes its live data to another one. So when the file cannot grow, the last free slots are kept for
// the writes that lead to more free slots. The more urgent a write, the fewer slots are kept from it:
//
//	class     writes                                    slots kept from it
//	ordinary  values that callers write                 all of the reserve
//	freeing   frees, notes of ids                       KeptForCleaning
//	cleaning  moves by the cleaner, ends of batches     keptForOpening
//	opening   the tail of the log, by Open, after a     none: Open uses the free slots that it finds, or Space.Append
//	          crash; it has no Urgency
//
// "All of the reserve" is Options.Reserve slots and, if ReservePer is positive, one more for each ReservePer slots of the
// file. The other two numbers are at most Options.Reserve.
//
// A segment is opened if more slots are free than are kept from the write that needs it. Its rest belongs to the reserve
// too: only classes from which fewer slots are kept than were free may write to it (leastUrgency), until the reserve has
// been refilled (Space.Room).
//
// A reserve has no state: it is a function of the number of free slots and of the file's length.
type reserve struct {
	base int // Options.Reserve
	per  int // Options.ReservePer
}

// kept returns how many free slots are kept from a write of urgency u, in a file of the given length in slots.
func (r reserve) kept(u Urgency, slots int) int {
	switch u {
	case UrgencyOrdinary:
		if r.per > 0 {
			return r.base + slots/r.per
		}
		return r.base
	case UrgencyFreeing:
		return min(KeptForCleaning, r.base)
	}
	return min(keptForOpening, r.base)
}

// leastUrgency returns the least urgency that may use the next of the free slots. At least one more slot is free than is
// kept from UrgencyCleaning.
func (r reserve) leastUrgency(free, slots int) Urgency {
	u := UrgencyOrdinary
	for free <= r.kept(u, slots) {
		u++
	}
	return u
}
