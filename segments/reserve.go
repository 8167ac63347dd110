package segments

import "strconv"

// Urgency is the class of a write; it decides how much of the reserve (Options.Reserve) the write may use when the file
// cannot grow. Higher values are more urgent.
//
// Making room takes room: freeing a page writes a message, and cleaning a segment writes its live data to another
// one. So when the file cannot grow, the last free slots are kept for the writes that lead to more free slots. The
// more urgent a write, the fewer slots are kept from it:
//
//	class     writes                                    free slots that are kept from it
//	ordinary  values that callers write                 the whole reserve
//	freeing   frees, notes, truncations of streams      KeptForCleaning
//	cleaning  moves by the cleaner, ends of batches,    1: the last slot
//	          drops of streams, segments that leave
//	opening   the tail of the log, by Open after a      none: Open takes a slot that recovery found free,
//	          crash; it has no Urgency                  or Space.Append
//
// The whole reserve is Options.Reserve slots and, if ReservePer is positive, one more for each ReservePer slots of the
// file. The other two numbers are at most Options.Reserve.
//
// A segment is opened for a write if more slots are free than are kept from the write. The rest of that segment belongs
// to the reserve too: the only classes that may write to it are those that could have opened it, until the reserve has
// been refilled (Space.Room).
type Urgency uint32

// The urgency classes.
const (
	UrgencyOrdinary Urgency = iota // a value that a caller writes
	UrgencyFreeing                 // a free or a note: small, and it makes room once the cleaner has run
	UrgencyCleaning                // a move by the cleaner, or the end of a batch: it makes room, or room waits for it
)

// String returns the name of the class.
func (u Urgency) String() string {
	if names := [...]string{"ordinary", "freeing", "cleaning"}; int(u) < len(names) {
		return names[u]
	}
	return "urgency(" + strconv.FormatUint(uint64(u), 10) + ")"
}

// KeptForCleaning is the part of the reserve, in slots, that frees (UrgencyFreeing) may not use: two for the cleaner,
// and the last slot. One slot would do for the cleaner if the live data of a segment always fitted into another one;
// but each flush also uses up the rest of a block.
const KeptForCleaning = 3

// keptForOpening is the part of the reserve that no write may use. After a crash Open writes the tail of the log anew
// (rule 1) before it gives the old tail's slot back.
const keptForOpening = 1

// reserve computes how many free slots are kept from a write; the comment of Urgency has the rules. It has no state:
// the results depend on the number of free slots and on the length of the file.
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

// leastUrgency returns the least urgency that may use the next of the free slots. At least one more slot is free than
// is kept from UrgencyCleaning.
func (r reserve) leastUrgency(free, slots int) Urgency {
	u := UrgencyOrdinary
	for free <= r.kept(u, slots) {
		u++
	}
	return u
}
