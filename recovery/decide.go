package recovery

import "strconv"

// facts describe the place where the valid messages end.
type facts struct {
	clean    bool // the superblock says that the store was closed cleanly
	atEnd    bool // the valid messages end where the superblock says (used only if clean)
	known    bool // the place lies below the known-durable end
	rest     bool // something was written at or after the place
	open     bool // batches without an end are cut off
	cutKnown bool // the cut lies at or below the known-stable LSN (used only if open): a batch may be durable and open
}

// verdict is the decision on a log.
type verdict uint8

const (
	verdictEnd     verdict = iota + 1 // the log ends there, and nothing was lost
	verdictTorn                       // the log ends there; the data after it was never acknowledged
	verdictCorrupt                    // acknowledged data is corrupt
)

// String returns the name of the verdict.
func (v verdict) String() string { return nameOf(uint8(v), "none", "end", "torn", "corrupt") }

// nameOf returns the i-th name, or the number if there is none.
func nameOf(i uint8, names ...string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return strconv.Itoa(int(i))
}

// want is the value of a fact that a row of the table requires.
type want uint8

// String returns the name of the value.
func (w want) String() string { return nameOf(uint8(w), "either", "yes", "no") }

const (
	either want = iota
	yes
	no
)

func (w want) matches(b bool) bool { return w == either || (w == yes) == b }

// row is a row of the decision table.
type row struct {
	clean, atEnd, known, rest, open, cutKnown want
	verdict                                   verdict
	label                                     string
}

// The labels of table.
const (
	notAtCleanEnd    = "the store was closed cleanly, but the log does not end where it says"
	durableBeyondEnd = "the log was known to be durable beyond its clean end"
	stableOpenBatch  = "a batch without an end lies below the known-stable LSN"
	cleanOpenBatch   = "closed cleanly with a batch open; the batch is discarded"
	cleanEnd         = "closed cleanly"
	endsBelowDurable = "the valid messages end below the known-durable end"
	openBatch        = "a batch was open; it is discarded"
	tornTail         = "torn tail; it is discarded"
	endOfTheMessages = "nothing follows the last message"
)

// table is rules 10 and 13. For all facts, exactly one row matches.
var table = [...]row{
	// clean atEnd known rest  open  cutKnown
	{yes, no, either, either, either, either, verdictCorrupt, notAtCleanEnd},
	{yes, yes, yes, either, either, either, verdictCorrupt, durableBeyondEnd},
	{yes, yes, no, either, yes, yes, verdictCorrupt, stableOpenBatch},
	{yes, yes, no, either, yes, no, verdictTorn, cleanOpenBatch},
	{yes, yes, no, either, no, either, verdictEnd, cleanEnd},
	{no, either, yes, either, either, either, verdictCorrupt, endsBelowDurable},
	{no, either, no, either, yes, yes, verdictCorrupt, stableOpenBatch},
	{no, either, no, either, yes, no, verdictTorn, openBatch},
	{no, either, no, yes, no, either, verdictTorn, tornTail},
	{no, either, no, no, no, either, verdictEnd, endOfTheMessages},
}

func (r *row) matches(f facts) bool {
	return r.clean.matches(f.clean) && r.atEnd.matches(f.atEnd) && r.known.matches(f.known) && r.rest.matches(f.rest) &&
		r.open.matches(f.open) && r.cutKnown.matches(f.cutKnown)
}

// decide returns the row that matches f.
func decide(f facts) *row {
	for i := range table {
		if table[i].matches(f) {
			return &table[i]
		}
	}
	panic("recovery: no row of the decision table matches") // TestDecisionTable tries all facts
}
