package raftlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"pagecache/engine"
)

// GroupID is the number of a raft group in a Multi, 0 … MaxGroupID.
type GroupID = engine.StreamID

// MaxGroupID is the highest number of a group.
const MaxGroupID = engine.MaxStreamID

// Multi keeps the logs of many raft groups in one standalone log. They share its segments and flushes: calls of
// StoreLogs of several groups that come together are one write. Space is freed from the beginning of the log: a group
// that keeps old entries keeps all segments behind them, unless it has few, which are then written again; see
// engine.Stream. Safe for concurrent use.
type Multi struct {
	log     *engine.Log
	metrics Metrics

	mu     sync.Mutex
	groups map[GroupID]*Store // that are open; nil once the Multi is closed. mu guards it
}

// OpenMulti opens the groups in dir, or makes a log without groups. Errors are those of engine.OpenLog, and
// engine.ErrCorrupt if the disk did not return a part of the log.
func OpenMulti(dir string, o *Options) (*Multi, error) {
	if o == nil {
		o = &Options{}
	}
	l, err := engine.OpenLog(dir, o.Log)
	if err != nil {
		return nil, err
	}
	if _, err := l.Stream(0); err != nil { // so is every other
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), l.Close())
	}
	return &Multi{log: l, metrics: o.Metrics, groups: map[GroupID]*Store{}}, nil
}

// Group opens a group, which need not exist: it does from its first entry or key on. Errors: ErrGroupOpen if it is open
// already, engine.ErrClosed, engine.ErrPageRange above MaxGroupID, and those of GetLog, since it reads the first and
// the last entry.
func (m *Multi) Group(id GroupID) (*Store, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.closedLocked(id); err != nil {
		return nil, fmt.Errorf("open group %d: %w", id, err)
	}
	s, err := newStore(m.log, id, m.metrics)
	if err != nil {
		return nil, fmt.Errorf("open group %d: %w", id, err)
	}
	s.release = func() error {
		s.settle()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.groups, id)
		return nil
	}
	m.groups[id] = s
	return s, nil
}

// closedLocked returns an error unless the Multi is open and the group is not. The caller holds mu.
func (m *Multi) closedLocked(id GroupID) error {
	if m.groups == nil {
		return engine.ErrClosed
	}
	if m.groups[id] != nil {
		return ErrGroupOpen
	}
	return nil
}

// Groups returns the numbers of the groups that have entries or keys, in rising order.
func (m *Multi) Groups() []GroupID { return m.log.Streams() }

// Remove removes a group that is not open: first its entries, durably, and then its keys. A crash in between leaves the
// keys. It works on a full disk. Errors: ErrGroupOpen, and those of engine.Stream.DropBelow and AppendNoted.
func (m *Multi) Remove(id GroupID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.closedLocked(id)
	if err == nil {
		err = m.remove(id)
	}
	if err != nil {
		return fmt.Errorf("remove group %d: %w", id, err)
	}
	return nil
}

// remove removes a group. The caller holds mu.
func (m *Multi) remove(id GroupID) error {
	s, err := m.log.Stream(id)
	if err != nil {
		return err
	}
	if err := s.DropBelow(context.Background(), math.MaxUint64); err != nil {
		return err
	}
	var none []engine.Note
	for _, name := range s.Notes() {
		none = append(none, engine.Note{Name: name})
	}
	lsn, err := s.AppendNoted(0, nil, none...)
	if err == nil && lsn != 0 {
		_, err = m.log.MakeStable(lsn)
	}
	return err
}

// Log returns the log below, for its Stats, Latencies and Err. The caller must not write to it.
func (m *Multi) Log() *engine.Log { return m.log }

// Close closes all groups and the log; see engine.Log.Close. Calls after the first return nil.
func (m *Multi) Close() error {
	m.mu.Lock()
	open := m.groups
	m.groups = nil
	m.mu.Unlock()
	if open == nil {
		return nil
	}
	for _, s := range open {
		s.closed.Store(true)
	}
	return m.log.Close()
}
