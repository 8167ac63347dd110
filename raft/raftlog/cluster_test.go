package raftlog_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/raft/internal/rafttest"
	"pagecache/raft/raftguard"
	"pagecache/raft/raftlog"
)

var (
	clusterTime = flag.Duration("cluster.time", 8*time.Second, "how long TestCluster makes trouble; with -short 4s")
	clusterSeed = flag.Uint64("cluster.seed", 1, "the seed of the troubles of TestCluster")
)

// listFSM is the list of the commands that were applied.
type listFSM struct {
	mu   sync.Mutex
	list []string
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, string(l.Data))
	return nil
}

func (f *listFSM) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) { return listSnapshot(f.commands()), nil }

func (f *listFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	var list []string
	if err := json.NewDecoder(r).Decode(&list); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
	return nil
}

type listSnapshot []string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode([]string(s)); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (listSnapshot) Release() {}

// node is a member of a cluster in this process, on a simulated disk. Its snapshots are on the real one.
type node struct {
	c     *cluster
	id    raft.ServerID
	disk  *simdisk.Disk
	snaps *raft.FileSnapshotStore

	// Of the present life; nil and zero while the node is down.
	raft  *raft.Raft
	store *raftlog.Store
	fsm   *listFSM
	trans *raft.InmemTransport
	logs  rafttest.Mortal
}

type cluster struct {
	t     *testing.T
	mu    sync.Mutex // guards the lives of the nodes
	nodes []*node
}

// Start starts a node, after its first start or a kill. The caller holds c.mu.
func (n *node) Start() {
	t := n.c.t
	t.Helper()
	o := small()
	o.SegmentSize = 64 << 10 // so that there is room for some votes on a full disk
	vfs.SetFS(o, n.disk)
	s, err := raftlog.Open(simDir, &raftlog.Options{Log: o})
	if err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
	n.store, n.fsm, n.logs = s, &listFSM{}, rafttest.NewMortal(s)
	_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), 100*time.Millisecond)
	n.Connect()
	conf := raft.DefaultConfig()
	conf.LocalID = n.id
	conf.HeartbeatTimeout, conf.ElectionTimeout = 100*time.Millisecond, 100*time.Millisecond
	conf.LeaderLeaseTimeout, conf.CommitTimeout = 100*time.Millisecond, 5*time.Millisecond
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = 50*time.Millisecond, 300, 100
	conf.Logger = hclog.NewNullLogger()
	m := n.logs
	if first, _ := bounds(t, s); first == 0 {
		if has, err := raft.HasExistingState(m, m, n.snaps); err != nil || !has {
			must(t, err)
			must(t, raft.BootstrapCluster(conf, m, m, n.snaps, n.trans, n.c.configuration()))
		}
	}
	guard := raftguard.New(conf.HeartbeatTimeout)
	n.raft, err = raft.NewRaft(conf, n.fsm, guard.Logs(m), m, n.snaps, guard.Transport(n.trans))
	if err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
}

// Kill cuts the power of a node. The caller holds c.mu.
func (n *node) Kill() {
	n.logs.Kill()
	disk := n.disk
	n.disk = disk.Crash(rand.Uint64())
	n.Disconnect()
	n.raft.Shutdown()   // ends the goroutines that do not use the store
	_ = n.store.Close() // its disk has crashed
	n.raft, n.store, n.trans = nil, nil, nil
}

// Stop stops a node in order. The caller holds c.mu.
func (n *node) Stop() {
	must(n.c.t, n.raft.Shutdown().Error())
	n.Disconnect()
	must(n.c.t, n.store.Close())
	n.raft, n.store, n.trans = nil, nil, nil
}

// Connect connects a node with all others. The caller holds c.mu.
func (n *node) Connect() { rafttest.Connect(n.trans, n.c.transports()...) }

// Disconnect ends the connections of a node. The caller holds c.mu.
func (n *node) Disconnect() { rafttest.Disconnect(n.trans, n.c.transports()...) }

// Disk returns the disk of a node.
func (n *node) Disk() *simdisk.Disk { return n.disk }

