package lru

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestFullHitsOverwriteOldKeys(t *testing.T) {
	var h Hits
	for key := range uint64(HitsLen) {
		if full := h.Add(key); full != (key == HitsLen-1) {
			t.Fatalf("full is %v after %d keys", full, key+1)
		}
	}
	if held := h.held(); len(held) != HitsLen || held[0] != 0 || held[HitsLen-1] != HitsLen-1 {
		t.Errorf("held %v", held)
	}
	if !h.Add(100) || len(h.held()) != HitsLen || h.held()[0] != 100 {
		t.Errorf("after one key more: %v", h.held())
	}
}

// The compiler inlines Add: recording a hit takes a few instructions. Proves U3.
func TestHitsAddIsInlined(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "build", "-gcflags=-m", ".").CombinedOutput()
	if err != nil {
		t.Skipf("go build: %v", err)
	}
	if !strings.Contains(string(out), "can inline (*Hits).Add") {
		t.Errorf("Add does not inline:\n%s", out)
	}
}

func BenchmarkAdd(b *testing.B) {
	b.ReportAllocs()
	var h Hits
	key := uint64(0)
	for b.Loop() {
		key++
		if h.Add(key) {
			h.n = 0
		}
	}
}

// BenchmarkTake measures Add and Take while the policy gets more hits than it feeds.
func BenchmarkTake(b *testing.B) {
	for _, active := range []bool{false, true} {
		b.Run(map[bool]string{false: "policy=idle", true: "policy=active"}[active], func(b *testing.B) {
			b.ReportAllocs()
			budget := NewBudget(1 << 20)
			s := newStore(budget, 1024)
			p := New(budget, s, Options{})
			defer p.Close()
			if active {
				for key := range uint64(1000) {
					s.set(&s.own, key, 1<<10)
				}
				p.Kick()
				eventually(b, "active", p.active.Load)
			}
			b.RunParallel(func(pb *testing.PB) {
				var h Hits
				for key := uint64(0); pb.Next(); key++ {
					if h.Add(key % 1000) {
						p.Take(&h)
					}
				}
			})
		})
	}
}
