package bench

import (
	"fmt"
	"runtime"
	"slices"
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
				s, err = OpenPebble(b.TempDir(), PeerOptions{})
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
						var used Sampler
						used.Restart()
						b.ResetTimer()
						if _, err := Run(l, int64(b.N), func(w *Worker) error { return op(s, w) }, nil); err != nil {
							b.Fatal(err)
						}
						b.StopTimer()
						if shares := used.Stop(); shares != nil { // nil with -cpuprofile, too
							b.ReportMetric(shares[Cleaner], "cleaner-%")
							b.ReportMetric(shares[Collector], "collector-%")
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

// The stores agree on the sizes of the pages after the same writes, also with the settings for commits.
func TestStoresAgree(t *testing.T) {
	peers := append(Peers(), Peer{Name: "pagecache", Open: func(dir string, _ PeerOptions) (Store, error) {
		return OpenPagecache(dir, agreePages, engine.Options{SegmentSize: 64 << 10})
	}})
	for _, p := range peers {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			agree(t, p, PeerOptions{Cache: 16 << 20}, 4000)
			agree(t, p, PeerOptions{Cache: 16 << 20, Sync: true, Goroutines: 4}, 100)
		})
	}
}

const agreePages = 50

// agree links deltas to pages, and compares the lengths of the pages.
func agree(t *testing.T, p Peer, o PeerOptions, links int) {
	t.Helper()
	const size, delta = 100, 7
	s, err := p.Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := Load(s, agreePages, size); err != nil {
		t.Fatal(err)
	}
	l := Workload{Goroutines: 4, Pages: agreePages, Value: delta, Seed: 3}
	r, err := Run(l, int64(links), func(w *Worker) error { return s.Link(w.Page(), w.Values.Next()) }, s.Flush)
	if err != nil || r.Ops != int64(links) {
		t.Fatalf("%d operations: %v", r.Ops, err)
	}
	if err := s.Commit(0, make([]byte, delta)); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for i := range agreePages {
		n, err := s.Get(i)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if want := agreePages*size + (links+1)*delta; sum != want {
		t.Errorf("%d bytes, want %d", sum, want)
	}
	if err := s.Replace(1, make([]byte, 2*size)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Get(1); n != 2*size || err != nil {
		t.Errorf("a page of %d bytes, want %d: %v", n, 2*size, err)
	}
}

// The logs agree on the number of records, before and after they are closed.
func TestLogsAgree(t *testing.T) {
	for name, open := range map[string]func(dir string) (Log, error){
		"pagecache": func(dir string) (Log, error) { return OpenPagecacheLog(dir) },
		"raft-wal":  func(dir string) (Log, error) { return OpenRaftWAL(dir) },
	} {
		dir := t.TempDir()
		for want := 20; want <= 60; want += 20 {
			l, err := open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := l.Append(slices.Repeat([][]byte{make([]byte, 100)}, 10)); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := l.Scan(); err != nil || n != want {
				t.Errorf("%s: %d records, want %d: %v", name, n, want, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
