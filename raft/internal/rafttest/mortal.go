package rafttest

import (
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"pagecache/raft/raftlog"
)

// Mortal is the log of a node that can be killed. Once it was, each goroutine of raft ends at its next call, or at the
// one that it is in: it never sees what a dead disk answers.
type Mortal struct {
	*raftlog.Store
	dead *atomic.Bool // set by Kill; it publishes nothing
}

// NewMortal returns the log of a node that starts.
func NewMortal(s *raftlog.Store) Mortal { return Mortal{s, new(atomic.Bool)} }

// Kill kills the node.
func (m Mortal) Kill() { m.dead.Store(true) }

// Dead reports whether the node was killed.
func (m Mortal) Dead() bool { return m.dead.Load() }

// alive ends the goroutine if the node was killed.
func (m Mortal) alive() {
	if m.Dead() {
		runtime.Goexit()
	}
}

// FirstIndex implements raft.LogStore.
func (m Mortal) FirstIndex() (uint64, error) {
	defer m.alive()
	return m.Store.FirstIndex()
}

// LastIndex implements raft.LogStore.
func (m Mortal) LastIndex() (uint64, error) {
	defer m.alive()
	return m.Store.LastIndex()
}

// GetLog implements raft.LogStore.
func (m Mortal) GetLog(index uint64, l *raft.Log) error {
	defer m.alive()
	return m.Store.GetLog(index, l)
}

// StoreLog implements raft.LogStore.
func (m Mortal) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (m Mortal) StoreLogs(logs []*raft.Log) error {
	defer m.alive()
	return m.Store.StoreLogs(logs)
}

// DeleteRange implements raft.LogStore.
func (m Mortal) DeleteRange(min, max uint64) error {
	defer m.alive()
	return m.Store.DeleteRange(min, max)
}

// Set implements raft.StableStore.
func (m Mortal) Set(key, val []byte) error {
	defer m.alive()
	return m.Store.Set(key, val)
}

// SetUint64 implements raft.StableStore.
func (m Mortal) SetUint64(key []byte, val uint64) error {
	defer m.alive()
	return m.Store.SetUint64(key, val)
}
