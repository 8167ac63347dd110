package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// speak sends the first bytes of a vote to a node, and returns what reading its answer says.
func speak(t *testing.T, id identity, addr string) error {
	t.Helper()
	conn, err := id.dial(within(t, limit), addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(3*time.Second)))
	if _, err := conn.Write([]byte("\x01\x8f\xa4Ter")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// Only a node with a certificate of the same authority is a peer, only with one of a node or a client may a program
// send requests, and clients talk to nodes only.
func TestCertificates(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.begin()
	node := c.nodes[0]
	foreign := filepath.Join(c.dir, "foreign")
	must(t, certs(foreign, []string{"node:n1", "client:client"}))
	a, err := openAuthority(c.certs())
	must(t, err)
	must(t, a.issue(c.certs("other"), "other", "other.example"))
	for _, x := range []struct {
		name      string
		id        identity
		peer, api bool
	}{
		{"node", identity(c.certs("n1")), true, true},
		{"client", identity(c.certs("client")), false, true},
		{"neither node nor client", identity(c.certs("other")), false, false},
		{"node of another authority", identity(filepath.Join(foreign, "n1")), false, false},
		{"no certificate", "", false, false},
	} {
		err := speak(t, x.id, node.addr)
		var timeout net.Error // as raft waits for the rest
		if (errors.As(err, &timeout) && timeout.Timeout()) != x.peer {
			t.Errorf("%s as a peer: %v", x.name, err)
		}
		_, err = newClient(dialer{id: x.id}, []string{node.addr}).status(within(t, 2*time.Second), false)
		if (err == nil) != x.api {
			t.Errorf("%s as a client: %v", x.name, err)
		}
	}
	// A peer or client that trusts the authority of the cluster refuses a node with another certificate.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := newMux(l, identity(filepath.Join(foreign, "n1")), (&config{logLevel: "error"}).logger())
	defer m.close()
	if _, err := identity(c.certs("client")).dial(within(t, limit), l.Addr().String()); err == nil ||
		!strings.Contains(err.Error(), "not trusted") {
		t.Errorf("a foreign node was accepted: %v", err)
	}
	// New certificates are used without a restart.
	must(t, os.Rename(foreign, c.certs("new")))
	for _, name := range []string{caFile, certFile, keyFile} {
		must(t, os.Rename(filepath.Join(c.certs("new"), "n1", name), filepath.Join(c.certs("n1"), name)))
	}
	if _, err := newClient(dialer{id: identity(c.certs("new", "client"))}, []string{node.addr}).
		status(within(t, limit), false); err != nil {
		t.Errorf("a client with a new certificate: %v", err)
	}
	if _, err := c.client().status(within(t, time.Second), false); err == nil {
		t.Error("the old authority is trusted still")
	}
}

// A node with a foreign certificate cannot join.
func TestForeignNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.nodes[1].flags = []string{"-join", c.nodes[0].addr, "-join-timeout=2s"}
	foreign := filepath.Join(c.dir, "foreign")
	must(t, certs(foreign, []string{"node:n2"}))
	first := c.nodes[0]
	succeed(t, "init", "-id", first.id, "-dir", first.dir, "-advertise", first.addr)
	first.start()
	c.nodes[1].start("-tls", filepath.Join(foreign, "n2"))
	if code := c.nodes[1].wait(); code != exitError {
		t.Errorf("exit code %d, want %d", code, exitError)
	}
	if len(c.members()) != 1 {
		t.Errorf("members %+v", c.members())
	}
}

