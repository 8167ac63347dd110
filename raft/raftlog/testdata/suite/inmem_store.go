// This file takes the place of the one of its name in a copy of github.com/hashicorp/raft. So that package's own tests
// run on stores of Backing, not in memory.

package raft

import "fmt"

// Backed is a store of Backing.
type Backed interface {
	CommitTrackingLogStore
	MonotonicLogStore
	StableStore
}

// Backing opens an empty store. An external test file sets it.
var Backing func() (Backed, error)

// InmemStore is a store of Backing, with the name that the tests know.
type InmemStore struct{ b Backed }

// NewInmemStore opens a store of Backing.
func NewInmemStore() *InmemStore {
	b, err := Backing()
	if err != nil {
		panic(fmt.Sprintf("open store: %v", err))
	}
	return &InmemStore{b}
}

func (i *InmemStore) IsMonotonic() bool                      { return i.b.IsMonotonic() }
func (i *InmemStore) FirstIndex() (uint64, error)            { return i.b.FirstIndex() }
func (i *InmemStore) LastIndex() (uint64, error)             { return i.b.LastIndex() }
func (i *InmemStore) GetLog(index uint64, log *Log) error    { return i.b.GetLog(index, log) }
func (i *InmemStore) StoreLog(log *Log) error                { return i.b.StoreLog(log) }
func (i *InmemStore) StoreLogs(logs []*Log) error            { return i.b.StoreLogs(logs) }
func (i *InmemStore) DeleteRange(min, max uint64) error      { return i.b.DeleteRange(min, max) }
func (i *InmemStore) Set(key []byte, val []byte) error       { return i.b.Set(key, val) }
func (i *InmemStore) Get(key []byte) ([]byte, error)         { return i.b.Get(key) }
func (i *InmemStore) SetUint64(key []byte, val uint64) error { return i.b.SetUint64(key, val) }
func (i *InmemStore) GetUint64(key []byte) (uint64, error)   { return i.b.GetUint64(key) }

// InmemCommitTrackingStore is an InmemStore that tracks the commit index.
type InmemCommitTrackingStore struct{ InmemStore }

// NewInmemCommitTrackingStore opens a store of Backing.
func NewInmemCommitTrackingStore() *InmemCommitTrackingStore {
	return &InmemCommitTrackingStore{*NewInmemStore()}
}

func (i *InmemCommitTrackingStore) StageCommitIndex(index uint64) error {
	return i.b.StageCommitIndex(index)
}
func (i *InmemCommitTrackingStore) GetCommitIndex() (uint64, error) { return i.b.GetCommitIndex() }
