package raftpages_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/raft/internal/rafttest"
	"pagecache/raft/raftlog"
	"pagecache/raft/raftpages"
)

var (
	clusterTime = flag.Duration("cluster.time", 8*time.Second, "how long TestCluster makes trouble; with -short 4s")
	clusterSeed = flag.Uint64("cluster.seed", 1, "the seed of the troubles of TestCluster")
)

// node is a member of a cluster in this process. Its log and its pages are on a simulated disk of its own.
type node struct {
	c    *cluster
	id   raft.ServerID
	disk *simdisk.Disk
	// patient is a node that believes to be the leader for two seconds after the others have gone.
	patient bool

	// Of the present life; nil while the node is down.
	raft  *raft.Raft
	logs  rafttest.Mortal
	fsm   *bytesFSM
	trans *raft.InmemTransport
}

type cluster struct {
	t     testing.TB
	mu    sync.RWMutex // guards the lives of the nodes; read-locked for one look
	nodes []*node

	before func(data []byte) // called before an entry is applied; may be nil
	// pass says whether a node's request to append entries reaches the other one; nil: all do.
	pass func(from *node, request *raft.AppendEntriesRequest) bool
	// answered is called when a node has got an answer to a request that has passed, before it sees it; nil: no call.
	answered func(from *node)

	seen    sync.Mutex // guards all below
	applied map[uint64]string
}

// apply is apply that verifies that all nodes apply the same entry at an index.
func (c *cluster) apply(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
	c.seen.Lock()
	was, ok := c.applied[e.Index]
	c.applied[e.Index] = string(e.Data)
	c.seen.Unlock()
	if ok && was != string(e.Data) {
		c.t.Errorf("two nodes have different entries %d: %s and %s", e.Index, was, e.Data)
	}
	if c.before != nil {
		c.before(e.Data)
	}
	return apply(tx, e)
}

// Start starts a node, after its first start or a kill. The caller holds c.mu.
func (n *node) Start() {
	t := n.c.t
	t.Helper()
	lo := small()
	lo.SegmentSize = 64 << 10 // so that there is room for some votes on a full disk
	vfs.SetFS(lo, n.disk)
	store, err := raftlog.Open("/data/log", &raftlog.Options{Log: lo})
	if err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
	logs := rafttest.NewMortal(store)
	n.logs = logs
	n.fsm, err = raftpages.Open(simDir, engine.Bytes{}, n.c.apply, on(n.disk, func(err error) {
		if !logs.Dead() {
			t.Errorf("node %s: %v", n.id, err)
		}
	}))
	if err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
	_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), 200*time.Millisecond)
	n.Connect()
	conf := raft.DefaultConfig()
	conf.LocalID = n.id
	conf.HeartbeatTimeout, conf.ElectionTimeout = 100*time.Millisecond, 100*time.Millisecond
	conf.LeaderLeaseTimeout, conf.CommitTimeout = 100*time.Millisecond, 5*time.Millisecond
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = 50*time.Millisecond, 50, 20
	if n.patient {
		conf.HeartbeatTimeout, conf.ElectionTimeout = 2*time.Second, 2*time.Second
		conf.LeaderLeaseTimeout = 2 * time.Second
	}
	conf.Logger = hclog.NewNullLogger()
	trans := raft.Transport(n.trans)
	if n.c.pass != nil {
		trans = gated{n.trans, n}
	}
	if n.raft, err = n.fsm.NewRaft(conf, logs, logs, trans); err != nil {
		t.Fatalf("node %s: %v", n.id, err)
	}
}

// Kill cuts the power of a node. The caller holds c.mu.
func (n *node) Kill() {
	n.logs.Kill()
	disk := n.disk
	n.disk = disk.Crash(rand.Uint64())
	n.Disconnect()
	n.raft.Shutdown() // ends the goroutines that do not use the log
	_ = n.fsm.Close() // the disk has crashed
	_ = n.logs.Close()
	n.raft, n.fsm, n.trans = nil, nil, nil
}

