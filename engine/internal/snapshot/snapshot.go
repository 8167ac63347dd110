// Package snapshot keeps the snapshots of a page store: the one that the store was opened from, whose pages are taken
// into the page table when they are first touched, and those that the store writes.
//
//	N1  A page's slot in the table is empty only if the page was not touched since the opening; then the snapshot the
//	    store was opened from says what the page is.
//	N2  A snapshot gets its name once everything that it refers to is stable. Older ones are removed once the name is
//	    durable (trap 6).
//	N3  Writing a snapshot blocks no caller of the store. If a batch stays open, the snapshot is dropped.
//
// find.go finds and opens a snapshot; write.go writes one.
package snapshot

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Config describes where snapshots lie and to which store they belong.
type Config struct {
	In          vfs.Dir      // the store's directory; must be closed after the Store
	OwnDir      string       // absolute path of a directory of their own, made by the first Write; empty: In
	FS          vfs.FS       // opens OwnDir
	Lost        func() error // returns an error if the store was removed, so that no snapshot is written; may be nil
	Store       format.StoreID
	SegmentSize int
	Reader      vfs.Reader
	Logger      *slog.Logger
	Clean       bool // the store was closed cleanly: the page cache can be trusted (rule 11)
	Unchecked   bool // verify no snapshot as a whole; for tests
}

// Store is the snapshots of one open page store. Base is set by Find and does not change afterwards. The methods are
// safe for concurrent use, except Find.
type Store struct {
	// Base is the snapshot that the store was opened from; nil if it was opened from the log alone.
	Base *recovery.Snapshot

	c    Config
	held held
	file vfs.File // of Base
	view vfs.Map

	// writing has room for one: the writer of a snapshot, who owns the fields down to from.
	writing chan struct{}
	number  uint64     // of the newest snapshot
	from    format.LSN // where the log begins that the newest snapshot does not cover; NoLSN if that is not known

	at      atomic.Int64    // messages in the log when the newest snapshot began. Written by the writer; it only grows
	run     context.Context // ended by Stop
	stop    context.CancelFunc
	done    chan struct{} // closed when the background writer has ended
	written atomic.Int64  // snapshots written in this opening

	// Patience is the longest time that a snapshot waits until everything that it refers to is stable, and the time
	// that the background writer waits after a failure. It may be changed before Run.
	Patience time.Duration
}

// New returns the snapshots of a store. Nothing is read before Find.
func New(c Config) *Store {
	s := &Store{
		c: c, from: format.NoLSN, writing: make(chan struct{}, 1), done: make(chan struct{}), Patience: 5 * time.Second,
	}
	s.run, s.stop = context.WithCancel(context.Background())
	return s
}

// Path returns the path of the snapshot with this number, for messages.
func (s *Store) Path(number uint64) string {
	return filepath.Join(s.path(), format.SnapshotName(number))
}

// Written returns how many snapshots were written in this opening.
func (s *Store) Written() int64 { return s.written.Load() }

// Close releases the snapshot that the store was opened from, and the directory.
func (s *Store) Close() {
	if s.Base != nil {
		_, _ = s.view.Close(), s.file.Close()
	}
	s.held.close()
}

// Remove deletes all snapshots, of a temporary store.
func (s *Store) Remove() { _ = s.removeBelow(^uint64(0)) }
