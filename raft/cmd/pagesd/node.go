package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftlog"
	"pagecache/raft/raftpages"
)

// disk is what a node keeps in its directory.
type disk struct {
	log   *raftlog.Store
	pages *raftpages.FSM[[]byte]
}

// logDir and pagesDir are the directories of the log and the pages in that of a node.
const logDir, pagesDir = "log", "pages"

// openDisk opens the log and the pages in a directory, or makes them. failed is called if one of them stops.
func openDisk(c *config, logger hclog.Logger, failed func(error)) (d disk, err error) {
	options := func(what string) *engine.Options {
		logger := logger.Named(what)
		return &engine.Options{CacheCapacity: c.cache, Events: engine.AllEvents(func(e engine.Event) {
			logger.Log(level(int(e.Level())), fmt.Sprint(e))
			if f, ok := e.(engine.LogFailedInfo); ok {
				failed(fmt.Errorf("%s: %w", what, f.Err))
			}
		})}
	}
	d.log, err = raftlog.Open(filepath.Join(c.dir, logDir), &raftlog.Options{
		Log: options("log"), Metrics: raftlog.GoMetrics("raft", "log"),
	})
	if err != nil {
		return d, fmt.Errorf("open the log: %w", err)
	}
	d.pages, err = raftpages.Open(filepath.Join(c.dir, pagesDir), engine.Bytes{}, applyEntry, &raftpages.Options{
		Store: options("pages"), OnFail: failed,
	})
	if err != nil {
		return d, errors.Join(fmt.Errorf("open the pages: %w", err), d.log.Close())
	}
	return d, nil
}

// applyEntry applies an entry of raft's log. An entry of a newer format stops the node: it must not pass over what
// others do.
func applyEntry(tx *engine.Tx[[]byte], entry *raft.Log) (any, error) {
	c, err := decodeCommand(entry.Data)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", entry.Index, err)
	}
	err = c.apply(tx)
	if errors.Is(err, errNoKey) || errors.Is(err, engine.ErrTooLarge) { // on all nodes alike
		return nil, raftpages.Reject(err)
	}
	return nil, err
}

// level returns the level of hclog for one of log/slog: 0 is information, 4 a warning and 8 an error.
func level(l int) hclog.Level {
	switch {
	case l < 0:
		return hclog.Debug
	case l < 4:
		return hclog.Info
	case l < 8:
		return hclog.Warn
	}
	return hclog.Error
}

// close closes both, and waits for a disk that does not answer until ctx ends.
func (d disk) close(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- errors.Join(d.pages.Close(), d.log.Close()) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("close the pages and the log: %w", ctx.Err())
	}
}

// node is a member of the cluster, or one that will be.
type node struct {
	conf      *config
	logger    hclog.Logger
	disk      disk
	mux       *mux
	transport *raft.NetworkTransport
	raft      *raft.Raft
	// gate is held for reading while a change is under way, and for writing while the leadership is handed on, so that
	// no change loses its answer by that.
	gate sync.RWMutex
	// draining is set once the node is about to stop: connections are closed behind answers. It publishes nothing.
	draining atomic.Bool
	conns    conns // of clients
	// failed has the error after which the node must stop.
	failed chan error
	once   sync.Once // of failed
}

// openNode starts a node. permit is called with an empty directory, and returns an error if raft must not start there.
func openNode(c *config, l net.Listener, logger hclog.Logger, permit func(dialer) error) (n *node, err error) {
	n = &node{conf: c, logger: logger, failed: make(chan error, 1)}
	if n.disk, err = openDisk(c, logger, n.fail); err != nil {
		return nil, err
	}
	used, err := n.disk.used()
	if err == nil {
		err = removeUploads(c.dir)
	}
	if err == nil && !used {
		err = permit(n.dialer())
	}
	if err != nil {
		return nil, errors.Join(err, n.disk.close(context.Background()))
	}
	n.mux = newMux(l, c.identity, logger.Named("mux"))
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  &peers{branch: n.mux.raft, dialer: n.dialer(), own: address(c.advertise)},
		MaxPool: 3, Timeout: rpcHeartbeats * c.heartbeat, Logger: logger.Named("transport"),
	})
	n.raft, err = n.disk.pages.NewRaft(c.raft(logger.Named("raft")), n.disk.log, n.disk.log, n.transport)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), n.transport.Close(), n.mux.close(),
			n.disk.close(context.Background()))
	}
	return n, nil
}