// Stop stops a node in order. The caller holds c.mu.
func (n *node) Stop() {
	must(n.c.t, n.raft.Shutdown().Error())
	n.Disconnect()
	must(n.c.t, n.fsm.Close())
	must(n.c.t, n.logs.Close())
	n.raft, n.fsm, n.trans = nil, nil, nil
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

// gated is the transport of a node that sends what the cluster's pass lets pass.
type gated struct {
	*raft.InmemTransport
	n *node
}

var errGate = errors.New("the request does not pass")

func (g gated) AppendEntries(id raft.ServerID, to raft.ServerAddress, request *raft.AppendEntriesRequest,
	response *raft.AppendEntriesResponse) error {
	if !g.n.c.pass(g.n, request) {
		return errGate
	}
	err := g.InmemTransport.AppendEntries(id, to, request, response)
	if g.n.c.answered != nil {
		g.n.c.answered(g.n)
	}
	return err
}

func (gated) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// newCluster starts a cluster, after it has set options.
func newCluster(t testing.TB, nodes int, options ...func(*cluster)) *cluster {
	c := &cluster{t: t, applied: map[uint64]string{}}
	for _, set := range options {
		set(c)
	}
	var conf raft.Configuration
	for i := range nodes {
		n := &node{c: c, id: raft.ServerID(fmt.Sprint("node", i)), disk: newDisk(uint64(i))}
		c.nodes = append(c.nodes, n)
		conf.Servers = append(conf.Servers, raft.Server{ID: n.id, Address: raft.ServerAddress(n.id)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.Start()
	}
	must(t, c.nodes[0].raft.BootstrapCluster(conf).Error())
	return c
}

// stop stops all nodes.
func (c *cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.Stop()
	}
}

// leader returns a node that takes itself for the leader; ok is false if none does.
func (c *cluster) leader() (f *bytesFSM, r *raft.Raft, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, i := range rand.Perm(len(c.nodes)) {
		if n := c.nodes[i]; n.raft != nil && n.raft.State() == raft.Leader {
			return n.fsm, n.raft, true
		}
	}
	return nil, nil, false
}

// errUnknown reports that nobody knows whether a command was, or will be, applied.
var errUnknown = errors.New("unknown")

// do gives a command to the leader. If the error is errUnknown the command may be applied, with any other it never is.
func (c *cluster) do(cmd command) (response string, index uint64, err error) {
	_, r, ok := c.leader()
	if !ok {
		return "", 0, raft.ErrNotLeader
	}
	future := r.Apply(entry(0, cmd).Data, 100*time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- future.Error() }()
	select {
	case err = <-done:
	case <-time.After(time.Second): // the leader was killed
		return "", 0, errUnknown
	}
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrEnqueueTimeout) {
		return "", 0, err
	}
	response, isText := future.Response().(string)
	if err != nil || !isText {
		return "", 0, errUnknown
	}
	return response, future.Index(), nil
}

// get reads a key from the leader.
func (c *cluster) get(key string) (value string, err error) {
	f, r, ok := c.leader()
	if !ok {
		return "", raft.ErrNotLeader
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = f.Read(ctx, r, func(tx *engine.Tx[[]byte]) error {
		value, err = valueIn(tx, key)
		return err
	})
	return value, err
}

// valueIn returns the value of a key, which is empty if there is none.
func valueIn(tx *engine.Tx[[]byte], key string) (string, error) {
	pid, err := tx.Root("key/" + key)
	if errors.Is(err, engine.ErrRootNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	p, err := tx.Get(pid)
	return string(p.Value), err
}

// local is what a View of any node has shown.
type local struct {
	index      uint64
	key, value string
}

// look looks at a key on some node.
func (c *cluster) look(key string) (l local, ok bool) {
	c.mu.RLock()
	f := c.nodes[rand.IntN(len(c.nodes))].fsm
	c.mu.RUnlock()
	if f == nil {
		return l, false
	}
	var err error
	l.key = key
	l.index, err = f.View(context.Background(), func(tx *engine.Tx[[]byte]) (err error) {
		l.value, err = valueIn(tx, key)
		return err
	})
	return l, err == nil
}

// swap and get are the operations of clients. A swap returns what was there before.
type input struct {
	get        bool
	key, value string
}

type output struct {
	value   string
	unknown bool
}

// register is a model of one key, whose value a swap replaces and returns.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		by := map[string][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(input).key
			by[k] = append(by[k], o)
		}
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		i, o := in.(input), out.(output)
		fits := o.unknown || o.value == state.(string)
		if i.get {
			return fits, state
		}
		return fits, i.value
	},
}