// transports returns those of all nodes, nil for one that is down. The caller holds c.mu.
func (c *cluster) transports() (list []*raft.InmemTransport) {
	for _, n := range c.nodes {
		list = append(list, n.trans)
	}
	return list
}

func (c *cluster) configuration() (conf raft.Configuration) {
	for _, n := range c.nodes {
		conf.Servers = append(conf.Servers, raft.Server{ID: n.id, Address: raft.ServerAddress(n.id)})
	}
	return conf
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t}
	for i := range nodes {
		snaps, err := raft.NewFileSnapshotStoreWithLogger(filepath.Join(t.TempDir(), "snapshots"), 1,
			hclog.NewNullLogger())
		must(t, err)
		n := &node{c: c, id: raft.ServerID(fmt.Sprint("node", i)), disk: simdisk.New(uint64(i), simdisk.Options{}),
			snaps: snaps}
		c.nodes = append(c.nodes, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.Start()
	}
	return c
}

// leader returns the raft of a node that is the leader, nil if none is.
func (c *cluster) leader() *raft.Raft {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.raft != nil && n.raft.State() == raft.Leader {
			return n.raft
		}
	}
	return nil
}

// apply applies a command, and reports whether it was acknowledged.
func (c *cluster) apply(command string) bool {
	r := c.leader()
	if r == nil {
		time.Sleep(5 * time.Millisecond)
		return false
	}
	f := r.Apply([]byte(command), 100*time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err == nil
	case <-time.After(time.Second): // the leader was killed
		return false
	}
}

// upset makes trouble for the nodes until the time is over, and reports how often it did what.
func (c *cluster) upset(rng *rand.Rand, long time.Duration) map[string]int {
	var members []rafttest.Member
	for _, n := range c.nodes {
		members = append(members, n)
	}
	return rafttest.Upset(&c.mu, members, rng, long)
}

// settled waits until all nodes have applied the same commands, and returns them.
func (c *cluster) settled() []string {
	c.t.Helper()
	for look := range 2000 {
		c.mu.Lock()
		list := c.nodes[0].fsm.commands()
		same := true
		for _, n := range c.nodes[1:] {
			same = same && slices.Equal(n.fsm.commands(), list)
		}
		c.mu.Unlock()
		if same && look > 20 && len(list) > 0 && list[len(list)-1] == "last" {
			return list
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatal("the nodes do not agree")
	return nil
}

// Three nodes are killed and restarted, one at a time or more, with power cuts of their disks, and cut off, and their
// disks are slow, hang, tear writes in a power cut, and are full, while clients apply commands. In the end all nodes
// have applied the same commands in the same order, with every one that was acknowledged, and none twice.
func TestCluster(t *testing.T) {
	c := newCluster(t, 3)
	var (
		wg    sync.WaitGroup
		stop  atomic.Bool
		mu    sync.Mutex
		acked []string
	)
	for client := range 4 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				command := fmt.Sprintf("client %d command %d %0*d", client, i, i%200, 0)
				if c.apply(command) {
					mu.Lock()
					acked = append(acked, command)
					mu.Unlock()
				}
			}
		})
	}
	long := *clusterTime
	if testing.Short() {
		long = min(long, 4*time.Second)
	}
	did := c.upset(rand.New(rand.NewPCG(*clusterSeed, 1)), long)
	stop.Store(true)
	wg.Wait()
	for n := 0; !c.apply("last"); n++ {
		if n > 2000 {
			t.Fatal("no leader")
		}
	}
	list := c.settled()
	seen := map[string]int{}
	for _, command := range list {
		if seen[command]++; seen[command] > 1 && command != "last" {
			t.Errorf("%q was applied twice", command)
		}
	}
	for _, command := range acked {
		if seen[command] == 0 {
			t.Errorf("%q was acknowledged and is lost", command)
		}
	}
	t.Logf("%v, %d commands, %d acknowledged", did, len(list), len(acked))
	if len(acked) < 100 || len(did) == 0 {
		t.Error("the cluster did next to nothing")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.Stop()
	}
}
