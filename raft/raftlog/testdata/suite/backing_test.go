package raft_test

import (
	"sync/atomic"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

var disks atomic.Uint64

func init() {
	raft.Backing = func() (raft.Backed, error) {
		o := pagetest.NewDisk(disks.Add(1)).Options(&engine.Options{SegmentSize: 64 << 10, FlushEvery: -1})
		return raftlog.Open("/raft", &raftlog.Options{Log: o})
	}
}
