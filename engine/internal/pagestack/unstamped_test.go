package pagestack

import "testing"

// An entry passes from unstamped to settled at once, or through stamping. In all states its timestamp and depth are the
// same, and it refers to the entry that it has replaced until it is settled.
func TestStatesOfAStamp(t *testing.T) {
	below := NewFree(8, 64, ptrAt(64, 24))
	unstamped := func(k Kind) *Head {
		h := &New[[]byte](k, 9, 1, 128, ptrAt(128, 24)).Head
		if k == KindDelta {
			h = &NewDelta(below, []byte("a"), 128, ptrAt(128, 24)).Head
		}
		if h.IsUnstamped() || !h.Settle() || h.BeginStamping() {
			t.Fatalf("a new %v is not settled", k)
		}
		if h.SetUnstamped(below); !h.IsUnstamped() || h.IsStamping() {
			t.Fatalf("a %v did not become unstamped", k)
		}
		return h
	}
	settled := func(h *Head, keeps bool) {
		t.Helper()
		ts, ok := h.SettledTS()
		if ts != 9 || !ok || h.TS() != 9 || h.IsUnstamped() || h.IsStamping() || h.BeginStamping() || !h.Settle() {
			t.Fatalf("the %v is not settled, with timestamp %d", h.Kind(), ts)
		}
		if (h.Replaced() != nil) != keeps {
			t.Fatalf("the settled %v keeps the entry that it has replaced: %v", h.Kind(), !keeps)
		}
	}
	for _, k := range []Kind{KindBase, KindDelta, KindCounter} {
		h := unstamped(k)
		if !h.Settle() {
			t.Fatalf("an unstamped %v was not settled", k)
		}
		settled(h, k == KindDelta)

		h = unstamped(k)
		if h.EndStamping(); !h.IsUnstamped() {
			t.Fatalf("a %v that was not stamping was settled", k)
		}
		for range 2 {
			if !h.BeginStamping() || !h.IsStamping() || h.Settle() {
				t.Fatalf("the %v is not stamping", k)
			}
		}
		if h.Replaced() != below || h.TS() != 9 {
			t.Fatalf("a stamping %v with timestamp %d has lost the entry that it has replaced", k, h.TS())
		}
		for range 2 {
			h.EndStamping()
			settled(h, k == KindDelta)
		}
	}
}
