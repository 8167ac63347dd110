package rafttest

import "github.com/hashicorp/raft"

// Connect connects a node with others, in both directions. Nodes that are nil are left out.
func Connect(t *raft.InmemTransport, others ...*raft.InmemTransport) {
	for _, o := range others {
		if o != nil && o != t {
			t.Connect(o.LocalAddr(), o)
			o.Connect(t.LocalAddr(), t)
		}
	}
}

// Disconnect ends the connections of a node with others.
func Disconnect(t *raft.InmemTransport, others ...*raft.InmemTransport) {
	for _, o := range others {
		if o != nil && o != t {
			o.Disconnect(t.LocalAddr())
		}
	}
	t.DisconnectAll()
}
