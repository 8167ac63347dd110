package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
)

// pages returns all pages of a node by their keys, from a backup of it.
func (p *process) pages() map[string]string {
	t := p.c.t
	t.Helper()
	name := filepath.Join(t.TempDir(), "backup")
	_, err := p.c.client(p).backup(within(t, limit), name)
	must(t, err)
	return pagesOf(t, name)
}

// pagesOf returns all pages of a backup by their keys.
func pagesOf(t testing.TB, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	dir := filepath.Join(t.TempDir(), "installed")
	_, err = engine.Install(within(t, limit), dir, nil, f)
	must(t, err)
	return pagesIn(t, dir)
}

// pagesIn returns all pages of a store by their keys.
func pagesIn(t testing.TB, dir string) map[string]string {
	t.Helper()
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{ReadOnly: true})
	must(t, err)
	defer pc.Close()
	tx, err := pc.Begin()
	must(t, err)
	defer tx.End()
	roots, err := pc.Meta(tx)
	must(t, err)
	all := map[string]string{}
	for name, pid := range roots {
		key, ours := strings.CutPrefix(name, rootPrefix)
		if !ours { // of the FSM
			continue
		}
		page, err := pc.Get(tx, pid)
		must(t, err)
		if page.Kind != engine.KindMaterialized {
			t.Fatalf("page of %q is %v", key, page.Kind)
		}
		all[key] = string(page.Value)
	}
	return all
}

// equal waits until all nodes that run have the same pages, and returns them.
func (c *cluster) equal() map[string]string {
	c.t.Helper()
	c.change(opPut, "last", fmt.Sprint(time.Now()))
	c.settled(len(c.members()))
	var first map[string]string
	for _, p := range c.nodes {
		if !p.runs() {
			continue
		}
		is := p.pages()
		if first == nil {
			first = is
		}
		if !maps.Equal(first, is) {
			c.t.Fatalf("node %s has other pages: %d, %d", p.id, len(first), len(is))
		}
	}
	return first
}

// members returns the members of the cluster.
func (c *cluster) members() []member {
	c.t.Helper()
	s, err := c.client().status(within(c.t, limit), true)
	must(c.t, err)
	return s.Members
}

