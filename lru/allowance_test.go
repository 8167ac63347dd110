package lru

import "testing"

// An allowance grants its share of what callers write, long chains before short ones, and saves up a limited part.
func TestAllowance(t *testing.T) {
	var now Activity
	activity := func() Activity { return now }
	ask := func(a *Allowance, size int64, fewer int) bool {
		for range recount {
			if a.Allow(size, fewer, activity) {
				return true
			}
		}
		return false
	}
	a := NewAllowance(10, NewBudget(1<<20))
	if ask(a, 1, longChain) {
		t.Error("allowed before anything was written")
	}
	now.Written = 10_000
	if !ask(a, 1000, longChain) {
		t.Error("a long chain was refused")
	}
	if ask(a, 1000, longChain-1) || ask(a, 501, longChain/2) || !ask(a, 500, longChain/2) || ask(a, 126, 1) {
		t.Error("a short chain was not granted the share of its length")
	}
	a.Wrote(600)
	if ask(a, 401, 1000) || !ask(a, 400, 1000) {
		t.Error("bytes that were written do not count")
	}
	now.Written = 1 << 40
	if ask(a, savedLeast+1, longChain) || !ask(a, savedLeast, longChain) {
		t.Error("more is saved up than the limit, or less")
	}
	if a.Wrote(1 << 20); a.Written() != 600+1<<20 || ask(a, 1, longChain) {
		t.Errorf("%d bytes written, want %d, and none left", a.Written(), 600+1<<20)
	}
	if none := NewAllowance(-1, NewBudget(1<<20)); ask(none, 1, longChain) {
		t.Error("a negative percentage allows something")
	}
}

// While callers read and write next to nothing, there is no limit.
func TestAllowanceWhileCalm(t *testing.T) {
	var now Activity
	a := NewAllowance(10, NewBudget(1<<20))
	ask := func() (allowed bool) {
		for range recount {
			allowed = a.Allow(1<<30, 1, func() Activity { return now })
		}
		return allowed
	}
	for i, step := range []struct {
		written, misses int64
		want            bool
	}{
		{0, 0, false},
		{5000, calmMisses, false},
		{0, calmMisses - 1, false}, // too few to decide
		{0, 1, true},
		{calmMisses, calmMisses, false},
		{calmMisses - 1, calmMisses, true},
		{1 << 20, 10, true}, // decided later
		{0, calmMisses, false},
	} {
		now.Written, now.Misses = now.Written+step.written, now.Misses+step.misses
		if got := ask(); got != step.want {
			t.Errorf("step %d: allowed %v, want %v", i, got, step.want)
		}
	}
}
