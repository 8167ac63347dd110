package raftpages_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftpages"
)

// logOf returns a log with entries from first to last, of the terms that termOf says plus more.
func logOf(t *testing.T, first, last, more uint64) *raft.InmemStore {
	t.Helper()
	logs := raft.NewInmemStore()
	for i := first; i <= last; i++ {
		e := entry(i, command{Op: "set", Key: "k1"})
		e.Term += more
		must(t, logs.StoreLog(e))
	}
	return logs
}

// Prepare removes a log that a snapshot has replaced, refuses one that has lost entries, and leaves any other as it is.
func TestPrepare(t *testing.T) {
	f, _ := opened(t)
	fill(f, model{}, 2, 49)
	conf := raft.DefaultConfig()
	conf.NoSnapshotRestoreOnStart = true
	for _, c := range []struct {
		name              string
		first, last, more uint64
		left              uint64 // the last entry that is left
		refused           bool
	}{
		{"an empty log", 1, 0, 0, 0, false},
		{"a log that ends below the store", 1, 40, 0, 0, false},
		{"a log that ends with the store", 1, 50, 0, 50, false},
		{"a log that goes on above the store", 20, 80, 0, 80, false},
		{"a log that begins above the store", 51, 80, 0, 80, false},
		{"a log of another term", 20, 80, 1, 0, false},
		{"a log that lacks entries", 52, 80, 0, 80, true},
	} {
		logs := logOf(t, c.first, c.last, c.more)
		err := f.Prepare(conf, logs)
		if errors.Is(err, raftpages.ErrConfig) != c.refused || err != nil && !c.refused {
			t.Errorf("%s: %v", c.name, err)
		}
		if last, _ := logs.LastIndex(); last != c.left {
			t.Errorf("%s: it ends with entry %d, want %d", c.name, last, c.left)
		}
	}
	conf.ProtocolVersion = 2
	if err := f.Prepare(conf, logOf(t, 1, 50, 0)); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("protocol version 2: %v", err)
	}
	if err := f.Prepare(raft.DefaultConfig(), logOf(t, 1, 50, 0)); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("without NoSnapshotRestoreOnStart: %v", err)
	}
	conf = raft.DefaultConfig()
	conf.NoSnapshotRestoreOnStart, conf.RestoreCommittedLogs = true, true
	if err := f.Prepare(conf, logOf(t, 1, 50, 0)); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("with RestoreCommittedLogs: %v", err)
	}
}

// A lost majority: one node goes on alone, with all that it has, after raft.RecoverCluster.
func TestRecoverCluster(t *testing.T) {
	c := newCluster(t, 3)
	var index uint64
	retry(t, func() (err error) {
		_, index, err = c.do(command{Op: "set", Key: "k1", Value: "kept"})
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		must(t, n.fsm.Wait(within(t), index))
	}
	for _, n := range c.nodes[1:] {
		n.Stop()
	}
	n := c.nodes[0]
	conf := *raft.DefaultConfig()
	conf.LocalID = n.id
	conf.NoSnapshotRestoreOnStart = true
	must(t, n.raft.Shutdown().Error())
	alone := raft.Configuration{Servers: []raft.Server{{ID: n.id, Address: raft.ServerAddress(n.id)}}}
	must(t, n.fsm.Prepare(&conf, n.logs))
	must(t, raft.RecoverCluster(&conf, n.fsm, n.logs, n.logs, n.fsm.Snapshots(), n.trans, alone))
	if meta := newest(t, n.fsm); len(meta.Configuration.Servers) != 1 || meta.Index < index {
		t.Errorf("the snapshot is %+v", meta)
	}
	must(t, n.fsm.Close())
	must(t, n.logs.Close())
	c.nodes = c.nodes[:1]
	n.Start()
	c.mu.Unlock()
	retry(t, func() error {
		_, last, err := c.do(command{Op: "set", Key: "k2", Value: "new"})
		if err == nil && last <= index {
			t.Errorf("entry %d after entry %d", last, index)
		}
		return err
	})
	c.mu.Lock()
	if m, _ := contents(t, n.fsm); m["k1"] != "kept" || m["k2"] != "new" {
		t.Errorf("the node has %v", m)
	}
	n.Stop()
}

// A backup of one cluster is restored in another: all its nodes have its pages, and go on with them.
func TestRestoreBackup(t *testing.T) {
	from := newCluster(t, 1)
	retry(t, func() error {
		_, _, err := from.do(command{Op: "set", Key: "k1", Value: "backed up"})
		return err
	})
	_, r, _ := from.leader()
	future := r.Snapshot()
	must(t, future.Error())
	meta, stream, err := future.Open()
	must(t, err)
	backup, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	from.stop()

	to := newCluster(t, 3)
	retry(t, func() error {
		_, _, err := to.do(command{Op: "set", Key: "k2", Value: "replaced"})
		return err
	})
	retry(t, func() error {
		_, r, ok := to.leader()
		if !ok {
			return raft.ErrNotLeader
		}
		return r.Restore(meta, bytes.NewReader(backup), 0)
	})
	var last uint64
	retry(t, func() (err error) {
		_, last, err = to.do(command{Op: "link", Key: "k1", Value: " and changed"})
		return err
	})
	if m := to.wantEqual(last); len(m) != 1 || m["k1"] != "backed up and changed" {
		t.Errorf("the nodes have %v", m)
	}
	to.mu.Lock()
	for _, n := range to.nodes {
		n.Kill()
	}
	for _, n := range to.nodes {
		n.Start()
	}
	to.mu.Unlock()
	retry(t, func() (err error) {
		_, last, err = to.do(command{Op: "set", Key: "k3", Value: "later"})
		return err
	})
	if m := to.wantEqual(last); len(m) != 2 || m["k1"] != "backed up and changed" {
		t.Errorf("after a restart the nodes have %v", m)
	}
	to.stop()
}

// Read works with a raft that NewRaft has not made: then each Read waits for a Barrier. A NewRaft that fails changes
// nothing about that.
func TestReadWithoutNewRaft(t *testing.T) {
	f := open(t, newDisk(1))
	conf := raft.DefaultConfig()
	conf.LocalID, conf.NoSnapshotRestoreOnStart, conf.Logger = "n", true, hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = heartbeat, heartbeat, heartbeat
	logs := raft.NewInmemStore()
	addr, trans := raft.NewInmemTransport("n")
	must(t, raft.BootstrapCluster(conf, logs, logs, f.Snapshots(), trans,
		raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}}))
	must(t, f.Prepare(conf, logs))
	r, err := raft.NewRaft(conf, f, logs, logs, f.Snapshots(), trans)
	must(t, err)
	read := func() {
		t.Helper()
		retry(t, func() error {
			return r.Apply(entry(0, command{Op: "set", Key: "k1", Value: "v"}).Data, time.Second).Error()
		})
		v := ""
		_, err := f.Read(within(t), r, func(tx *engine.Tx[[]byte]) (err error) {
			v, err = valueIn(tx, "k1")
			return err
		})
		if err != nil || v != "v" {
			t.Errorf("read %q, %v", v, err)
		}
	}
	read()
	bad := *conf
	bad.LocalID = ""
	if _, err := f.NewRaft(&bad, logs, logs, trans); err == nil {
		t.Fatal("a configuration without an id was accepted")
	}
	read()
	must(t, r.Shutdown().Error())
	if _, err := f.Read(context.Background(), r, func(*engine.Tx[[]byte]) error { return nil }); err == nil {
		t.Error("a raft that was shut down reads")
	}
}

const heartbeat = 50 * time.Millisecond
