package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mainEnv has the test's own binary run the program.
const mainEnv = "PAGECACHE_PAGESD_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	flag.Parse()
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limit ends every wait of a test.
const limit = 90 * time.Second

// eventually waits until f returns nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}

// program returns the program with arguments, as a process that ends with this one.
func program(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// pagesd runs a command to its end, and returns its exit code and what it has printed.
func pagesd(t testing.TB, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := program(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must(t, cmd.Start())
	late := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// succeed runs a command that must succeed, and returns what it has printed.
func succeed(t testing.TB, args ...string) string {
	t.Helper()
	code, out, said := pagesd(t, args...)
	if code != 0 {
		t.Fatalf("pagesd %q: exit code %d: %s", args, code, said)
	}
	return out
}

// cluster is a number of processes, with certificates of one authority.
type cluster struct {
	t     testing.TB
	dir   string
	extra []string // flags of each node
	nodes []*process
	net   *network
}

// process is a node: its place, and the process that serves it, if one runs.
type process struct {
	c             *cluster
	id, dir       string
	addr, monitor string
	flags         []string
	env           []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	said *bytes.Buffer // of all lives; read after done
}

// newCluster makes certificates, and the place of some nodes.
func newCluster(t testing.TB, count int, extra ...string) *cluster {
	t.Helper()
	flags := []string{"-heartbeat=500ms", "-log=debug", "-timeout=20s", "-stop-timeout=60s"}
	c := &cluster{t: t, dir: t.TempDir(), extra: append(flags, extra...)}
	for i := range count {
		c.add(fmt.Sprint("n", i+1))
	}
	must(t, certs(c.certs(), []string{"client:client"}))
	t.Cleanup(c.close)
	return c
}

func (c *cluster) certs(names ...string) string {
	return filepath.Join(append([]string{c.dir, "certs"}, names...)...)
}

// add makes the place of a node at an address of its own.
func (c *cluster) add(id string) *process {
	c.t.Helper()
	must(c.t, certs(c.certs(), []string{"node:" + id}))
	// All of 127/8 is this machine.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	p := &process{c: c, id: id, dir: filepath.Join(c.dir, id), addr: host + ":7001", monitor: host + ":7002"}
	c.nodes = append(c.nodes, p)
	return p
}

// start starts a node with the flags of the cluster, its own, and more.
func (p *process) start(more ...string) {
	p.c.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	args := append([]string{"serve", "-id", p.id, "-dir", p.dir, "-listen", p.addr, "-monitor", p.monitor,
		"-tls", p.c.certs(p.id)}, p.c.extra...)
	args = append(append(args, p.flags...), more...)
	p.cmd = program(args...)
	p.cmd.Env = append(p.cmd.Env, p.env...)
	if p.said == nil {
		p.said = &bytes.Buffer{}
	}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	must(p.c.t, p.cmd.Start())
	done := make(chan struct{})
	p.done = done
	cmd := p.cmd
	go func() {
		defer close(done)
		_ = cmd.Wait() // ProcessState has the result
	}()
}

// signal sends a signal to the process if one runs.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// wait waits for the process to end and returns its exit code, -1 if a signal has ended it.
func (p *process) wait() int {
	p.c.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		<-time.After(time.Second)
		_ = p.cmd.Process.Kill()
		<-p.done
		p.c.t.Fatalf("node %s did not end within %v:\n%s", p.id, limit, tail(p.said.String()))
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// runs reports whether a process was started and not waited for.
func (p *process) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// kill ends the process at once. It must have run until then.
func (p *process) kill() {
	p.c.t.Helper()
	p.signal(syscall.SIGKILL)
	if code := p.wait(); code != -1 {
		p.c.t.Errorf("node %s has ended with exit code %d before it was killed:\n%s", p.id, code, tail(p.said.String()))
	}
}

// stop ends the process in order, once it has begun to work.
func (p *process) stop() {
	p.c.t.Helper()
	eventually(p.c.t, "node "+p.id+" runs", func() error {
		if code, text := p.get("/healthz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.c.t.Errorf("node %s has stopped with exit code %d:\n%s", p.id, code, tail(p.said.String()))
	}
}

// tail returns the end of what a process has said, and all lines about panics and races.
func tail(s string) string {
	if i := strings.Index(s, "panic:"); i >= 0 {
		return s[i:min(len(s), i+8000)]
	}
	return s[max(0, len(s)-4000):]
}

// close ends all processes. None may have said that it has failed in a way that no test wants.
func (c *cluster) close() {
	if c.net != nil {
		c.net.close()
	}
	for _, p := range c.nodes {
		p.signal(syscall.SIGKILL)
		if p.runs() {
			p.wait()
		}
		if p.said == nil {
			continue
		}
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(p.said.String(), bad) {
				c.t.Errorf("node %s: %s:\n%s", p.id, bad, tail(p.said.String()))
			}
		}
	}
}

// begin starts the first node of a new cluster, and the others, which join.
func (c *cluster) begin() {
	c.t.Helper()
	first := c.nodes[0]
	succeed(c.t, "init", "-id", first.id, "-dir", first.dir, "-advertise", first.addr)
	first.start()
	for _, p := range c.nodes[1:] {
		p.flags = append(p.flags, "-join", c.addrs(c.nodes[0]))
		p.start()
	}
	c.settled(len(c.nodes))
}

// addrs returns the addresses of nodes for a flag, of all if none are given.
func (c *cluster) addrs(nodes ...*process) string {
	if nodes == nil {
		nodes = c.nodes
	}
	var all []string
	for _, p := range nodes {
		all = append(all, p.addr)
	}
	return strings.Join(all, ",")
}

// client returns a client of nodes, of all if none are given.
func (c *cluster) client(nodes ...*process) *client {
	cl := newClient(dialer{id: identity(c.certs("client"))}, strings.Split(c.addrs(nodes...), ","))
	c.t.Cleanup(cl.http.CloseIdleConnections)
	return cl
}

// within returns a context that ends after a time.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// settled waits until a number of nodes are members, all that run are ready and have applied what is committed.
func (c *cluster) settled(members int) {
	c.t.Helper()
	eventually(c.t, "the cluster settles", func() error {
		lead, err := c.client().status(within(c.t, time.Second), true)
		if err != nil {
			return err
		}
		if len(lead.Members) != members {
			return fmt.Errorf("members %+v, want %d", lead.Members, members)
		}
		for _, p := range c.nodes {
			if !p.runs() {
				continue
			}
			if code, text := p.get("/readyz"); code != http.StatusOK {
				return fmt.Errorf("node %s: %d %s", p.id, code, text)
			}
			s, err := c.client(p).status(within(c.t, time.Second), false)
			if err != nil {
				return err
			}
			if len(s.Members) != members || s.Leader.ID != lead.ID || s.AppliedIndex < lead.AppliedIndex {
				return fmt.Errorf("node %s is %+v, and the leader is %+v", p.id, s, lead)
			}
		}
		return nil
	})
}

// leader returns the node that leads.
func (c *cluster) leader() *process {
	c.t.Helper()
	var leader *process
	eventually(c.t, "a leader", func() error {
		s, err := c.client().status(within(c.t, 2*time.Second), true)
		if err != nil {
			return err
		}
		if leader = c.node(s.ID); leader == nil {
			return fmt.Errorf("unknown leader %q", s.ID)
		}
		return nil
	})
	return leader
}

// node returns a node by its name.
func (c *cluster) node(id string) *process {
	for _, p := range c.nodes {
		if p.id == id {
			return p
		}
	}
	return nil
}

// followers returns the nodes that run and do not lead.
func (c *cluster) followers() (all []*process) {
	c.t.Helper()
	leader := c.leader()
	for _, p := range c.nodes {
		if p != leader && p.runs() {
			all = append(all, p)
		}
	}
	return all
}

// get asks the monitor of a node.
func (p *process) get(path string) (code int, text string) {
	cl := http.Client{Timeout: 2 * time.Second}
	resp, err := cl.Get("http://" + p.monitor + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// change makes a change that must succeed.
func (c *cluster) change(o op, key, value string) uint64 {
	c.t.Helper()
	index, err := c.client().change(within(c.t, limit), command{o, key, []byte(value)})
	if err != nil {
		c.t.Fatalf("%v %q: %v", o, key, err)
	}
	return index
}

// expect fails the test unless the page of a key is value, in the cluster as a whole.
func (c *cluster) expect(key, value string) {
	c.t.Helper()
	_, got, err := c.client().read(within(c.t, limit), key, false)
	if err != nil || string(got) != value {
		c.t.Fatalf("page of %q: %q, %v, want %q", key, got, err, value)
	}
}

// statusOf decodes a status that was printed.
func statusOf(t testing.TB, out string) (s status) {
	t.Helper()
	must(t, json.Unmarshal([]byte(out), &s))
	return s
}

// network is connections between nodes that can be cut: each node reaches each other one through a proxy of its own.
type network struct {
	mu    sync.Mutex
	links map[[2]string]*link // from, to
}

// link carries connections from one node to another.
type link struct {
	l      net.Listener
	target string
	mu     sync.Mutex
	cut    bool // connections are accepted, and nothing comes through
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
	flow   *sync.Cond
	closed bool
}

// connect has all nodes reach each other through links.
func (c *cluster) connect() {
	c.t.Helper()
	c.net = &network{links: map[[2]string]*link{}}
	for _, from := range c.nodes {
		for _, to := range c.nodes {
			if from == to {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(c.t, err)
			k := &link{l: l, target: to.addr, conns: map[net.Conn]bool{}}
			k.flow = sync.NewCond(&k.mu)
			c.net.links[[2]string{from.id, to.id}] = k
			from.flags = append(from.flags, "-via", to.addr+"="+l.Addr().String())
			k.wg.Go(k.run)
		}
	}
}

// run accepts connections.
func (k *link) run() {
	for {
		in, err := k.l.Accept()
		if err != nil {
			return
		}
		k.wg.Go(func() { k.carry(in) })
	}
}

// carry copies the bytes of a connection both ways.
func (k *link) carry(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", k.target, time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	k.mu.Lock()
	k.conns[in], k.conns[out] = true, true
	k.mu.Unlock()
	var wg sync.WaitGroup
	for _, x := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := x[0].Read(buf)
				if !k.pass() || err != nil {
					break
				}
				if _, err := x[1].Write(buf[:n]); err != nil {
					break
				}
			}
			_ = in.Close()
			_ = out.Close()
		})
	}
	wg.Wait()
	k.mu.Lock()
	delete(k.conns, in)
	delete(k.conns, out)
	k.mu.Unlock()
}

// pass waits until bytes come through. It returns false once the link is closed.
func (k *link) pass() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.cut && !k.closed {
		k.flow.Wait()
	}
	return !k.closed
}

// set cuts or mends a link. Connections of a cut one stay, without a word, as when packets are lost; mended, it closes
// them.
func (k *link) set(cut bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = cut
	if !cut {
		for c := range k.conns {
			_ = c.Close()
		}
	}
	k.flow.Broadcast()
}

// isolate cuts all links for which f is true, and mends the others.
func (n *network) isolate(f func(from, to string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, l := range n.links {
		l.set(f(k[0], k[1]))
	}
}

// close ends all links.
func (n *network) close() {
	for _, l := range n.links {
		_ = l.l.Close()
		l.mu.Lock()
		l.closed = true
		for c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		l.flow.Broadcast()
		l.wg.Wait()
	}
}

// decode decodes JSON that was printed.
func decode(t testing.TB, out string, v any) {
	t.Helper()
	must(t, json.Unmarshal([]byte(out), v))
}
