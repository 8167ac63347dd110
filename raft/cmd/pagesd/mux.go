package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// handshakeTimeout limits the time until a connection has shown its certificate and its first byte.
const handshakeTimeout = 10 * time.Second

// mux accepts connections of two kinds at one address. A request of raft's transport begins with a byte below a space,
// its kind, and one of HTTP with a letter. Only nodes may send those of raft.
type mux struct {
	listener  net.Listener
	id        identity
	raft, api *branch
	logger    hclog.Logger
	ctx       context.Context
	stop      context.CancelFunc
	wg        sync.WaitGroup // of the goroutines that accept and greet
}

// newMux accepts connections of a listener until Close.
func newMux(l net.Listener, id identity, logger hclog.Logger) *mux {
	m := &mux{listener: l, id: id, raft: newBranch(l.Addr()), api: newBranch(l.Addr()), logger: logger}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.wg.Go(m.run)
	return m
}

// run accepts connections until the listener is closed.
func (m *mux) run() {
	for {
		conn, err := m.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files
			m.logger.Warn("cannot accept a connection", "error", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		m.wg.Go(func() {
			if err := m.greet(conn); err != nil {
				m.logger.Warn("refused a connection", "from", conn.RemoteAddr(), "error", err)
				_ = conn.Close()
			}
		})
	}
}

// greet makes the handshake of a connection and gives it to the branch that its first byte asks for.
func (m *mux) greet(conn net.Conn) error {
	ctx, cancel := context.WithTimeout(m.ctx, handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c, node, err := m.id.accept(ctx, conn)
	if err != nil {
		return err
	}
	s := &sniffed{Conn: c}
	if n, err := c.Read(s.first[:]); n == 0 {
		if errors.Is(err, io.EOF) { // it has sent nothing, as a probe
			return c.Close()
		}
		return err
	}
	switch {
	case s.first[0] >= ' ':
		return m.api.give(ctx, s)
	case !node:
		return fmt.Errorf("the certificate is not for %s", nodeName)
	}
	return m.raft.give(ctx, s)
}

// refuse stops accepting, and waits a moment for connections that were accepted to get to their server: one that is
// closed before it may have sent a request already.
func (m *mux) refuse(ctx context.Context) error {
	err := m.listener.Close()
	greeted := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(greeted)
	}()
	select {
	case <-greeted:
	case <-time.After(drainTime):
	case <-ctx.Done():
	}
	return errors.Join(err, m.api.flush(ctx))
}

// close stops accepting, and ends both branches. Connections that were given out stay.
func (m *mux) close() error {
	m.stop()
	err := m.listener.Close()
	if errors.Is(err, net.ErrClosed) { // by refuse
		err = nil
	}
	_ = m.raft.Close()
	_ = m.api.Close()
	m.wg.Wait()
	return err
}

// sniffed is a connection whose first byte was read.
type sniffed struct {
	net.Conn
	first [1]byte
	done  bool // the first byte was returned; only Read, which one goroutine calls at a time, uses it
}

// Read returns the first byte, then the rest.
func (s *sniffed) Read(p []byte) (int, error) {
	if s.done || len(p) == 0 {
		return s.Conn.Read(p)
	}
	s.done = true
	return copy(p, s.first[:]), nil
}

// branch is the listener of one of the kinds.
type branch struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newBranch(addr net.Addr) *branch {
	return &branch{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give passes a connection to Accept.
func (b *branch) give(ctx context.Context, c net.Conn) error {
	select {
	case b.conns <- c:
		return nil
	case <-b.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept returns the next connection.
func (b *branch) Accept() (net.Conn, error) {
	for {
		select {
		case c := <-b.conns:
			if c != nil {
				return c, nil
			}
		case <-b.done:
			return nil, net.ErrClosed
		}
	}
}

// flush waits until Accept is called again: then its caller has dealt with all connections before.
func (b *branch) flush(ctx context.Context) error { return b.give(ctx, nil) }

// Close ends Accept.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.done) })
	return nil
}

// Addr returns the address of the listener.
func (b *branch) Addr() net.Addr { return b.addr }

// address is the address at which others reach a node. It may have a host name.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// peers is how raft reaches other nodes: the raft.StreamLayer of its transport.
type peers struct {
	*branch
	dialer dialer
	own    address
}

// Addr returns the address at which others reach this node.
func (p *peers) Addr() net.Addr { return p.own }

// Dial connects to another node.
func (p *peers) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return p.dialer.dial(ctx, string(addr))
}

// dialer connects to nodes. via has addresses that are reached through others.
type dialer struct {
	id  identity
	via map[string]string
}

func (d dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	if via, ok := d.via[addr]; ok {
		addr = via
	}
	return d.id.dial(ctx, addr)
}
