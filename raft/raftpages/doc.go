// Package raftpages replicates a page store with hashicorp/raft: an FSM whose state is a page store of package engine.
//
//	fsm, err := raftpages.Open(dir, engine.Bytes{}, apply, nil)
//	r, err := fsm.NewRaft(conf, logs, logs, transport)
//
// The user's Apply changes pages in a transaction. Each batch of entries that raft hands over is one transaction, which
// also has the index of the last entry, so the store always knows which entries it has. It is written to the disk as
// any other transaction is, and nobody waits for that: raft's log has the entries.
//
// Guarantees:
//
//   - An entry is applied as a whole or not at all, once, and in order. After a crash or kill the store has the changes
//     of all entries up to some index, and of no other entry. That index is never below the newest snapshot's, up to
//     which raft deletes its log.
//   - An entry that Apply rejects changes nothing, wherever raft's batches begin and end. So nodes whose Apply is
//     deterministic have equal pages at equal indexes.
//   - After any other failure the FSM stops: no later entry is applied, and none is skipped. The next start goes on
//     where it stopped.
//   - A snapshot costs a flush. Nothing is copied, and no space is held, until another node needs it: then the store,
//     as it is at that moment, is streamed as a checkpoint (engine.Checkpoint), while entries are applied.
//   - A snapshot from another node is verified completely and durable before it takes the store's place. A crash leaves
//     the old store or the new one. A snapshot that is corrupt, or does not arrive completely, changes nothing.
//   - View shows the store as of one index. Read shows all that was acknowledged anywhere before it began.
//
// docs/REPLICATION.md describes how to use it.
package raftpages
