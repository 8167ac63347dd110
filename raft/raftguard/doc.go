// Package raftguard lets a leader of hashicorp/raft whose disk hangs lose the leadership.
//
//	guard := raftguard.New(conf.HeartbeatTimeout)
//	r, err := raft.NewRaft(conf, fsm, guard.Logs(store), store, snapshots, guard.Transport(transport))
//
// Raft stores a leader's entries in the goroutine that also watches whether the leader still works. Other goroutines
// send the heartbeats. So without a guard, a leader whose disk stops answering stays the leader for good: the others
// hear from it, elect nobody, and no change is made any more.
//
// Guarantee: while a call that stores entries has been waiting for longer than the limit, the node sends nothing as a
// leader. The others then elect a leader, as if the network had cut this one off, and it steps down when its disk
// answers again. A disk that is slow, but answers within the limit, changes nothing.
//
// raftpages.FSM.NewRaft has a guard with the heartbeat timeout as its limit.
package raftguard