// clients runs clients until stop is closed, and returns their history, and what they have seen of single nodes.
func (c *cluster) clients(n int, stop <-chan struct{}) (history []porcupine.Operation, seen []local) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	start := time.Now()
	const never = 1 << 62
	for client := range n {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 3))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				in := input{get: rng.IntN(3) == 0, key: key(rng.IntN(5)), value: fmt.Sprint(client, "-", i)}
				var out output
				var err error
				call := time.Since(start).Nanoseconds()
				if in.get {
					out.value, err = c.get(in.key)
				} else {
					out.value, _, err = c.do(command{Op: "set", Key: in.key, Value: in.value})
				}
				end := time.Since(start).Nanoseconds()
				l, ok := c.look(in.key)
				mu.Lock()
				switch {
				case err == nil:
				case in.get || !errors.Is(err, errUnknown):
					ok = false
				default:
					out.unknown, end = true, never
				}
				if err == nil || out.unknown {
					history = append(history, porcupine.Operation{
						ClientId: client, Input: in, Call: call, Output: out, Return: end,
					})
				}
				if ok {
					seen = append(seen, l)
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(5 * time.Millisecond)
					client += n // a client that does not know has not ended its operation
				}
			}
		})
	}
	wg.Wait()
	return history, seen
}

// upset makes trouble for the nodes until the time is over, and reports how often it did what.
func (c *cluster) upset(rng *rand.Rand, long time.Duration) map[string]int {
	var members []rafttest.Member
	for _, n := range c.nodes {
		members = append(members, n)
	}
	return rafttest.Upset(&c.mu, members, rng, long)
}

// retry calls f until it succeeds.
func retry(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 2000 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

// wantEqual waits until all nodes have applied an entry, and fails the test unless their pages are equal.
func (c *cluster) wantEqual(index uint64) model {
	c.t.Helper()
	var first model
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i, n := range c.nodes {
		must(c.t, n.fsm.Wait(within(c.t), index))
		m, at := contents(c.t, n.fsm)
		if i == 0 {
			first = m
		}
		if at != index || !maps.Equal(m, first) {
			c.t.Fatalf("after entry %d node %s has %.300v, node %s has, after entry %d, %.300v", index, c.nodes[0].id,
				fmt.Sprint(first), n.id, at, fmt.Sprint(m))
		}
	}
	return first
}

// Three nodes are killed with power cuts of their disks, stopped, and cut off, and their disks are slow, hang, tear
// writes in a power cut, and are full, one node at a time or more, while clients change and read keys. The results are
// linearizable, and a node shows the values that keys had at its index. An empty node that joins gets a snapshot. In
// the end all nodes have equal pages.
func TestCluster(t *testing.T) {
	c := newCluster(t, 3)
	stop := make(chan struct{})
	var history []porcupine.Operation
	var seen []local
	var wg sync.WaitGroup
	wg.Go(func() { history, seen = c.clients(4, stop) })
	long := *clusterTime
	if testing.Short() {
		long = min(long, 4*time.Second)
	}
	did := c.upset(rand.New(rand.NewPCG(*clusterSeed, 1)), long)
	close(stop)
	wg.Wait()

	last := c.join()
	m := c.wantEqual(last)
	for i := range 5 {
		var value string
		retry(t, func() (err error) { value, err = c.get(key(i)); return err })
		if value != m[key(i)] {
			t.Errorf("%s is %q, the leader says %q", key(i), m[key(i)], value)
		}
	}
	c.stop()
	if got, _ := porcupine.CheckOperationsVerbose(register, history, time.Minute); got != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", got)
	}
	c.checkSeen(seen)
	t.Logf("%v, %d operations, %d looks, %d entries", did, len(history), len(seen), last)
	if len(history) < 50 || len(seen) < 50 || len(did) == 0 {
		t.Error("the cluster did next to nothing")
	}
}

