package recovery

import (
	"math"
	"slices"

	"pagecache/segments/format"
)

// mark is a batch marker: a beginning, whose begin is 0, or an end, whose begin is the LSN of its beginning.
type mark struct{ lsn, begin format.LSN }

// cutBatches returns the LSN at which a log with these markers, whose valid messages end at tip, must end so that
// every batch is whole or absent. It is the earliest beginning without an end, or an earlier one if the cut would
// split its batch.
func cutBatches(marks []mark, tip format.LSN) format.LSN {
	if len(marks) == 0 {
		return tip
	}
	ends := make(map[format.LSN]format.LSN, len(marks)/2)
	var begins []format.LSN
	for _, m := range marks {
		if m.begin == 0 {
			begins = append(begins, m.lsn)
			ends[m.lsn] = math.MaxInt64
		} else if e, ok := ends[m.begin]; ok {
			ends[m.begin] = min(e, m.lsn)
		}
	}
	// From the last beginning to the first: the cut only moves down, past batches that are discarded whole.
	cut := tip
	for _, b := range slices.Backward(begins) {
		if b < cut && ends[b] >= cut {
			cut = b
		}
	}
	return cut
}
