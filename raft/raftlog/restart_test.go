package raftlog_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/raft/raftlog"
)

// begin starts the only member of a group on a store, and bootstraps the group if the store is empty.
func begin(t *testing.T, s *raftlog.Store, change func(*raft.Config)) *raft.Raft {
	t.Helper()
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = "node 1", hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout = 50*time.Millisecond, 50*time.Millisecond
	conf.LeaderLeaseTimeout = 50 * time.Millisecond
	if change != nil {
		change(conf)
	}
	_, trans := raft.NewInmemTransport("node 1")
	snaps := raft.NewInmemSnapshotStore()
	members := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: "node 1"}}}
	if first, _ := bounds(t, s); first == 0 {
		must(t, raft.BootstrapCluster(conf, s, s, snaps, trans, members))
	}
	r, err := raft.NewRaft(conf, &listFSM{}, s, s, snaps, trans)
	must(t, err)
	return r
}

// leads waits until a node is the leader, and returns an error if it does not become it.
func leads(r *raft.Raft) error {
	for range 500 {
		if r.State() == raft.Leader {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	conf := r.GetConfiguration()
	return fmt.Errorf("%v, and not the leader, with the members %v", r.State(), conf.Configuration().Servers)
}

// A node that is started again before its first snapshot finds the members in its log, and leads.
func TestRestartBeforeSnapshot(t *testing.T) {
	s := openDir(t, filepath.Join(t.TempDir(), "log"))
	closed(t, s)
	for start := range 3 {
		r := begin(t, s, nil)
		if err := leads(r); err != nil {
			t.Fatalf("start %d: %v", start, err)
		}
		for i := range 10 {
			must(t, r.Apply(fmt.Appendf(nil, "start %d command %d", start, i), time.Second).Error())
		}
		must(t, r.Shutdown().Error())
	}
}

// Why docs/REPLICATION.md and package raftpages warn of RestoreCommittedLogs: raft 1.8.0 passes over the configurations
// that it replays. If this test fails with a newer raft, the warnings can go.
func TestRestoreCommittedLogsLosesMembers(t *testing.T) {
	s := openDir(t, filepath.Join(t.TempDir(), "log"))
	closed(t, s)
	replay := func(c *raft.Config) { c.RestoreCommittedLogs = true }
	r := begin(t, s, replay)
	must(t, leads(r))
	for range 10 {
		must(t, r.Apply([]byte("command"), time.Second).Error())
	}
	must(t, r.Shutdown().Error())
	r = begin(t, s, replay)
	conf := r.GetConfiguration()
	must(t, conf.Error())
	if members := conf.Configuration().Servers; len(members) > 0 {
		t.Errorf("raft knows the members %v", members)
	}
	must(t, r.Shutdown().Error())
}
