//go:build !abtest

package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"pagecache/raft/raftlog"
)

// raftStore is a log of raft.
type raftStore interface {
	raft.LogStore
	Close() error
}

// walStore is a raft-wal.
type walStore struct {
	raft.LogStore
	log *RaftWAL
}

func (s walStore) Close() error { return s.log.Close() }

// raftStores open a raftlog.Store and a raft-wal, in this order.
var raftStores = [2]func(dir string) (raftStore, error){
	func(dir string) (raftStore, error) { return raftlog.Open(dir, nil) },
	func(dir string) (raftStore, error) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		l, err := OpenRaftWAL(dir)
		if err != nil {
			return nil, err
		}
		return walStore{l.WAL, l}, nil
	},
}

// raftPair is a raftlog.Store and a raft-wal that do the same in turns.
type raftPair struct {
	b      *testing.B
	dirs   [2]string
	stores [2]raftStore
	next   [2]uint64 // the index of the next entry
	times  [2][]time.Duration
	floor  *os.File        // nil if no floor is measured
	floors []time.Duration // of the turns
	wrote  int64           // bytes, to floor
}

// newRaftPair returns a pair with new logs in dir.
func newRaftPair(b *testing.B, dir string) *raftPair {
	p := &raftPair{b: b, next: [2]uint64{1, 1}}
	in, err := os.MkdirTemp(dir, "")
	p.must(err)
	for i, name := range []string{"raftlog", "raft-wal"} {
		p.dirs[i] = filepath.Join(in, name)
	}
	p.open()
	return p
}

func (p *raftPair) must(err error) {
	p.b.Helper()
	if err != nil {
		p.b.Fatal(err)
	}
}

func (p *raftPair) open() {
	for i := range p.stores {
		var err error
		p.stores[i], err = raftStores[i](p.dirs[i])
		p.must(err)
	}
}

func (p *raftPair) close() {
	for _, s := range p.stores {
		p.must(s.Close())
	}
}

// store stores n entries of size bytes at the end of the i-th store, in one call.
func (p *raftPair) store(i, n, size int) {
	p.must(p.stores[i].StoreLogs(p.logs(i, n, size)))
}

// logs returns the next n entries of the i-th store.
func (p *raftPair) logs(i, n, size int) []*raft.Log {
	logs := make([]*raft.Log, n)
	data := make([]byte, size)
	for k := range logs {
		logs[k] = &raft.Log{Index: p.next[i], Term: 1, Data: data, AppendedAt: time.Unix(1_700_000_000, 0)}
		p.next[i]++
	}
	return logs
}

// turn measures n calls of f for each store. before prepares them.
func (p *raftPair) turn(n int, before, f func(i int)) {
	order := [2]int{0, 1}
	if len(p.times[0])%2 == 1 {
		order = [2]int{1, 0}
	}
	for _, i := range order {
		var took time.Duration
		for range n {
			if before != nil {
				before(i)
			}
			start := time.Now()
			f(i)
			took += time.Since(start)
		}
		p.times[i] = append(p.times[i], took/time.Duration(n))
	}
}

// beside opens the file that write writes to: directly, durably, and to space that was written before. No log stores or
// deletes anything in less time than such a write takes.
func (p *raftPair) beside(dir string) (end func()) {
	f, err := openDirect(filepath.Join(dir, "floor"), unix.O_DSYNC)
	p.must(err)
	for b := aligned(floorSpace / 8); p.wrote < floorSpace; p.wrote += int64(len(b)) {
		_, err := f.WriteAt(b, p.wrote)
		p.must(err)
	}
	p.floor = f
	return func() { p.must(f.Close()) }
}

// floorSpace is the length of the file of a floor in bytes. The writes begin again at its end.
const floorSpace = 64 << 20

// write measures n durable writes of size bytes.
func (p *raftPair) write(n, size int) {
	b := aligned(size)
	start := time.Now()
	for range n {
		_, err := p.floor.WriteAt(b, p.wrote%floorSpace)
		p.must(err)
		p.wrote += int64(size)
	}
	p.floors = append(p.floors, time.Since(start)/time.Duration(n))
}

// report reports the medians of the turns, their ratio, and that of the floor.
func (p *raftPair) report() {
	median := func(t []time.Duration) float64 {
		slices.Sort(t)
		return float64(t[len(t)/2])
	}
	ours, theirs := median(p.times[0]), median(p.times[1])
	p.b.ReportMetric(0, "ns/op") // it would be of both
	p.b.ReportMetric(ours, "raftlog-ns")
	p.b.ReportMetric(theirs, "raft-wal-ns")
	p.b.ReportMetric(ours/theirs, "ratio")
	if p.floor != nil {
		floor := median(p.floors)
		p.b.ReportMetric(floor, "floor-ns")
		p.b.ReportMetric(floor/theirs, "floor-ratio")
	}
}

