package raftlog_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

var clusterTime = flag.Duration("cluster.time", 6*time.Second, "the time for which TestCluster kills; with -short 2s")

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

// mortal is the store of a node. Once the node is killed, each goroutine of raft ends at its next call, or at the one
// that it is in: it never sees what a dead disk answers.
type mortal struct {
	*raftlog.Store
	dead *atomic.Bool
}

// alive ends the goroutine if the node was killed.
func (m mortal) alive() {
	if m.dead.Load() {
		runtime.Goexit()
	}
}

func (m mortal) FirstIndex() (uint64, error) {
	defer m.alive()
	return m.Store.FirstIndex()
}

func (m mortal) LastIndex() (uint64, error) {
	defer m.alive()
	return m.Store.LastIndex()
}

func (m mortal) GetLog(index uint64, l *raft.Log) error {
	defer m.alive()
	return m.Store.GetLog(index, l)
}

func (m mortal) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

func (m mortal) StoreLogs(logs []*raft.Log) error {
	defer m.alive()
	return m.Store.StoreLogs(logs)
}

func (m mortal) DeleteRange(min, max uint64) error {
	defer m.alive()
	return m.Store.DeleteRange(min, max)
}

func (m mortal) Set(key, val []byte) error {
	defer m.alive()
	return m.Store.Set(key, val)
}

func (m mortal) SetUint64(key []byte, val uint64) error {
	defer m.alive()
	return m.Store.SetUint64(key, val)
}

// node is a member of a cluster in this process, on a simulated disk. Its snapshots are on the real one.
type node struct {
	c     *cluster
	id    raft.ServerID
	disk  *pagetest.Disk
	snaps *raft.FileSnapshotStore

	// Of the present life; nil and zero while the node is down.
	raft  *raft.Raft
	store *raftlog.Store
	fsm   *listFSM
	trans *raft.InmemTransport
	dead  *atomic.Bool
}

type cluster struct {
	t     *testing.T
	mu    sync.Mutex // guards the lives of the nodes
	nodes []*node
}

// start starts a node, after its first start or a kill. The caller holds c.mu.
func (n *node) start() {
	t := n.c.t
	t.Helper()
	s, err := raftlog.Open(simDir, &raftlog.Options{Log: n.disk.Options(small())})
	if err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
	n.store, n.fsm, n.dead = s, &listFSM{}, new(atomic.Bool)
	_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), 100*time.Millisecond)
	for _, other := range n.c.nodes {
		if other != n && other.trans != nil {
			n.trans.Connect(other.trans.LocalAddr(), other.trans)
			other.trans.Connect(n.trans.LocalAddr(), n.trans)
		}
	}
	conf := raft.DefaultConfig()
	conf.LocalID = n.id
	conf.HeartbeatTimeout, conf.ElectionTimeout = 100*time.Millisecond, 100*time.Millisecond
	conf.LeaderLeaseTimeout, conf.CommitTimeout = 100*time.Millisecond, 5*time.Millisecond
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = 50*time.Millisecond, 300, 100
	conf.RestoreCommittedLogs = true
	conf.Logger = hclog.NewNullLogger()
	m := mortal{s, n.dead}
	if first, _ := bounds(t, s); first == 0 {
		if has, err := raft.HasExistingState(m, m, n.snaps); err != nil || !has {
			must(t, err)
			must(t, raft.BootstrapCluster(conf, m, m, n.snaps, n.trans, n.c.configuration()))
		}
	}
	if n.raft, err = raft.NewRaft(conf, n.fsm, m, m, n.snaps, n.trans); err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
}

// kill cuts the power of a node. The caller holds c.mu.
func (n *node) kill() {
	n.dead.Store(true)
	disk := n.disk
	n.disk = disk.Crash()
	n.disconnect()
	n.raft.Shutdown()   // ends the goroutines that do not use the store
	_ = n.store.Close() // its disk has crashed
	n.raft, n.store, n.trans = nil, nil, nil
}

// stop stops a node in order. The caller holds c.mu.
func (n *node) stop() {
	must(n.c.t, n.raft.Shutdown().Error())
	n.disconnect()
	must(n.c.t, n.store.Close())
	n.raft, n.store, n.trans = nil, nil, nil
}

// disconnect ends the connections of a node. The caller holds c.mu.
func (n *node) disconnect() {
	for _, other := range n.c.nodes {
		if other != n && other.trans != nil {
			other.trans.Disconnect(n.trans.LocalAddr())
		}
	}
	n.trans.DisconnectAll()
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
		n := &node{c: c, id: raft.ServerID(fmt.Sprint("node", i)), disk: pagetest.NewDisk(uint64(i)), snaps: snaps}
		c.nodes = append(c.nodes, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.start()
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

// upset kills and restarts nodes until the time is over, and reports how often.
func (c *cluster) upset(rng *rand.Rand, long time.Duration) (kills, stops int) {
	for end := time.Now().Add(long); time.Now().Before(end); {
		time.Sleep(time.Duration(50+rng.IntN(400)) * time.Millisecond)
		victims := 1
		if rng.IntN(4) == 0 { // a lost majority
			victims = 2 + rng.IntN(2)
		}
		down := rng.Perm(len(c.nodes))[:victims]
		c.mu.Lock()
		for _, i := range down {
			if rng.IntN(4) == 0 {
				c.nodes[i].stop()
				stops++
			} else {
				c.nodes[i].kill()
				kills++
			}
		}
		c.mu.Unlock()
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		c.mu.Lock()
		for _, i := range down {
			c.nodes[i].start()
		}
		c.mu.Unlock()
	}
	return kills, stops
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

// Three nodes are killed and restarted, one at a time or more, with power cuts of their disks, while clients apply
// commands. In the end all nodes have applied the same commands in the same order, with every one that was
// acknowledged, and none twice.
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
		long = 2 * time.Second
	}
	kills, stops := c.upset(rand.New(rand.NewPCG(1, 1)), long)
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
	t.Logf("%d kills, %d stops, %d commands, %d acknowledged", kills, stops, len(list), len(acked))
	if len(acked) < 100 || kills == 0 {
		t.Error("the cluster did next to nothing")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.stop()
	}
}