// Faults of requests have answers that say so, and change nothing.
func TestRequests(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, "-max-body=1000", "-requests=1")
	c.begin()
	cl := c.client()
	for _, x := range []struct {
		method, path string
		length       int
		status       int
	}{
		{"PUT", "/v1/page?key=k", 1000, http.StatusOK},
		{"PUT", "/v1/page?key=k", 1001, http.StatusRequestEntityTooLarge},
		{"PUT", "/v1/page", 1, http.StatusBadRequest},
		{"PUT", "/v1/page?key=" + strings.Repeat("k", maxKey+1), 1, http.StatusBadRequest},
		{"GET", "/v1/page?key=" + strings.Repeat("k", maxKey), 0, http.StatusNotFound},
		{"PATCH", "/v1/page?key=k", 1, http.StatusMethodNotAllowed},
		{"GET", "/", 0, http.StatusNotFound},
		{"POST", "/v1/join", 1, http.StatusBadRequest},
		{"POST", "/v1/leave", 1, http.StatusBadRequest},
		{"GET", "/v1/status?x=" + strings.Repeat("x", 30<<10), 0, http.StatusRequestHeaderFieldsTooLarge},
	} {
		req, err := http.NewRequestWithContext(within(t, limit), x.method, "http://"+c.nodes[0].addr+x.path,
			bytes.NewReader(make([]byte, x.length)))
		must(t, err)
		resp, err := cl.http.Do(req)
		must(t, err)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != x.status {
			t.Errorf("%s %.30s with %d bytes: %s, %s, %v, want %d", x.method, x.path, x.length, resp.Status, text, err,
				x.status)
		}
	}
	if _, err := cl.leave(within(t, limit), "n1"); err == nil || !strings.Contains(err.Error(), "only member") {
		t.Errorf("leave of the only member: %v", err)
	}
	if _, err := cl.leave(within(t, limit), "n7"); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("leave of a stranger: %v", err)
	}

	// A request whose body does not come takes the only slot. Another one gets an answer, and then the first ends. The
	// slot of the request before may not be free yet, and then the first gets none, so it is sent again and again.
	var conn net.Conn
	eventually(t, "there is no slot", func() (err error) {
		if conn != nil {
			conn.Close()
		}
		if conn, err = identity(c.certs("client")).dial(within(t, limit), c.nodes[0].addr); err != nil {
			return err
		}
		_, err = io.WriteString(conn, "PUT /v1/page?key=k HTTP/1.1\r\nHost: n1\r\nContent-Length: 10\r\n\r\n12345")
		for range 50 {
			if err != nil && strings.Contains(err.Error(), errBusy.Error()) {
				return nil
			}
			time.Sleep(20 * time.Millisecond) // the server has to see the first one
			_, _, err = cl.send(within(t, limit), c.nodes[0].addr, request{method: "GET", path: "/v1/status"})
		}
		return fmt.Errorf("%v", err)
	})
	defer func() { conn.Close() }()
	conn.Close()
	eventually(t, "the slot is free", func() error {
		_, _, err := cl.send(within(t, limit), c.nodes[0].addr, request{method: "GET", path: "/v1/status"})
		return err
	})
	c.expect("k", string(make([]byte, 1000)))
}

// A change at a leader without a majority ends in time, with an unknown outcome.
func TestWithoutMajority(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "-timeout=1s", "-heartbeat=5s") // so that the leader goes on for 2.5 s
	c.begin()
	leader := c.leader()
	for _, p := range c.followers() {
		p.kill()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, _, err := c.client().send(ctx, leader.addr, request{"PUT", "/v1/page", map[string][]string{"key": {"k"}}, nil})
	if !errors.As(err, &unknownOutcome{}) {
		t.Errorf("a change without a majority: %v, want an unknown outcome", err)
	}
	t.Logf("after %v: %v", time.Since(began), err)
	for _, p := range c.nodes {
		if !p.runs() {
			p.start()
		}
	}
	c.settled(3)
	c.equal()
}

// A member whose directory is gone does not start, and neither does a node without a cluster.
func TestEmptyMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	lonely := c.add("n4")
	lonely.start()
	if code := lonely.wait(); code != exitError || !strings.Contains(lonely.said.String(), "pagesd init") {
		t.Errorf("an empty node without -join: exit code %d: %s", code, lonely.said)
	}
	c.nodes = c.nodes[:3]
	c.begin()
	c.change(opPut, "key", "value")
	lost := c.followers()[0]
	lost.kill()
	must(t, os.RemoveAll(lost.dir))
	lost.flags = []string{"-join", c.addrs(c.leader())}
	lost.start()
	if code := lost.wait(); code != exitError || !strings.Contains(lost.said.String(), "is a member of the cluster") {
		t.Errorf("a member without its directory: exit code %d: %s", code, tail(lost.said.String()))
	}
	_, err := c.client(c.leader()).leave(within(t, limit), lost.id)
	must(t, err)
	lost.start()
	c.settled(3)
	c.equal()
	lost.stop()
	code, _, said := pagesd(t, "init", "-id", "n9", "-dir", lost.dir, "-advertise", "127.0.0.1:1")
	if code != exitError || !strings.Contains(said, "bootstrap") {
		t.Errorf("init of a directory in use: exit code %d: %s", code, said)
	}
}

