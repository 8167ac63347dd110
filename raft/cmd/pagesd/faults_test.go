package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	faultsTime = flag.Duration("faults.time", 8*time.Second, "how long TestFaults makes faults; with -short 4s")
	faultsSeed = flag.Uint64("faults.seed", 0, "the seed of TestFaults; 0: random")
)

// call is a request of a client, of a key.
type call struct {
	op    op // 0: a read
	key   string
	value string
}

// seen is the answer. An answer of unknown outcome has no end: see history.add.
type seen struct {
	value   string
	exists  bool // of a read, and of a delete
	unknown bool
}

// page is the state of a key.
type page struct {
	exists bool
	value  string
}

// model is the state of all keys, each by itself.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		keys := map[string]int{}
		for _, o := range history {
			key := o.Input.(call).key
			i, ok := keys[key]
			if !ok {
				i = len(parts)
				keys[key] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	},
	Init: func() any { return page{} },
	Step: func(state, input, output any) (bool, any) {
		p, c, s := state.(page), input.(call), output.(seen)
		switch c.op {
		case opPut:
			return true, page{true, c.value}
		case opLink:
			return true, page{true, p.value + c.value}
		case opDelete:
			return s.unknown || s.exists == p.exists, page{}
		}
		return s.exists == p.exists && s.value == p.value, p
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
}

// history is what clients saw.
type history struct {
	mu    sync.Mutex
	began time.Time
	all   []porcupine.Operation
	acks  atomic.Int64 // changes that were acknowledged
}

// run sends a request, and records it. A read without an answer says nothing, and neither does a change that was
// certainly not made.
func (h *history) run(ctx context.Context, id int, cl *client, c call) {
	call := time.Since(h.began)
	var s seen
	var err error
	if c.op == 0 {
		var value []byte
		_, value, err = cl.read(ctx, c.key, false)
		s.value, s.exists = string(value), err == nil
	} else {
		_, err = cl.change(ctx, command{c.op, c.key, []byte(c.value)})
		s.exists = err == nil
	}
	end := time.Since(h.began)
	switch {
	case errors.Is(err, errNoKey):
		err = nil
	case errors.As(err, &unknownOutcome{}):
		s.unknown, err = true, nil
		end = math.MaxInt64 // it may take effect at any time
	}
	if err != nil {
		return
	}
	if c.op != 0 && !s.unknown {
		h.acks.Add(1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, porcupine.Operation{ClientId: id, Input: c, Call: int64(call), Output: s, Return: int64(end)})
}

// check fails the test unless the history is linearizable.
func (h *history) check(t *testing.T) {
	t.Helper()
	unknown := 0
	for _, o := range h.all {
		if o.Output.(seen).unknown {
			unknown++
		}
	}
	t.Logf("%d requests, %d changes acknowledged, %d of unknown outcome", len(h.all), h.acks.Load(), unknown)
	result, info := porcupine.CheckOperationsVerbose(model, h.all, 2*time.Minute)
	if result == porcupine.Ok {
		return
	}
	f := t.TempDir() + "/history.html"
	if err := porcupine.VisualizePath(model, info, f); err != nil {
		t.Log(err)
	}
	t.Errorf("the history is not linearizable: %v", result)
	for _, o := range h.all {
		t.Logf("%d–%d client %d: %s", o.Call, o.Return, o.ClientId, model.DescribeOperation(o.Input, o.Output))
	}
}

// work has clients send requests until stop. Each begins at another node. Keys are used for half a second, by all
// clients, so that the parts of the history are short.
func (h *history) work(ctx context.Context, c *cluster, clients int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for id := range clients {
		addrs := strings.Split(c.addrs(), ",")
		first := id % len(addrs)
		addrs = append(addrs[first:len(addrs):len(addrs)], addrs[:first]...)
		cl := newClient(dialer{id: identity(c.certs("client"))}, addrs)
		rng := rand.New(rand.NewPCG(uint64(id), 7))
		wg.Go(func() {
			defer cl.http.CloseIdleConnections()
			for i := 0; ctx.Err() == nil; i++ {
				epoch := time.Since(h.began) / (500 * time.Millisecond)
				one, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				h.run(one, id, cl, call{
					op: op(rng.IntN(4)), key: fmt.Sprintf("key %d.%d", epoch, rng.IntN(4)),
					value: fmt.Sprintf("(%d.%d)", id, i),
				})
				cancel()
			}
		})
	}
	return &wg
}

// upset makes faults, one at a time and with recoveries in between, until the time is over and the clients have done
// enough, within limit. It returns how often.
func (c *cluster) upset(rng *rand.Rand, long time.Duration, enough func() bool) map[string]int {
	counts := map[string]int{}
	pick := func() *process { return c.nodes[rng.IntN(len(c.nodes))] }
	began := time.Now()
	for time.Since(began) < long || !enough() && time.Since(began) < long+limit {
		down := time.Duration(100+rng.IntN(1200)) * time.Millisecond
		p := pick()
		fault := []string{"kill", "kill all", "pause", "isolate", "one way", "stop", "transfer"}[rng.IntN(7)]
		counts[fault]++
		switch fault {
		case "kill":
			p.kill()
			time.Sleep(down)
			p.start()
		case "kill all":
			for _, p := range c.nodes {
				p.kill()
			}
			for _, p := range c.nodes {
				p.start()
			}
		case "pause":
			p.signal(syscall.SIGSTOP)
			time.Sleep(down)
			p.signal(syscall.SIGCONT)
		case "isolate":
			c.net.isolate(func(from, to string) bool { return from == p.id || to == p.id })
			time.Sleep(2 * down)
		case "one way":
			q := pick()
			c.net.isolate(func(from, to string) bool { return from == p.id && to == q.id })
			time.Sleep(2 * down)
		case "stop":
			p.stop()
			p.start()
		case "transfer":
			one, cancel := context.WithTimeout(context.Background(), time.Second)
			_, _ = c.client(p).transfer(one, pick().id) // which has an effect only now and then
			cancel()
		}
		c.net.isolate(func(_, _ string) bool { return false })
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
	}
	return counts
}

// While nodes are killed, paused, cut off and stopped, what clients see is linearizable, and afterwards all nodes have
// the same pages, with all that was acknowledged.
func TestFaults(t *testing.T) {
	t.Parallel()
	seed := *faultsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-faults.seed=%d", seed)
	long := *faultsTime
	if testing.Short() {
		long = min(long, 4*time.Second)
	}
	c := newCluster(t, 3, "-trailing=20", "-snapshot-after=200", "-snapshot-every=500ms", "-timeout=2s")
	c.connect()
	c.begin()
	h := &history{began: time.Now()}
	ctx, stop := context.WithCancel(context.Background())
	wg := h.work(ctx, c, 5)
	enough := func() bool { return h.acks.Load() >= 50 }
	counts := c.upset(rand.New(rand.NewPCG(seed, 1)), long, enough)
	time.Sleep(time.Second)
	stop()
	wg.Wait()
	t.Logf("faults: %v", counts)
	c.settled(3)
	pages := c.equal()
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range pages { // so that the last state is a part of the history
		if key == "last" {
			continue
		}
		began := time.Since(h.began)
		_, value, err := c.client().read(within(t, limit), key, false)
		must(t, err)
		h.all = append(h.all, porcupine.Operation{
			ClientId: 99, Input: call{key: key}, Call: int64(began), Output: seen{value: string(value), exists: true},
			Return: int64(time.Since(h.began)),
		})
	}
	h.check(t)
	if !enough() {
		t.Error("the cluster did next to nothing")
	}
}

// A node that hangs delays nobody if it is a follower. If it is the leader, another one takes over, and the old one
// answers no read with old data when it goes on.
func TestPause(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	hung := c.followers()[0]
	hung.signal(syscall.SIGSTOP)
	began := time.Now()
	leader := c.leader()
	for i := range 20 {
		_, err := c.client(leader).change(within(t, limit), command{opPut, "key", fmt.Append(nil, i)})
		must(t, err)
	}
	t.Logf("20 changes beside a follower that hangs took %v", time.Since(began))
	hung.signal(syscall.SIGCONT)
	c.settled(3)

	others := c.followers()
	leader.signal(syscall.SIGSTOP)
	began = time.Now()
	eventually(t, "another node leads", func() error {
		s, err := c.client(others...).status(within(t, limit), false)
		if err == nil && (s.Leader.ID == "" || s.Leader.ID == leader.id) {
			err = fmt.Errorf("%q leads", s.Leader.ID)
		}
		return err
	})
	_, err := c.client(others...).change(within(t, limit), command{opPut, "key", []byte("new")})
	must(t, err)
	t.Logf("another node took over after %v", time.Since(began))
	answer := make(chan string, 1)
	go func() {
		_, value, err := c.client(leader).read(within(t, limit), "key", false)
		answer <- fmt.Sprint(string(value), err)
	}()
	time.Sleep(50 * time.Millisecond)
	leader.signal(syscall.SIGCONT)
	if got := <-answer; got != "new<nil>" {
		t.Errorf("the old leader has answered %s, want new", got)
	}
	c.settled(3)
	c.equal()
}

// Nodes are stopped and started one after another, as for an upgrade, while clients work: nothing is lost, and no
// change has an unknown outcome.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var count [3]int
	for id := range count {
		cl := c.client()
		wg.Go(func() {
			for ; ctx.Err() == nil; count[id]++ {
				one, cancel := context.WithTimeout(context.Background(), limit)
				_, err := cl.change(one, command{opLink, fmt.Sprint("list ", id), fmt.Appendf(nil, "%d,", count[id])})
				cancel()
				if err != nil {
					t.Errorf("client %d, change %d: %v", id, count[id], err)
					return
				}
			}
		})
	}
	for _, p := range append(c.followers(), c.leader()) {
		p.stop()
		p.start()
		c.settled(3)
	}
	stop()
	wg.Wait()
	pages := c.equal()
	for id, n := range count {
		var want strings.Builder
		for i := range n {
			fmt.Fprintf(&want, "%d,", i)
		}
		if n == 0 || pages[fmt.Sprint("list ", id)] != want.String() {
			t.Errorf("list %d of %d changes is %q", id, n, pages[fmt.Sprint("list ", id)])
		}
	}
}