// used reports whether the directory has the state of a member.
func (d disk) used() (bool, error) { return raft.HasExistingState(d.log, d.log, d.pages.Snapshots()) }

// dialer returns how the node reaches others.
func (n *node) dialer() dialer { return dialer{n.conf.identity, n.conf.via} }

// fail has the node stop.
func (n *node) fail(err error) { n.once.Do(func() { n.failed <- err }) }

// err returns why the node does not work.
func (n *node) err() error { return errors.Join(n.disk.pages.Err(), n.disk.log.Log().Err()) }

// applied returns the index up to which the pages have the entries.
func (n *node) applied() uint64 {
	index, _ := n.disk.pages.Applied()
	return index
}

// close stops raft and closes everything. If ctx ends before, the error says what was not closed.
func (n *node) close(ctx context.Context) error {
	err := await(ctx, n.raft.Shutdown())
	if err != nil {
		err = fmt.Errorf("stop raft: %w", err)
	}
	n.transport.CloseStreams()
	err = errors.Join(err, n.transport.Close(), n.mux.close())
	if errors.Is(err, context.DeadlineExceeded) {
		return err // raft may still write
	}
	return errors.Join(err, n.disk.close(ctx))
}

// change has a command applied, and returns its index. After an error that is an unknownOutcome it may have been, or
// may be later; after another one it was not and will not be.
func (n *node) change(ctx context.Context, c command) (uint64, error) {
	n.gate.RLock()
	defer n.gate.RUnlock()
	if n.raft.State() != raft.Leader {
		return 0, errNotLeader
	}
	f := n.raft.Apply(c.encode(), remaining(ctx))
	if err := n.outcome(await(ctx, f)); err != nil {
		return 0, fmt.Errorf("%v: %w", c.op, err)
	}
	if err, ok := f.Response().(error); ok {
		if errors.Is(err, raftpages.ErrStopped) || errors.Is(err, raftpages.ErrApplied) { // it is committed
			err = unknownOutcome{err}
		}
		return 0, fmt.Errorf("%v: %w", c.op, err)
	}
	return f.Index(), nil
}

// outcome returns what an error of raft says about the change that was asked for.
func (n *node) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return errNotLeader
	case errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress): // not stored
		return err
	}
	return unknownOutcome{err}
}

// verifyLeader returns nil if the node is the leader at some moment during the call.
func (n *node) verifyLeader(ctx context.Context) error {
	if n.raft.State() != raft.Leader {
		return errNotLeader
	}
	err := n.disk.pages.VerifyLeader(ctx, n.raft)
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		return errNotLeader
	}
	return err
}

// read returns the page of a key as it is at some moment during the call, in the whole cluster.
func (n *node) read(ctx context.Context, key string) (index uint64, value []byte, err error) {
	if n.raft.State() != raft.Leader {
		return 0, nil, errNotLeader
	}
	index, err = n.disk.pages.Read(ctx, n.raft, func(tx *engine.Tx[[]byte]) error { return get(tx, key, &value) })
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		err = errNotLeader
	}
	return index, value, err
}

// readLocal returns the page of a key as this node has it, and at which index that was.
func (n *node) readLocal(ctx context.Context, key string) (index uint64, value []byte, err error) {
	index, err = n.disk.pages.View(ctx, func(tx *engine.Tx[[]byte]) error { return get(tx, key, &value) })
	return index, value, err
}

// get copies the page of a key. Values of a transaction end with it.
func get(tx *engine.Tx[[]byte], key string, value *[]byte) error {
	pid, err := tx.Root(rootOf(key))
	if errors.Is(err, engine.ErrRootNotFound) {
		return errNoKey
	}
	if err != nil {
		return err
	}
	page, err := tx.Get(pid)
	*value = append([]byte(nil), page.Value...)
	return err
}
