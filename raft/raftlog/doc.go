// Package raftlog keeps the log, the votes and the terms of hashicorp/raft in a standalone log of package engine.
//
//	store, err := raftlog.Open(dir, nil)
//	r, err := raft.NewRaft(conf, fsm, store, store, snapshots, transport)
//
// A Store implements raft.LogStore, raft.StableStore, raft.MonotonicLogStore and raft.CommitTrackingLogStore. A Multi
// keeps many Stores, each for one raft group, in one log: they share its file, its flushes and its memory.
//
// Guarantees:
//
//   - Entries that StoreLog or StoreLogs has stored, and values that Set or SetUint64 has set, survive any crash, kill
//     or power cut. Of a call that a crash has interrupted, all entries are there afterwards or none; of one with more
//     bytes than a segment, the first ones may be there. A single entry is there as a whole or not at all.
//   - Entries are gone for good once DeleteRange has returned, also if other entries got their indexes.
//   - Corrupt entries are errors that wrap engine.ErrCorrupt. They are never raft.ErrLogNotFound, and never skipped.
//   - Nothing stays in memory for an entry. Keys and their values do.
//   - On a full disk, StoreLogs fails with engine.ErrNoSpace and leaves nothing behind. With the default segments,
//     votes and terms can be set some hundred times. DeleteRange frees space, and the log goes on without being opened
//     again.
//
// docs/REPLICATION.md describes how to use it.
package raftlog
