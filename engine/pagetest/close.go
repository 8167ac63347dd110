package pagetest

import (
	"testing"

	"pagecache/engine"
)

// Store is an open page store or standalone log.
type Store interface {
	Close() error
	Stats() engine.Stats
}

// Close fails the test if a Tx of the store is still open. It then closes the store, which must succeed, and verifies
// all of its bytes with engine.Check, unless it was Temporary. o is what the store was opened with. Close waits up to
// five seconds for Txs and batches that are open.
func Close(t testing.TB, s Store, o *engine.Options) {
	t.Helper()
	st := s.Stats()
	if st.Txs.Open > 0 {
		t.Errorf("%d Txs are still open; the oldest has the timestamp %d and began %v ago", st.Txs.Open, st.Txs.Oldest,
			st.Txs.Age)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close store: %v", err)
		return
	}
	if o != nil && o.Temporary {
		return
	}
	report, err := engine.Check(st.Dir, o, func(problem error) { t.Errorf("check of the closed store: %v", problem) })
	if err != nil {
		t.Errorf("check of the closed store: %v", err)
	} else if report.Problems > 0 {
		t.Errorf("check of the closed store: %d problems", report.Problems)
	}
}
