package bench

import (
	"fmt"
	"runtime"
	"testing"

	"pagecache/engine"
)

const benchPages = 100_000

// eachStore runs f for each store, fresh and loaded with pages of 1 KiB.
func eachStore(b *testing.B, f func(b *testing.B, s Store)) {
	for _, name := range []string{"pagecache", "pebble"} {
		b.Run("store="+name, func(b *testing.B) {
			var s Store
			var err error
			if name == "pebble" {
				s, err = OpenPebble(b.TempDir())
			} else {
				s, err = OpenPagecache(b.TempDir(), benchPages, engine.Options{})
			}
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			}()
			if err := Load(s, benchPages, 1<<10); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			f(b, s)
		})
	}
}

// sweep runs op with each combination of value size, distribution and number of goroutines.
func sweep(b *testing.B, values, threads []int, op func(s Store, w *Worker) error) {
	eachStore(b, func(b *testing.B, s Store) {
		for _, value := range values {
			for _, dist := range []string{"uniform", "zipf"} {
				for _, n := range threads {
					b.Run(fmt.Sprintf("value=%d/dist=%s/threads=%d", value, dist, n), func(b *testing.B) {
						l := Workload{Goroutines: n, Pages: benchPages, Value: value, Seed: 1}
						if dist == "zipf" {
							l.Zipf = 1.1
						}
						b.ReportAllocs()
						b.SetBytes(int64(value))
						b.ResetTimer()
						if _, err := Run(l, int64(b.N), func(w *Worker) error { return op(s, w) }, nil); err != nil {
							b.Fatal(err)
						}
					})
				}
			}
		}
	})
}

var fewThreads = []int{1, 2, 8}

func BenchmarkLink(b *testing.B) {
	sweep(b, []int{64, 256}, fewThreads, func(s Store, w *Worker) error { return s.Link(w.Page(), w.Values.Next()) })
}

func BenchmarkReplace(b *testing.B) {
	sweep(b, []int{64, 1024}, fewThreads, func(s Store, w *Worker) error {
		return s.Replace(w.Page(), w.Values.Next())
	})
}

func BenchmarkCommit(b *testing.B) {
	sweep(b, []int{64}, []int{1, 8, 64}, func(s Store, w *Worker) error { return s.Commit(w.Page(), w.Values.Next()) })
}

func BenchmarkGet(b *testing.B) {
	sweep(b, []int{1024}, fewThreads, func(s Store, w *Worker) error {
		_, err := s.Get(w.Page())
		return err
	})
}

// The stores agree on the sizes of the pages after the same writes.
func TestStoresAgree(t *testing.T) {
	const pages, size, delta = 50, 100, 7
	ours, err := OpenPagecache(t.TempDir(), pages, engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := OpenPebble(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Store{ours, theirs} {
		if err := Load(s, pages, size); err != nil {
			t.Fatal(err)
		}
		l := Workload{Goroutines: 4, Pages: pages, Value: delta, Seed: 3}
		r, err := Run(l, 4000, func(w *Worker) error { return s.Link(w.Page(), w.Values.Next()) }, s.Flush)
		if err != nil || r.Ops != 4000 {
			t.Fatalf("%d operations: %v", r.Ops, err)
		}
		if err := s.Commit(0, make([]byte, delta)); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for i := range pages {
			n, err := s.Get(i)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		if want := pages*size + 4001*delta; sum != want {
			t.Errorf("%T holds %d bytes, want %d", s, sum, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
