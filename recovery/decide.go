package recovery

// facts are what is known about the place where the valid messages end.
type facts struct {
	clean    bool // the superblock says that the store was closed cleanly
	atEnd    bool // the valid messages end where the superblock says (looked at only if clean)
	known    bool // the end lies at or below the known-stable LSN
	rest     bool // something was written at or after the end
	open     bool // batches without an end are cut off
	cutKnown bool // that cut lies at or below the known-stable LSN (looked at only if open)
}

// verdict is what becomes of a log.
type verdict uint8

const (
	verdictEnd     verdict = iota + 1 // the log ends there and nothing was lost
	verdictTorn                       // the log ends there; what follows was never acknowledged
	verdictCorrupt                    // acknowledged data is damaged
)

// want is what a row of the table asks of a fact.
type want uint8

const (
	either want = iota
	yes
	no
)

func (w want) matches(b bool) bool { return w == either || (w == yes) == b }

// row is one line of the decision table.
type row struct {
	clean, atEnd, known, rest, open, cutKnown want
	verdict                                   verdict
	label                                     string
}

// table is rule 10: exactly one row matches any facts.
var table = [...]row{
	// clean atEnd known rest  open  cutKnown
	{yes, no, either, either, either, either, verdictCorrupt, "the store was closed cleanly, but the log does not end where it did then"},
	{yes, yes, yes, either, either, either, verdictCorrupt, "the log was known to be stable beyond its clean end"},
	{yes, yes, no, either, yes, yes, verdictCorrupt, "a batch without an end lies below what was known to be stable"},
	{yes, yes, no, either, yes, no, verdictTorn, "closed cleanly with a batch open; the batch is dropped"},
	{yes, yes, no, either, no, either, verdictEnd, "closed cleanly"},
	{no, either, yes, either, either, either, verdictCorrupt, "damage below what was known to be stable"},
	{no, either, no, either, yes, yes, verdictCorrupt, "a batch without an end lies below what was known to be stable"},
	{no, either, no, either, yes, no, verdictTorn, "a batch was open; it is dropped"},
	{no, either, no, yes, no, either, verdictTorn, "torn tail; it is dropped"},
	{no, either, no, no, no, either, verdictEnd, "nothing follows the last message"},
}

func (r *row) matches(f facts) bool {
	return r.clean.matches(f.clean) && r.atEnd.matches(f.atEnd) && r.known.matches(f.known) && r.rest.matches(f.rest) &&
		r.open.matches(f.open) && r.cutKnown.matches(f.cutKnown)
}

// decide looks f up in the table.
func decide(f facts) *row {
	for i := range table {
		if table[i].matches(f) {
			return &table[i]
		}
	}
	panic("recovery: no row of the decision table matches") // TestDecisionTable tries every combination
}