// Wrong flags are exit code 2, and what cannot start is 1.
func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{
		{}, {"other"}, {"serve"}, {"serve", "-id=n1", "-dir=" + dir, "-listen=127.0.0.1:0"},
		{"serve", "-id=n1", "-dir=" + dir, "-listen=:0", "-insecure"}, {"serve", "-x"}, {"serve", "-h"},
		{"serve", "-id=n1", "-dir=" + dir, "-listen=127.0.0.1:0", "-insecure", "-heartbeat=1ms"},
		{"serve", "-id=n1", "-dir=" + dir, "-listen=127.0.0.1:0", "-insecure", "more"},
		{"serve", "-id=n1", "-dir=" + dir, "-listen=127.0.0.1:0", "-insecure", "-via=x"},
		{"init"}, {"recover", "-id=n1"}, {"certs"}, {"client"}, {"client", "-to=127.0.0.1:1", "-insecure", "fly"},
		{"client", "-to=127.0.0.1:1", "-insecure", "put", "key"}, {"client", "-to=127.0.0.1:1", "get", "key"},
	} {
		if code, _, said := pagesd(t, args...); code != exitUsage {
			t.Errorf("pagesd %q: exit code %d, want %d: %s", args, code, exitUsage, said)
		}
	}
	for _, args := range [][]string{
		{"serve", "-id=n1", "-dir=" + dir, "-listen=127.0.0.1:0", "-tls=" + dir},
		{"certs", dir, "king:n1"}, {"certs", dir, "node:../n1"}, {"inspect", "-id=n1", "-dir=" + dir},
		{"inspect", "-id=n1", "-dir=" + filepath.Join(dir, "mistyped")},
		{"recover", "-id=n1", "-dir=" + dir, "-advertise=127.0.0.1:1"},
		{"recover", "-id=n1", "-dir=" + filepath.Join(dir, "mistyped"), "-advertise=127.0.0.1:1"},
		{"client", "-to=127.0.0.1:1", "-insecure", "-timeout=100ms", "get", "key"},
	} {
		if code, _, said := pagesd(t, args...); code != exitError {
			t.Errorf("pagesd %q: exit code %d, want %d: %s", args, code, exitError, said)
		}
	}
	for _, name := range []string{"log", "pages", "mistyped"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("a command that failed has made %s", name)
		}
	}
}

// A stop that takes longer than it may is exit code 3.
func TestStopInTime(t *testing.T) { stopBeside(t, "-stop-timeout=1ms", exitIncomplete) }

// A request that takes longer than a stop may, such as a backup over a slow network, is broken off, and the rest is
// closed in order.
func TestStopBreaksRequestsOff(t *testing.T) { stopBeside(t, "-stop-timeout=4s", 0) }

// stopBeside stops a node while a request sends nothing more.
func stopBeside(t *testing.T, flag string, want int) {
	t.Parallel()
	c := newCluster(t, 1)
	node := c.nodes[0]
	node.flags = []string{flag}
	c.begin()
	conn, err := identity(c.certs("client")).dial(within(t, limit), node.addr)
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "PUT /v1/page?key=k HTTP/1.1\r\nHost: n1\r\nContent-Length: 10\r\n\r\n12345")
	must(t, err)
	time.Sleep(100 * time.Millisecond)
	node.signal(syscall.SIGTERM)
	if code := node.wait(); code != want {
		t.Errorf("exit code %d, want %d:\n%s", code, want, tail(node.said.String()))
	}
	node.flags = nil
	node.start()
	c.settled(1)
}

// Connections that send nothing, or nonsense, are closed and harm nobody.
func TestNonsense(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := newMux(l, "", (&config{logLevel: "error"}).logger())
	go http.Serve(m.api, http.NotFoundHandler())
	var open []net.Conn
	for _, bytes := range []string{"", "\x16\x03\x01", "GET / HTTP/1.1\r\n\r\n", "\x01"} {
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		_, err = io.WriteString(conn, bytes)
		must(t, err)
		open = append(open, conn)
	}
	peer, err := m.raft.Accept()
	must(t, err)
	b := make([]byte, 1)
	if _, err := io.ReadFull(peer, b); err != nil || b[0] >= ' ' {
		t.Errorf("first byte of a peer: %q, %v", b, err)
	}
	probe, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	must(t, probe.Close())
	must(t, m.close()) // waits for nobody
	if _, err := m.raft.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after close: %v", err)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
}
