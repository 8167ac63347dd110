package recovery

import "testing"

// Exactly one row of the table matches each combination of facts, no known-durable data is discarded, and a batch is
// discarded only if it was never stable. Proves V1 and V8, rules 10 and 13.
func TestDecisionTable(t *testing.T) {
	used := make([]int, len(table))
	for bits := range 1 << 6 {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		f := facts{clean: bit(0), atEnd: bit(1), known: bit(2), rest: bit(3), open: bit(4), cutKnown: bit(5)}
		n := 0
		for i := range table {
			if table[i].matches(f) {
				n++
				used[i]++
			}
		}
		if n != 1 {
			t.Errorf("%+v: %d rows match", f, n)
		}
		got := decide(f).verdict
		if f.known && got != verdictCorrupt {
			t.Errorf("%+v: durable data is discarded", f)
		}
		if f.open && f.cutKnown && got != verdictCorrupt {
			t.Errorf("%+v: a stable batch is discarded", f)
		}
		if !f.clean && !f.known && got == verdictCorrupt && !(f.open && f.cutKnown) {
			t.Errorf("%+v: a torn tail is taken for corruption", f)
		}
		if f.clean && !f.atEnd && got != verdictCorrupt {
			t.Errorf("%+v: a clean log has no torn tail", f)
		}
	}
	for i, n := range used {
		if n == 0 {
			t.Errorf("row %d (%s) never matches", i, table[i].label)
		}
	}
}
