package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// headerTimeout and idleTimeout limit connections of HTTP that send nothing.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// drainTime is the time for which a node that stops goes on to answer, and closes each connection behind its answer. A
// client that sends a request just when its idle connection is closed does not know whether it was received.
const drainTime = 300 * time.Millisecond

// errIncomplete wraps the reason why a stop did not end in time.
var errIncomplete = errors.New("stop was not completed")

// errFailed wraps the reason why a running node had to stop.
var errFailed = errors.New("the node has failed")

// serve runs a node until ctx ends, or until it fails.
func serve(ctx context.Context, c *config) error {
	logger := c.logger()
	registry, err := measure()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	n, err := openNode(c, l, logger, func(d dialer) error { return c.mayBegin(ctx, d) })
	if err != nil {
		return err
	}
	requests := server(newAPI(n), c.timeout, logger)
	requests.ConnState = n.conns.note
	ended := make(chan error, 2)
	go func() { ended <- requests.Serve(n.mux.api) }()
	monitor := server(newMonitor(n, registry), c.timeout, logger)
	defer monitor.Close()
	if c.monitor != "" {
		m, err := net.Listen("tcp", c.monitor)
		if err != nil {
			return errors.Join(err, stop(n, requests, false))
		}
		go func() { ended <- monitor.Serve(m) }()
	}
	joined, leave := context.WithCancel(ctx)
	defer leave()
	go n.join(joined)
	logger.Info("the node is running", "listen", l.Addr(), "advertise", c.advertise, "dir", c.dir)
	select {
	case <-ctx.Done():
		logger.Info("stopping")
		return stop(n, requests, true)
	case err := <-ended: // which Serve does by itself only if a listener fails
		return errors.Join(fmt.Errorf("%w: %w", errFailed, err), stop(n, requests, false))
	case err := <-n.failed:
		logger.Error("the node has failed", "error", err)
		return errors.Join(fmt.Errorf("%w: %w", errFailed, err), stop(n, requests, false))
	}
}

// conns are the connections of a server. A request that has just come is dropped by http.Server.Shutdown without an
// answer, so a node that stops waits before until there is none.
type conns struct {
	mu   sync.Mutex
	busy map[net.Conn]bool // those with a request, or with the first bytes of one
}

// note is called when the state of a connection changes.
func (c *conns) note(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != http.StateNew && s != http.StateActive {
		delete(c.busy, conn)
		return
	}
	if c.busy == nil {
		c.busy = map[net.Conn]bool{}
	}
	c.busy[conn] = true
}

// quiet waits until no connection has a request.
func (c *conns) quiet(ctx context.Context) error {
	for {
		c.mu.Lock()
		n := len(c.busy)
		c.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d requests have not ended: %w", n, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// server returns a server of HTTP with limits.
func server(h http.Handler, timeout time.Duration, logger hclog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       timeout + headerTimeout,
		WriteTimeout:      timeout + headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          logger.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// stop ends a node in order: it hands its leadership on, waits for requests, stops raft, and closes the pages and the
// log. After a failure it does not try the first, and waits for requests for a moment only.
func stop(n *node, requests *http.Server, healthy bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), n.conf.stopTimeout)
	defer cancel()
	var err error
	n.draining.Store(true)
	if healthy {
		if n.raft.State() == raft.Leader && n.voters() > 1 {
			half, cancel := context.WithTimeout(ctx, n.conf.stopTimeout/2)
			if err := n.handOn(half, member{}); err != nil {
				n.logger.Warn("cannot hand the leadership on", "error", err)
			}
			cancel()
		}
		select {
		case <-time.After(drainTime):
		case <-ctx.Done():
		}
		end, _ := ctx.Deadline()
		half, cancel := context.WithTimeout(ctx, time.Until(end)/2) // the rest is for closing
		err = n.mux.refuse(half)
		if err := errors.Join(n.conns.quiet(half), requests.Shutdown(half)); err != nil {
			n.logger.Warn("requests are broken off", "error", err) // such as a long backup
		}
		cancel()
	} else { // requests that have failed with the node are answered
		short, cancel := context.WithTimeout(ctx, drainTime)
		_ = n.conns.quiet(short)
		cancel()
	}
	err = errors.Join(err, requests.Close(), n.close(ctx))
	if err != nil {
		return fmt.Errorf("%w: %w", errIncomplete, err)
	}
	n.logger.Info("stopped")
	return nil
}

// voters returns the number of members that vote.
func (n *node) voters() (count int) {
	for _, m := range n.members() {
		if m.Voter {
			count++
		}
	}
	return count
}

// mayBegin returns nil if a node whose directory is empty may start: it must join a cluster that does not know it. A
// member that has lost its votes and its log must not come back under its old name, since it could vote twice, and
// what it has acknowledged would count as stored.
func (c *config) mayBegin(ctx context.Context, d dialer) error {
	if len(c.join) == 0 {
		return errors.New("the directory is empty: begin a new cluster with pagesd init, or join one with -join")
	}
	ctx, cancel := context.WithTimeout(ctx, c.joinTimeout)
	defer cancel()
	client := client{http: newHTTPClient(d), addrs: c.join}
	s, err := client.status(ctx, true)
	if err != nil {
		return fmt.Errorf("ask the leader whether node %s is new: %w", c.id, err)
	}
	for _, m := range s.Members {
		if m.ID == c.id {
			return fmt.Errorf("the directory is empty, but node %s is a member of the cluster: "+
				"end that membership first (pagesd client leave %s), or take another -id", c.id, c.id)
		}
	}
	return nil
}

// join has the cluster make this node a member, if there are addresses to ask, until it is one or ctx ends.
func (n *node) join(ctx context.Context) {
	if len(n.conf.join) == 0 {
		return
	}
	client := client{http: newHTTPClient(n.dialer()), addrs: n.conf.join}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		try, cancel := context.WithTimeout(ctx, n.conf.timeout)
		_, err := client.join(try, member{ID: n.conf.id, Address: n.conf.advertise, Voter: !n.conf.nonvoter})
		cancel()
		if err == nil {
			n.logger.Info("this node is a member")
			return
		}
		n.logger.Warn("cannot join", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
