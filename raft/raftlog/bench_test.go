package raftlog_test

import (
	"testing"

	"github.com/hashicorp/raft"
	raftbench "github.com/hashicorp/raft/bench"

	"pagecache/raft/raftlog"
)

// benchStore opens a store with the default options.
func benchStore(b *testing.B) *raftlog.Store {
	b.Helper()
	s, err := raftlog.Open(b.TempDir()+"/raft", nil)
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	return s
}

// fromZero is a store whose first index is 0 for the caller, as raft's benchmarks have it.
type fromZero struct{ *raftlog.Store }

func (s fromZero) StoreLog(l *raft.Log) error {
	c := *l
	c.Index++
	return s.Store.StoreLog(&c)
}

// dense is a store for the entries 10·n, 10·n + 1 and 10·n + 2 of raft's benchmark of DeleteRange.
type dense struct{ *raftlog.Store }

func (s dense) StoreLogs(logs []*raft.Log) error {
	for _, l := range logs {
		l.Index = l.Index/10*3 + l.Index%10 + 1
	}
	return s.Store.StoreLogs(logs)
}

func (s dense) DeleteRange(min, _ uint64) error { return s.Store.DeleteRange(min/10*3+1, min/10*3+3) }

// The benchmarks of package raft.
func BenchmarkRaft(b *testing.B) {
	b.Run("FirstIndex", func(b *testing.B) { raftbench.FirstIndex(b, benchStore(b)) })
	b.Run("LastIndex", func(b *testing.B) { raftbench.LastIndex(b, benchStore(b)) })
	b.Run("GetLog", func(b *testing.B) { raftbench.GetLog(b, benchStore(b)) })
	b.Run("StoreLog", func(b *testing.B) { raftbench.StoreLog(b, fromZero{benchStore(b)}) })
	b.Run("StoreLogs", func(b *testing.B) { raftbench.StoreLogs(b, benchStore(b)) })
	b.Run("DeleteRange", func(b *testing.B) { raftbench.DeleteRange(b, dense{benchStore(b)}) })
	b.Run("Set", func(b *testing.B) { raftbench.Set(b, benchStore(b)) })
	b.Run("Get", func(b *testing.B) { raftbench.Get(b, benchStore(b)) })
	b.Run("SetUint64", func(b *testing.B) { raftbench.SetUint64(b, benchStore(b)) })
	b.Run("GetUint64", func(b *testing.B) { raftbench.GetUint64(b, benchStore(b)) })
}
