package engine

import (
	"testing"
)

// openEvicted opens a store of count pages of size bytes each, none of them resident.
func openEvicted(t testing.TB, count, size int, o *Options) (*PageCache[[]byte], []PageID) {
	t.Helper()
	pc, err := Open(t.TempDir(), Bytes{}, o)
	if err != nil {
		t.Fatal(err)
	}
	tx := begin(t, pc)
	pids := make([]PageID, count)
	for i := range pids {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(i + j)
		}
		if pids[i], _, err = pc.Allocate(tx, b); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
	evictAll(t, pc, pids)
	return pc, pids
}

// evictAll evicts the pages.
func evictAll(t testing.TB, pc *PageCache[[]byte], pids []PageID) {
	tx := begin(t, pc)
	defer tx.End()
	for _, pid := range pids {
		pc.mem.evict(tx.base(), pid, true)
	}
}

// BenchmarkWarmPull measures reading a page of one message, which the kernel's page cache holds, as a view.
func BenchmarkWarmPull(b *testing.B) {
	const count, size = 10_000, 1 << 10
	pc, pids := openEvicted(b, count, size, nil)
	defer closeTest(b, pc)
	tx := begin(b, pc)
	get := func(pid PageID) {
		if p, err := pc.Get(tx, pid); err != nil || len(p.Value) != size {
			b.Fatalf("page %d has %d bytes, want %d, error %v", pid, len(p.Value), size, err)
		}
	}
	for _, pid := range pids {
		get(pid)
	}
	b.ReportAllocs()
	i := count
	for b.Loop() {
		if i == count {
			b.StopTimer()
			evictAll(b, pc, pids)
			i = 0
			b.StartTimer()
		}
		get(pids[i*7919%count]) // 7919 and count are coprime: each page once
		i++
	}
	tx.End()
}
