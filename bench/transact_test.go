//go:build !abtest

package bench

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pagecache/engine"
)

// transactors opens all stores that are Transactors, with room for a few pages.
func transactors(t *testing.T, o PeerOptions) map[string]Transactor {
	t.Helper()
	o.Cache, o.Buffer = 8<<20, 8<<20
	all := map[string]Transactor{}
	for _, p := range Peers() {
		if p.Name != "Badger" && p.Name != "bbolt" {
			continue
		}
		s, err := p.Open(t.TempDir(), o)
		if err != nil {
			t.Fatal(err)
		}
		all[p.Name] = s.(Transactor)
	}
	ours, err := OpenPagecache(t.TempDir(), 8, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all["pagecache"] = ours
	return all
}

// A transaction appends to the pages that it names, and to no other, in stores that are opened for durable writes and
// in others.
func TestTransactorsChangePages(t *testing.T) {
	for _, o := range []PeerOptions{{Goroutines: 1}, {Goroutines: 1, Sync: true}, {Goroutines: 4, Sync: true}} {
		for name, s := range transactors(t, o) {
			if err := Load(s, 6, 100); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			job := &Transaction{Pages: []int{4, 1, 2, 5}, Links: 2, Delta: []byte("12345678")}
			for _, durable := range []bool{false, true} {
				job.Durable = durable
				if n, err := s.Transact(job); n != 0 || err != nil {
					t.Fatalf("%s: %d conflicts, %v", name, n, err)
				}
			}
			for i, want := range []int{100, 116, 100, 100, 116, 100} {
				if n, err := s.Get(i); n != want || err != nil {
					t.Errorf("%s: page %d has %d bytes, want %d, %v", name, i, n, want, err)
				}
			}
			if ours, ok := s.(*Pagecache); ok {
				if err := ours.View([]int{0, 4, 1}); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// No change of transactions that run at the same time on the same few pages is lost: the pages grow by what the
// transactions append, and those that conflict begin anew.
func TestTransactorsLoseNothing(t *testing.T) {
	const goroutines, each, count = 4, 50, 8
	for name, s := range transactors(t, PeerOptions{Goroutines: goroutines}) {
		if err := Load(s, count, 100); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var conflicts atomic.Int64
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(g)))
				for range each {
					job := &Transaction{Pages: rng.Perm(count)[:4], Links: 2, Delta: []byte{byte(g)}}
					n, err := s.Transact(job)
					if conflicts.Add(int64(n)); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
		wg.Wait()
		sum := 0
		for i := range count {
			n, err := s.Get(i)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			sum += n - 100
		}
		if want := goroutines * each * 2; sum != want {
			t.Errorf("%s: the pages have grown by %d bytes, want %d", name, sum, want)
		}
		t.Logf("%s: %d conflicts", name, conflicts.Load())
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
