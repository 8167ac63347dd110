// Package snapshot keeps the snapshots of a page store: the one that the store was opened from, whose pages are taken
// into the page table when they are first touched, and those that the store writes.
//
//	N1  A page's slot in the table is empty only if the page was not touched since the opening; then the snapshot the
//	    store was opened from says what the page is.
//	N2  A snapshot gets its name once everything that it refers to is stable. Older ones are removed once the name is
//	    durable (trap 6).
//	N3  Writing a snapshot blocks no caller of the store. If a batch stays open, the snapshot is dropped.
//	N4  A corrupt block costs time, never data (trap 29). The pages of the block are looked up in the log, and calls
//	    on them wait meanwhile. The next snapshot replaces the file.
//	N5  From the moment that a block is known to be corrupt until it is rebuilt, nothing is cleaned or recycled, and
//	    no id of the block is handed out.
//	N6  The messages that the next opening would have to apply are counted across openings, so that every store gets a
//	    snapshot, however briefly it is open each time (trap 37).
//	N7  A snapshot is used, replaced or removed only if the store, and not a copy of it, has written it (rule 14, trap
//	    50): its timeline is one of the store's, and the newest message in it lies in the part of the log that belongs
//	    to that timeline or to one before it.
//
// Why the log is enough for N4. Each page that has a message at or above the snapshot's From is in the table: Open
// applies those messages, and for each of them looks the page up in the snapshot, which must succeed. A page that was
// changed since Open is in the table too, because a change begins with looking the page up. So of a page that is not in
// the table, all messages lie below From, and none was moved since. All segments below From that hold a live message
// are in place, and a message that replaces others comes after them. So the newest messages of the page, in the order
// of the log, are the page.
//
// Why N5 may begin when a block is known to be corrupt. Until the block is rebuilt, it is not known which messages,
// blobs and free ids its pages own. But the live bytes of the segments and the list of blobs come from the lists at the
// end of the file, which are verified before the file is used. They count each message of the block as live. So its
// segment was not recycled before, and a cleaning step that is under way can neither recycle it nor move the message,
// since it cannot look the page up. The free ids come from the blocks themselves: those of a corrupt block are skipped.
//
// find.go finds and opens a snapshot; write.go writes one; repair.go rebuilds corrupt blocks.
package snapshot

import (
	"context"
	"math"
	"path/filepath"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/report"
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
	Lineage     format.Lineage  // the timelines of the store before this opening, newest first
	Timeline    format.Timeline // of this opening
	SegmentSize int
	Reader      vfs.Reader
	Report      *report.Reporter
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
	number  uint64     // of the newest snapshot of the store's timelines
	from    format.LSN // where the log begins that the newest snapshot does not cover; NoLSN if that is not known

	// at is the number of messages in the log when the newest snapshot began, counted from Open as Log.Messages does:
	// negative if messages were there before (N6). Written by Applied and the writer; it only grows. A stale read
	// delays a snapshot.
	at atomic.Int64
	// overdue says that a snapshot is due whatever the log holds: the one in use is corrupt. Written by rebuild and the
	// writer; a stale read delays a snapshot.
	overdue atomic.Bool
	due     chan struct{} // has room for one; full after overdue was set
	repair  repair
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
		due: make(chan struct{}, 1),
	}
	s.run, s.stop = context.WithCancel(context.Background())
	s.repair.init()
	return s
}

// Path returns the path of a snapshot, for messages.
func (s *Store) Path(id format.SnapshotID) string { return filepath.Join(s.path(), id.Name()) }

// Dir returns the path of the directory, for messages.
func (s *Store) Dir() string { return s.path() }

// id returns the id of a snapshot of this opening.
func (s *Store) id(number uint64) format.SnapshotID {
	return format.SnapshotID{Store: s.c.Store, Timeline: s.c.Timeline, Number: number}
}

// Applied notes that Open had to apply n messages of the log. To be called before Run.
func (s *Store) Applied(n int64) { s.at.Store(-n) }

// Since returns the number of messages in l that the newest snapshot does not cover: those that the next opening would
// have to apply.
func (s *Store) Since(l Log) int64 { return l.Messages() - s.at.Load() }

// Written returns how many snapshots were written in this opening.
func (s *Store) Written() int64 { return s.written.Load() }

// Close releases the snapshot that the store was opened from, and the directory.
func (s *Store) Close() {
	s.stop()
	if s.Base != nil {
		_, _ = s.view.Close(), s.file.Close()
	}
	s.held.close()
}

// Remove deletes all snapshots, of a temporary store.
func (s *Store) Remove() { _ = s.removeBelow(math.MaxUint64) }
