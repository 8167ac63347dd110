// Package rafttest helps to test clusters of raft in one process: nodes that are killed, networks that are cut, and
// simulated disks that are slow, hang, tear writes, or are full. Only tests import it.
package rafttest
