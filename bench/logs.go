//go:build !abtest

package bench

import (
	"errors"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"pagecache/engine"
)

// Log keeps records in order. One goroutine appends.
type Log interface {
	// Append appends records and returns once they are durable.
	Append(records [][]byte) error
	// Scan reads all records in order and returns their number.
	Scan() (int, error)
	// Close closes the log.
	Close() error
}

// PagecacheLog is a Log on engine.Log.
type PagecacheLog struct{ Log *engine.Log }

var _ Log = PagecacheLog{}

// OpenPagecacheLog opens the log in dir, or makes one.
func OpenPagecacheLog(dir string) (PagecacheLog, error) {
	l, err := engine.OpenLog(dir, nil)
	return PagecacheLog{l}, err
}

// Append implements Log. The records are recovered all or none, as those of raft-wal.
func (l PagecacheLog) Append(records [][]byte) error {
	lsns, err := l.Log.WriteBatch(records)
	if err == nil {
		_, err = l.Log.MakeStable(lsns[len(lsns)-1])
	}
	return err
}

// Scan implements Log.
func (l PagecacheLog) Scan() (n int, err error) {
	for _, err := range l.Log.Records(0) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Close implements Log.
func (l PagecacheLog) Close() error { return l.Log.Close() }

// RaftWALConfig is the configuration of RaftWAL, in words.
const RaftWALConfig = "segments of 64 MiB, its default; its default codec"

// RaftWAL is a Log on HashiCorp's raft-wal.
type RaftWAL struct {
	WAL  *wal.WAL
	meta *metadb.BoltMetaDB // closed by Close, since raft-wal does not close it
	next uint64             // index of the next record; the first is 1
	logs []*raft.Log
}

var _ Log = (*RaftWAL)(nil)

// OpenRaftWAL opens the log in dir, which must exist, or makes one.
func OpenRaftWAL(dir string) (*RaftWAL, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(dir, wal.WithMetaStore(meta))
	if err != nil {
		return nil, err
	}
	l := &RaftWAL{WAL: w, meta: meta}
	last, err := w.LastIndex()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.next = last + 1
	return l, nil
}

// Append implements Log.
func (l *RaftWAL) Append(records [][]byte) error {
	for len(l.logs) < len(records) {
		l.logs = append(l.logs, new(raft.Log))
	}
	for i, r := range records {
		*l.logs[i] = raft.Log{Index: l.next + uint64(i), Data: r}
	}
	if err := l.WAL.StoreLogs(l.logs[:len(records)]); err != nil {
		return err
	}
	l.next += uint64(len(records))
	return nil
}

// Scan implements Log.
func (l *RaftWAL) Scan() (int, error) {
	var record raft.Log
	for i := uint64(1); i < l.next; i++ {
		if err := l.WAL.GetLog(i, &record); err != nil {
			return int(i - 1), err
		}
	}
	return int(l.next - 1), nil
}

// Close implements Log.
func (l *RaftWAL) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close()) }