// join adds an empty node to the cluster, which must get a snapshot, and returns the index of the last entry.
func (c *cluster) join() (last uint64) {
	t := c.t
	retry(t, func() error { // so that the log of the leader does not begin with entry 1
		_, r, ok := c.leader()
		if !ok {
			return raft.ErrNotLeader
		}
		if err := r.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return err
		}
		return nil
	})
	c.mu.Lock()
	n := &node{c: c, id: "newcomer", disk: newDisk(99)}
	c.nodes = append(c.nodes, n)
	n.Start()
	c.mu.Unlock()
	retry(t, func() error {
		_, r, ok := c.leader()
		if !ok {
			return raft.ErrNotLeader
		}
		return r.AddVoter(n.id, raft.ServerAddress(n.id), 0, time.Second).Error()
	})
	retry(t, func() (err error) {
		_, last, err = c.do(command{Op: "set", Key: "k9", Value: "last"})
		return err
	})
	must(t, n.fsm.Wait(within(t), last))
	retry(t, func() error { // the store that the snapshot has replaced is removed a moment later
		for name := range n.disk.Sizes() {
			if strings.Contains(name, "/store-000001/") {
				return fmt.Errorf("the newcomer got no snapshot: it has %s", name)
			}
		}
		return nil
	})
	return last
}

// checkSeen fails the test unless each look has seen what the entries up to its index make.
func (c *cluster) checkSeen(seen []local) {
	most := uint64(0)
	for _, l := range seen {
		most = max(most, l.index)
	}
	states := make([]model, most+1)
	m := model{}
	for index := range most + 1 {
		if data, ok := c.applied[index]; ok {
			m = maps.Clone(m)
			m.add(commandOf(c.t, data))
		}
		states[index] = m
	}
	for _, l := range seen {
		if want := states[l.index][l.key]; l.value != want {
			c.t.Errorf("a node has shown, after entry %d, %s = %q, but it was %q", l.index, l.key, l.value, want)
		}
	}
}

// A follower refuses Read, and the leader shows what was acknowledged just before, after any kind of entry. Wait makes
// a follower show it.
func TestRead(t *testing.T) {
	c := newCluster(t, 3)
	var index uint64
	retry(t, func() (err error) {
		_, index, err = c.do(command{Op: "set", Key: "k1", Value: "one"})
		return err
	})
	for range 3 {
		f, r, _ := c.leader()
		must(t, r.Barrier(0).Error()) // an entry that the FSM is not shown
		at, err := f.Read(within(t), r, func(tx *engine.Tx[[]byte]) error {
			if v, err := valueIn(tx, "k1"); err != nil || v != "one" {
				return fmt.Errorf("read %q: %w", v, err)
			}
			return nil
		})
		if err != nil || at < index {
			t.Errorf("read at %d, want %d: %v", at, index, err)
		}
	}
	c.mu.RLock()
	for _, n := range c.nodes {
		if n.raft.State() == raft.Leader {
			continue
		}
		if _, err := n.fsm.Read(within(t), n.raft, nil); !errors.Is(err, raft.ErrNotLeader) {
			t.Errorf("read from a follower: %v", err)
		}
		must(t, n.fsm.Wait(within(t), index))
		if m, at := contents(t, n.fsm); m["k1"] != "one" || at < index {
			t.Errorf("a follower shows %v at %d", m, at)
		}
		short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		if err := n.fsm.Wait(short, index+1000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait for what does not come: %v", err)
		}
		cancel()
	}
	c.mu.RUnlock()
	c.stop()
}

// A leader whose disk hangs is replaced, by a leader that has all that was acknowledged. It follows that one once its
// disk answers again, or after a crash that tears the writes that hang.
func TestHangingDisk(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
			c := newCluster(t, 3)
			set := func(value string) (index uint64) {
				retry(t, func() (err error) {
					_, index, err = c.do(command{Op: "set", Key: "k1", Value: value})
					return err
				})
				return index
			}
			set("old")
			_, r, _ := c.leader()
			i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.raft == r })
			if i < 0 {
				t.Skip("the leader has changed") // on a slow machine
			}
			old := c.nodes[i]
			old.disk.LeaveGarbage()
			end := rafttest.Begin(old.disk, rafttest.TroubleHang, nil)
			r.Apply(entry(0, command{Op: "set", Key: "k2", Value: "hangs"}).Data, 0)
			var next *node
			began := time.Now()
			retry(t, func() error {
				for _, n := range c.nodes {
					if n != old && n.raft.State() == raft.Leader {
						next = n
						return nil
					}
				}
				return raft.ErrNotLeader
			})
			t.Logf("another node leads after %v", time.Since(began))
			if w := old.fsm.Waiting(); w == 0 || next.fsm.Waiting() > w {
				t.Errorf("the hanging disk has been storing entries for %v, that of the leader for %v", w,
					next.fsm.Waiting())
			}
			must(t, next.raft.Apply(entry(0, command{Op: "set", Key: "k1", Value: "new"}).Data, time.Second).Error())
			if crash {
				c.mu.Lock()
				old.Kill()
				old.Start()
				c.mu.Unlock()
			} else {
				end()
			}
			if m := c.wantEqual(set("last")); m["k1"] != "last" {
				t.Errorf("the pages are %v", m)
			}
			c.stop()
		})
	}
}

