package lru

import (
	"os/exec"
	"strings"
	"testing"
)

func TestHits(t *testing.T) {
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
		t.Errorf("a key too many: %v", h.held())
	}
}

// Recording is a few instructions where it is called. Proves L3.
func TestHitsInline(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package")
	}
	out, err := exec.Command("go", "build", "-gcflags=-m", ".").CombinedOutput()
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

// Adding and handing over, while the policy is busy with more than it can take.
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
				for !p.active.Load() {
				}
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
