package recovery

import "testing"

// proves rule 10: exactly one row of the table speaks for every combination of facts.
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
			t.Errorf("%+v: stable data is dropped", f)
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