// A leader that the others have replaced, and that does not know yet, refuses Read.
func TestReadFromOldLeader(t *testing.T) { readFromOldLeader(t, false) }

// The same if it finds answers that the others have sent before they had another leader, as one does that was stopped
// for a while.
func TestReadAfterLateAnswers(t *testing.T) { readFromOldLeader(t, true) }

// readFromOldLeader reads from an old leader. If late is set, answers of the others wait until Read has begun.
func readFromOldLeader(t *testing.T, late bool) {
	var waiting atomic.Int32          // the number of answers that wait
	var gate atomic.Pointer[chan int] // they wait until it is closed; nil: none waits
	var old *node
	c := newCluster(t, 3, func(c *cluster) {
		c.pass = func(*node, *raft.AppendEntriesRequest) bool { return true }
		c.answered = func(from *node) {
			if g := gate.Load(); g != nil && from == old {
				waiting.Add(1)
				<-*g
			}
		}
	})
	c.mu.Lock()
	old = c.nodes[0]
	c.mu.Unlock()
	c.mu.Lock()
	old.Stop()
	old.patient = true
	old.Start()
	c.mu.Unlock()
	retry(t, func() error {
		_, r, ok := c.leader()
		switch {
		case !ok:
			return raft.ErrNotLeader
		case r == old.raft:
			return nil
		}
		return errors.Join(r.LeadershipTransferToServer(old.id, raft.ServerAddress(old.id)).Error(), raft.ErrNotLeader)
	})
	retry(t, func() error {
		_, _, err := c.do(command{Op: "set", Key: "k1", Value: "old"})
		return err
	})
	if v, err := c.get("k1"); err != nil || v != "old" {
		t.Fatalf("read %q, %v", v, err)
	}
	if late {
		g := make(chan int)
		gate.Store(&g)
		retry(t, func() error {
			if waiting.Load() < 2 {
				return errors.New("no answer waits yet")
			}
			return nil
		})
	}
	c.mu.Lock()
	old.Disconnect()
	c.mu.Unlock()
	retry(t, func() error {
		for _, n := range c.nodes[1:] {
			if n.raft.State() == raft.Leader {
				return n.raft.Apply(entry(0, command{Op: "set", Key: "k1", Value: "new"}).Data, time.Second).Error()
			}
		}
		return raft.ErrNotLeader
	})
	if old.raft.State() != raft.Leader {
		t.Skip("the old leader has noticed it before") // on a slow machine
	}
	if g := gate.Load(); g != nil {
		time.AfterFunc(50*time.Millisecond, func() { // when Read has asked the others
			gate.Store(nil)
			close(*g)
		})
	}
	verified := make(chan error, 1)
	go func() { verified <- old.fsm.VerifyLeader(within(t), old.raft) }()
	_, err := old.fsm.Read(within(t), old.raft, func(tx *engine.Tx[[]byte]) error {
		v, err := valueIn(tx, "k1")
		t.Errorf("the old leader shows %q, %v", v, err)
		return err
	})
	if !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrLeadershipLost) {
		t.Errorf("read from the old leader: %v", err)
	}
	if err := <-verified; !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrLeadershipLost) {
		t.Errorf("the old leader was verified: %v", err)
	}
	c.stop()
}