// A cluster of three nodes takes changes and reads at each, hands its leadership on, gives an empty node a snapshot,
// lets the leader leave, and stops.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "-trailing=5", "-snapshot-after=1000000")
	c.begin()
	for i, p := range c.nodes {
		cl := c.client(p)
		key := fmt.Sprint("key ", i)
		_, err := cl.change(within(t, limit), command{opPut, key, []byte("a")})
		must(t, err)
		index, err := cl.change(within(t, limit), command{opLink, key, []byte("b")})
		must(t, err)
		at, value, err := cl.read(within(t, limit), key, false)
		if err != nil || string(value) != "ab" || at < index {
			t.Fatalf("page of %q at node %s: %q at %d, %v, want ab at %d or later", key, p.id, value, at, err, index)
		}
		eventually(t, "a local read", func() error {
			at, value, err := cl.read(within(t, limit), key, true)
			if at >= index && (err != nil || string(value) != "ab") {
				t.Fatalf("page of %q on node %s at %d: %q, %v, want ab", key, p.id, at, value, err)
			}
			if at < index {
				return fmt.Errorf("node %s is at %d, want %d", p.id, at, index)
			}
			return nil
		})
		c.change(opLink, "list", p.id)
	}
	c.expect("list", "n1n2n3")
	c.change(opDelete, "key 1", "")
	for _, local := range []bool{false, true} {
		if _, _, err := c.client(c.leader()).read(within(t, limit), "key 1", local); !errors.Is(err, errNoKey) {
			t.Errorf("read of a deleted key: %v, want errNoKey", err)
		}
	}
	if _, err := c.client().change(within(t, limit), command{opDelete, "key 1", nil}); !errors.Is(err, errNoKey) {
		t.Errorf("second delete: %v, want errNoKey", err)
	}

	for _, id := range []string{"n2", "n3", "n3", "n1"} {
		s, err := c.client(c.nodes[0]).transfer(within(t, limit), id)
		must(t, err)
		if s.Leader.ID != id && c.leader().id != id {
			t.Errorf("node %s leads, want %s", c.leader().id, id)
		}
	}
	c.settled(3)

	for i := range 100 {
		c.change(opPut, fmt.Sprint("many ", i%10), fmt.Sprint(i))
	}
	for _, p := range c.nodes {
		if s, err := c.client(p).snapshot(within(t, limit)); err != nil || s.SnapshotIndex < 100 {
			t.Fatalf("snapshot of node %s: %+v, %v", p.id, s, err)
		}
	}
	empty := c.add("n4")
	empty.start("-join", c.addrs(c.nodes[1:3]...))
	c.settled(4)
	if s, err := c.client(empty).status(within(t, limit), false); err != nil || s.SnapshotIndex < 100 {
		t.Errorf("the empty node got no snapshot: %+v, %v", s, err)
	}
	c.equal()

	leader := c.leader()
	out := succeed(t, "client", "-to", leader.addr, "-tls", c.certs("client"), "leave", leader.id)
	if s := statusOf(t, out); len(s.Members) != 3 || slices.ContainsFunc(s.Members, func(m member) bool {
		return m.ID == leader.id
	}) {
		t.Errorf("members after node %s has left: %+v", leader.id, s.Members)
	}
	eventually(t, "the node that left notices", func() error {
		if code, text := leader.get("/readyz"); code != http.StatusServiceUnavailable {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	leader.stop()
	c.settled(3)
	pages := c.equal()
	if pages["list"] != "n1n2n3" || pages["many 9"] != "99" {
		t.Errorf("pages %q", pages)
	}
	for _, p := range c.nodes {
		if p.runs() {
			p.stop()
		}
	}
	for _, p := range c.nodes {
		if p.runs() {
			t.Errorf("node %s runs", p.id)
		}
	}
}

// has waits until the leader knows the member, with this address.
func (c *cluster) has(m member) {
	c.t.Helper()
	eventually(c.t, "the cluster knows the member", func() error {
		if is := c.members(); !slices.Contains(is, m) {
			return fmt.Errorf("members %+v, want %+v", is, m)
		}
		return nil
	})
}

// A node that comes back at another address stays the same member, and one without a vote is a copy for reads.
func TestMoveAndCopy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.begin()
	c.change(opPut, "key", "value")
	moved := c.nodes[1]
	moved.stop()
	moved.addr = c.add("n9").addr
	c.nodes = c.nodes[:2]
	moved.start()
	c.settled(2)
	c.has(member{moved.id, moved.addr, true})

	reader := c.add("n3")
	reader.start("-nonvoter", "-join", c.nodes[0].addr)
	c.settled(3)
	c.has(member{reader.id, reader.addr, false})
	if _, err := c.client().transfer(within(t, limit), reader.id); err == nil {
		t.Error("a node without a vote became the leader")
	}
	if _, value, err := c.client(reader).read(within(t, limit), "key", true); err != nil || string(value) != "value" {
		t.Errorf("local read: %q, %v", value, err)
	}
	reader.kill() // which the majority does not notice
	c.change(opPut, "key", "value 2")
	reader.start()
	c.settled(3)
	c.equal()
}

// The monitor has health, readiness, and metrics of raft, the log, the pages and the process.
func TestMonitor(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.begin()
	c.change(opPut, "key", "value")
	leader, followers := c.leader(), c.followers()
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, text := leader.get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	_, text := leader.get("/metrics")
	for _, line := range []string{
		"pagesd_leader 1", "pagesd_has_leader 1", "pagesd_ready 1", "pagesd_healthy 1", "pagesd_members 3",
		`pagecache_log_failed{store="log"} 0`, `pagecache_log_failed{store="pages"} 0`, "raft_log_log_appends ",
		"raft_commitTime", "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	for _, p := range followers {
		p.kill()
	}
	eventually(t, "the leader notices that it is alone", func() error {
		if code, text := leader.get("/readyz"); code != http.StatusServiceUnavailable {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	if code, text := leader.get("/healthz"); code != http.StatusOK {
		t.Errorf("health of a lonely node: %d %s", code, text)
	}
	_, _, err := c.client(leader).read(within(t, 3*time.Second), "key", false)
	if err == nil || errors.Is(err, errNoKey) {
		t.Errorf("linearizable read without a majority: %v", err)
	}
	if _, value, err := c.client(leader).read(within(t, limit), "key", true); err != nil || string(value) != "value" {
		t.Errorf("local read without a majority: %q, %v", value, err)
	}
}
