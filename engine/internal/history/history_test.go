package history

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func write(page int, v uint64) Op       { return Op{Page: page, Value: v} }
func read(page int, list ...uint64) Op  { return Op{Page: page, List: list} }
func txn(begin, end int64, o ...Op) Txn { return Txn{Ops: o, Begin: begin, End: end} }

// Each anomaly is found and named, and histories without one pass.
func TestAnomaliesAreFound(t *testing.T) {
	aborted := txn(0, 9, write(1, 1))
	aborted.Outcome = OutcomeAborted
	torn := txn(0, 9, read(1, 1), read(2))
	torn.Outcome = OutcomeAborted
	lost := txn(0, 1, write(1, 1))
	lost.Outcome = OutcomeLost
	for name, c := range map[string]struct {
		want string
		txns []Txn
	}{
		"nothing": {"", nil},
		"in order": {"", []Txn{txn(0, 1, write(1, 1)), txn(2, 3, read(1, 1), write(1, 2)),
			txn(4, 5, read(1, 1, 2))}},
		"concurrent":          {"", []Txn{txn(0, 9, write(1, 1)), txn(0, 9, read(1)), txn(0, 9, read(1, 1))}},
		"own append":          {"", []Txn{txn(0, 1, read(1), write(1, 1), read(1, 1))}},
		"own append not read": {"own appends", []Txn{txn(0, 1, write(1, 1), read(1))}},
		"lost":                {"", []Txn{lost, txn(2, 3, read(1))}},
		"twice":               {"append 1", []Txn{txn(0, 1, write(1, 1)), txn(0, 1, write(2, 1))}},
		"from nowhere":        {"nobody appended", []Txn{txn(0, 1, read(1, 7))}},
		"changed":             {"has changed", []Txn{txn(0, 9, write(1, 1)), txn(0, 9, read(1), read(1, 1))}},
		"two orders": {"incompatible", []Txn{txn(0, 9, write(1, 1)), txn(0, 9, write(1, 2)), txn(0, 9, read(1, 1, 2)),
			txn(0, 9, read(1, 2))}},
		"G1a": {"G1a", []Txn{aborted, txn(0, 9, read(1, 1))}},
		"G1b": {"G1b", []Txn{txn(0, 9, write(1, 1), write(1, 2)), txn(0, 9, read(1, 1))}},
		"G0": {"G0", []Txn{txn(0, 9, write(1, 1), write(2, 2)), txn(0, 9, write(1, 3), write(2, 4)),
			txn(0, 9, read(1, 1, 3)), txn(0, 9, read(2, 4, 2))}},
		"G1c": {"G1c", []Txn{txn(0, 9, write(1, 1), read(2, 2)), txn(0, 9, write(2, 2), read(1, 1))}},
		"G-single": {"G-single", []Txn{txn(0, 9, write(1, 1), write(2, 2)), txn(0, 9, read(1, 1), read(2)),
			txn(0, 9, read(2, 2))}},
		"write skew": {"G2", []Txn{txn(0, 9, read(1), write(2, 2)), txn(0, 9, read(2), write(1, 1)),
			txn(0, 9, read(1, 1), read(2, 2))}},
		"stale read": {"G-single, real time", []Txn{txn(0, 1, write(1, 1)), txn(2, 3, read(1)),
			txn(0, 9, read(1, 1))}},
		"lost update":  {"real time", []Txn{txn(0, 1, write(1, 1)), txn(2, 3, write(1, 2)), txn(4, 5, read(1, 2))}},
		"not opaque":   {"G-single", []Txn{txn(0, 9, write(1, 1), write(2, 2)), torn, txn(0, 9, read(2, 2))}},
		"back in time": {"real time", []Txn{txn(0, 9, write(1, 1)), txn(1, 2, read(1, 1)), txn(3, 4, read(1))}},
	} {
		err := Check(c.txns)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Serial executions pass, and one wrong list in them does not.
func TestSerialExecutionsPass(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pages, value := map[int][]uint64{}, uint64(0)
		var txns []Txn
		for i := range int64(200) {
			var ops []Op
			for range 1 + rng.IntN(4) {
				page := rng.IntN(5)
				if rng.IntN(2) == 0 {
					value++
					pages[page] = append(pages[page], value)
					ops = append(ops, write(page, value))
				} else {
					ops = append(ops, read(page, pages[page][:len(pages[page]):len(pages[page])]...))
				}
			}
			txns = append(txns, txn(i*10-rng.Int64N(40), i*10+9+rng.Int64N(40), ops...))
		}
		if err := Check(txns); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range txns { // the reader of a late list finds one that is too short
			if op := &txns[len(txns)-1-i].Ops[0]; op.Value == 0 && len(op.List) > 20 {
				op.List = op.List[:len(op.List)-20]
				break
			}
		}
		if Check(txns) == nil {
			t.Errorf("seed %d: a stale list was not noticed", seed)
		}
	}
}