// A new leader that has committed no entry of its own term does not know yet that the newest one of the leader before
// it is committed, which that one has acknowledged. Read waits until it does.
func TestReadFromNewLeader(t *testing.T) {
	var most atomic.Uint64 // the highest commit index that is told
	var hold atomic.Bool   // no entry is sent
	most.Store(math.MaxUint64)
	c := newCluster(t, 3, func(c *cluster) {
		c.pass = func(_ *node, a *raft.AppendEntriesRequest) bool {
			return a.LeaderCommitIndex <= most.Load() && (len(a.Entries) == 0 || !hold.Load())
		}
	})
	for _, n := range c.nodes { // each has read as the leader of an earlier term
		retry(t, func() error {
			_, r, ok := c.leader()
			if !ok {
				return raft.ErrNotLeader
			}
			if r != n.raft {
				err := r.LeadershipTransferToServer(n.id, raft.ServerAddress(n.id)).Error()
				return errors.Join(err, raft.ErrNotLeader)
			}
			_, err := n.fsm.Read(within(t), r, func(*engine.Tx[[]byte]) error { return nil })
			return err
		})
	}
	var last uint64
	retry(t, func() (err error) {
		_, last, err = c.do(command{Op: "set", Key: "k1", Value: "old"})
		return err
	})
	c.mu.RLock()
	for _, n := range c.nodes {
		must(t, n.fsm.Wait(within(t), last))
	}
	c.mu.RUnlock()
	_, was, ok := c.leader()
	if !ok {
		t.Fatal("there is no leader")
	}
	most.Store(was.CommitIndex())
	must(t, was.Apply(entry(0, command{Op: "set", Key: "k1", Value: "new"}).Data, 0).Error())
	hold.Store(true)
	c.mu.Lock()
	var next *node
	for _, n := range c.nodes {
		if n.raft == was {
			n.Disconnect()
		}
	}
	c.mu.Unlock()
	most.Store(math.MaxUint64)
	retry(t, func() error {
		for _, n := range c.nodes {
			if n.raft != was && n.raft.State() == raft.Leader {
				next = n
				return nil
			}
		}
		return raft.ErrNotLeader
	})
	read := func(ctx context.Context) (v string, err error) {
		_, err = next.fsm.Read(ctx, next.raft, func(tx *engine.Tx[[]byte]) (err error) {
			v, err = valueIn(tx, "k1")
			return err
		})
		return v, err
	}
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if v, err := read(soon); err == nil {
		t.Errorf("the new leader shows %q before it has committed an entry", v)
	}
	hold.Store(false)
	retry(t, func() error {
		v, err := read(within(t))
		if err == nil && v != "new" {
			t.Fatalf("read %q", v)
		}
		return err
	})
	c.stop()
}

// Read waits until what was committed is applied, however slow Apply is.
func TestReadWaitsForApply(t *testing.T) {
	c := &cluster{t: t, applied: map[uint64]string{}}
	n := &node{c: c, id: "node", disk: newDisk(1)}
	c.nodes = append(c.nodes, n)
	inside, goOn := make(chan struct{}, 100), make(chan struct{})
	c.before = func(data []byte) {
		if strings.Contains(string(data), "slow") {
			inside <- struct{}{}
			<-goOn
		}
	}
	n.Start()
	conf := raft.Configuration{Servers: []raft.Server{{ID: n.id, Address: raft.ServerAddress(n.id)}}}
	must(t, n.raft.BootstrapCluster(conf).Error())
	retry(t, func() error {
		_, _, err := c.do(command{Op: "set", Key: "k1", Value: "fast"})
		return err
	})
	if v, err := c.get("k1"); err != nil || v != "fast" {
		t.Fatalf("read %q, %v", v, err)
	}
	n.raft.Apply(entry(0, command{Op: "set", Key: "k1", Value: "slow"}).Data, 0)
	<-inside // so it is committed
	got := make(chan string, 1)
	go func() {
		v, err := c.get("k1")
		got <- fmt.Sprint(v, err)
	}()
	select {
	case v := <-got:
		t.Errorf("read %s before the entry was applied", v)
		got <- v
	case <-time.After(100 * time.Millisecond):
	}
	close(goOn)
	if v := <-got; v != "slow<nil>" {
		t.Errorf("read %s", v)
	}
	c.stop()
}

// Reads without a deadline end when raft is shut down, also those that raft has not looked at.
func TestReadsEndWithRaft(t *testing.T) {
	c := newCluster(t, 3)
	var f *bytesFSM
	var r *raft.Raft
	retry(t, func() error {
		_, _, err := c.do(command{Op: "set", Key: "k1", Value: "v"})
		ok := false
		if f, r, ok = c.leader(); !ok {
			return raft.ErrNotLeader
		}
		return err
	})
	var reads sync.WaitGroup
	for range 64 {
		reads.Go(func() {
			for {
				_, err := f.Read(context.Background(), r, func(*engine.Tx[[]byte]) error { return nil })
				if err != nil {
					return
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	must(t, r.Shutdown().Error())
	ended := make(chan bool)
	go func() { reads.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("a Read waits for a raft that was shut down")
	}
	c.stop()
}