// The calls of raftlog and raft-wal in turns, on new logs with their default options. Each turn is some calls of each;
// the figures are medians of turns. The floor is one durable write of the same length, at least a block. The files
// are removed at the end of all: a file system may tell the disk which blocks are free again, and then the disk is slow
// for a while.
func BenchmarkRaftLog(b *testing.B) {
	dir := b.TempDir()
	for _, n := range []int{1, 16, 64} {
		for _, size := range []int{128, 1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("store/entries=%d/bytes=%d", n, size), func(b *testing.B) {
				p := newRaftPair(b, dir)
				defer p.close()
				defer p.beside(b.TempDir())()
				for b.Loop() {
					var logs []*raft.Log
					p.turn(10, func(i int) { logs = p.logs(i, n, size) },
						func(i int) { p.must(p.stores[i].StoreLogs(logs)) })
					p.write(10, max(4096, n*size))
				}
				p.report()
			})
		}
	}
	b.Run("get", func(b *testing.B) {
		p := newRaftPair(b, dir)
		defer p.close()
		const n = 100_000
		for i := range p.stores {
			for range n / 1000 {
				p.store(i, 1000, 128)
			}
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for b.Loop() {
			var l raft.Log
			p.turn(1000, nil, func(i int) {
				if err := p.stores[i].GetLog(1+rng.Uint64N(n), &l); err != nil { // must would take as long as a read
					b.Fatal(err)
				}
			})
		}
		p.report()
	})
	for _, what := range []string{"front", "back", "all"} {
		b.Run("delete/"+what, func(b *testing.B) {
			p := newRaftPair(b, dir)
			defer p.close()
			defer p.beside(b.TempDir())()
			const kept, n = 10_000, 1000
			for i := range p.stores {
				p.store(i, kept, 128)
			}
			for b.Loop() {
				p.turn(1, func(i int) { p.store(i, n, 128) }, func(i int) {
					last := p.next[i] - 1
					switch what {
					case "front":
						p.must(p.stores[i].DeleteRange(1, last-kept))
					case "back":
						p.must(p.stores[i].DeleteRange(last-n+1, last))
						p.next[i] -= n
					case "all":
						p.must(p.stores[i].DeleteRange(1, last))
					}
				})
				p.write(1, 4096)
			}
			p.report()
		})
	}
}

// Opening 1 000 000 entries of 128 bytes, after a clean close and after a kill: a copy of the files of an open store.
func BenchmarkRaftLogReopen(b *testing.B) {
	p := newRaftPair(b, b.TempDir())
	for i := range p.stores {
		for range 1000 {
			p.store(i, 1000, 128)
		}
	}
	killed := b.TempDir()
	for i, dir := range p.dirs {
		p.must(os.CopyFS(filepath.Join(killed, fmt.Sprint(i)), os.DirFS(dir)))
	}
	p.close()
	reopen := func(b *testing.B, dir func(i int) string) {
		p.b, p.times = b, [2][]time.Duration{}
		for b.Loop() {
			var in string
			p.turn(1, func(i int) { in = dir(i) }, func(i int) {
				s, err := raftStores[i](in)
				p.must(err)
				p.stores[i] = s
				if last, err := s.LastIndex(); err != nil || last != p.next[i]-1 {
					b.Fatalf("the last entry is %d, %v, want %d", last, err, p.next[i]-1)
				}
			})
			p.close()
		}
		p.report()
	}
	b.Run("clean", func(b *testing.B) { reopen(b, func(i int) string { return p.dirs[i] }) })
	b.Run("killed", func(b *testing.B) {
		again := b.TempDir()
		n := 0
		reopen(b, func(i int) string {
			n++
			dir := filepath.Join(again, fmt.Sprint(n))
			p.must(os.CopyFS(dir, os.DirFS(filepath.Join(killed, fmt.Sprint(i)))))
			unix.Sync() // only processes are killed here
			return dir
		})
	})
}

// 64 groups, each with a goroutine that stores entries of 128 bytes one by one: in one raftlog.Multi, and in a raft-wal
// each. Each turn is a second of each.
func BenchmarkRaftLogGroups(b *testing.B) {
	const groups = 64
	p := newRaftPair(b, b.TempDir())
	p.close()
	m, err := raftlog.OpenMulti(filepath.Join(b.TempDir(), "multi"), nil)
	p.must(err)
	var sets [2][groups]raftStore
	for id := range groups {
		s, err := m.Group(raftlog.GroupID(id))
		p.must(err)
		sets[0][id] = s
		sets[1][id], err = raftStores[1](filepath.Join(b.TempDir(), fmt.Sprint("wal", id)))
		p.must(err)
	}
	var next [2][groups]uint64
	rates := [2][]float64{}
	second := func(i int) float64 {
		var wg sync.WaitGroup
		var counts [groups]int
		start := time.Now()
		for id, s := range sets[i] {
			wg.Go(func() {
				for time.Since(start) < time.Second {
					next[i][id]++
					if err := s.StoreLog(&raft.Log{Index: next[i][id], Term: 1, Data: make([]byte, 128)}); err != nil {
						b.Error(err)
						return
					}
					counts[id]++
				}
			})
		}
		wg.Wait()
		n := 0
		for _, c := range counts {
			n += c
		}
		return float64(n) / time.Since(start).Seconds()
	}
	for b.Loop() {
		for i := range sets {
			rates[i] = append(rates[i], second(i))
		}
	}
	for i := range sets {
		slices.Sort(rates[i])
		for _, s := range sets[i] {
			p.must(s.Close())
		}
	}
	p.must(m.Close())
	ours, theirs := rates[0][len(rates[0])/2], rates[1][len(rates[1])/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours, "raftlog-entries/s")
	b.ReportMetric(theirs, "raft-wal-entries/s")
	b.ReportMetric(ours/theirs, "ratio")
}
