// Package logstore is a store without pages: a directory with its lock, the superblock, the log file with its segments,
// and the log that is written to it. Page stores and standalone logs are built on it.
//
// The life of a Store:
//
//	Open ──▶ Recover ──▶ Prepare ──▶ Start ──▶ (in use) ──▶ Close
//	  │         │           │          │
//	  └─────────┴───────────┴──────────┴──────▶ Abandon, after an error
//
// Open locks the directory and reads the superblock. Recover reads the log. Prepare opens the device and decides what
// Start will write. None of them writes anything to an existing store, and the caller makes its own checks before it
// calls Start, so an opening that is refused has changed nothing (rule 17). Start begins a new generation, writes the
// log's tail anew where that is needed, and starts the log. Close marks the store as closed cleanly; Abandon releases
// everything and changes nothing more on the disk.
//
// Reading the code: directory.go, superblock.go, recover.go, prepare.go, start.go and tail.go are the way up; read.go
// reads messages; side.go writes beside the log; recycle.go frees segments.
package logstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/latency"
	"pagecache/engine/internal/report"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// The names of a store's files in its directory.
const (
	LogName      = "log"
	SuperName    = "superblock"
	BlobDir      = "blobs" // a directory
	superTmpName = "superblock.tmp"
)

// DefaultSegmentSize is the segment size in bytes of a new store whose Config leaves it zero.
const DefaultSegmentSize = 8 << 20

// Errors of this package, found by errors.Is. Recycling and growing also return segments.ErrNoRoom.
var (
	// ErrLocked reports that another process, or another Store of this one, holds the directory's lock.
	ErrLocked = errors.New("store is in use")
	// ErrNoSpace reports that the disk, a quota or a file-size limit leaves no room.
	ErrNoSpace = errors.New("no space left for the log")
	// ErrFormat reports a store whose format version this code does not know, or whose pages have another format.
	ErrFormat = errors.New("store has another format")
	// ErrKind reports a page store that was opened as a standalone log, or the reverse.
	ErrKind = errors.New("store is of another kind")
	// ErrTooLarge reports a message that is longer than the format allows.
	ErrTooLarge = iobuf.ErrTooLarge
	// ErrLater reports that segments cannot be recycled now. Nothing was changed, and a later try may succeed.
	ErrLater = errors.New("segments cannot be recycled now")
)

// Config describes a Store.
type Config struct {
	FS     vfs.FS
	Device vfs.DeviceOptions // how the log is written
	Report *report.Reporter

	Log         bool          // a standalone log, not a page store
	Format      string        // name of the format of the pages, at most format.MaxFormatName bytes; empty: none
	SegmentSize int           // in bytes; 0: that of the store, or DefaultSegmentSize for a new one
	IOBuffers   int           // segments in memory while they are filled and written
	FlushEvery  time.Duration // 0: no flush in the background
	SlowWrite   time.Duration // from which on a device write is reported as slow; 0: never
	IDInterval  uint64        // ids between durable notes of them
	Cleaned     bool          // segments will be cleaned and recycled
	Temporary   bool          // remove the store when it is released
	ReadOnly    bool          // write nothing
	FirstStep   int           // of a page store's first segment: only these bytes get disk space; 0: the default
	Foreground  bool          // no background growth, marks and waits for batches: one order of operations on the disk
	ZeroStep    int           // bytes zeroed at once before small writes, even if Foreground is set; 0: the default

	// OnSegment is called after each new segment. It must not block.
	OnSegment func()
}

// An Attachment is something that lies beside the log, such as blobs or snapshots, and lives as long as the Store.
type Attachment interface {
	// Remove deletes its files. A temporary store calls it before it deletes its own.
	Remove()
	// Close releases files and maps. It is not called while a caller may still look at mapped memory.
	Close()
}

// Store is an open directory with a log. Its exported fields are set by Open … Start and do not change until Close.
// The methods are safe for concurrent use from Start on; the steps before it belong to one goroutine.
type Store struct {
	Dir   string  // path by which the directory was opened, for messages
	Held  vfs.Dir // the directory; all files of the store are reached through it (rule 15)
	FS    vfs.FS
	Found bool              // the store existed before this opening
	Super format.Superblock // as Open found it, or Start wrote it: Close does not change it beside Stats (trap 41)
	// Timeline is that of this opening, drawn at random; 0 if it is read only.
	Timeline format.Timeline
	Log      *iobuf.Log
	Space    *segments.Space
	View     vfs.Map    // of the log file
	Reader   vfs.Reader // reads cold blocks for the maps of all files
	// BadIndexes has an error for each segment of a standalone log whose index Recover found to be corrupt.
	BadIndexes []error

	c        Config
	super    superFile
	distrust distrust
	looked   time.Time // when Dropped last looked for space to give back
	tail     tailMove
	file     vfs.File
	dev      vfs.Device
	opening  <-chan error // nil unless a goroutine opens dev; see beginDevice
	report   vfs.DeviceReport
	bufs     [][]byte // io buffers
	// resumed and resumedAt are what Resumed returns, and its base.
	resumed   []byte
	resumedAt format.LSN
	side      side
	attached  []Attachment
	madeDir   bool // this opening made the directory
	madeLog   bool // this opening may have made the log file
	fresh     bool // this opening made the log file, and there is no superblock yet
	ours      bool // the files are this opening's to remove if Temporary: the store is new, or was opened

	Times  Times
	Scrubs Scrubs
}

// Scrubs counts the work of verifying an open store; the caller of the store counts it.
type Scrubs struct {
	Runs     atomic.Int64
	Bytes    atomic.Int64
	Problems atomic.Int64
}

// Load returns the counts of Scrubs, read one after another.
func (s *Scrubs) Load() struct{ Runs, Bytes, Problems int64 } {
	return struct{ Runs, Bytes, Problems int64 }{s.Runs.Load(), s.Bytes.Load(), s.Problems.Load()}
}

// Times have counts by duration.
type Times struct {
	Commits latency.Counts // calls that waited until something was stable; the caller of the store counts them
	Reads   latency.Counts // reads of Reader that somebody waited for
}

// Open opens the directory and its log file, locks it, and reads the superblock, or prepares a new store. It waits up
// to two seconds for the lock. Errors: ErrLocked, ErrFormat, ErrKind, recovery.ErrCorrupt, and those of the operating
// system. After an error nothing stays open.
func Open(dir string, c Config) (*Store, error) {
	s := &Store{FS: c.FS, c: c}
	s.Reader = s.FS.OpenReader(c.Device.Ring)
	var err error
	if s.Dir, err = s.directory(dir); err != nil {
		return nil, errors.Join(err, s.Reader.Close())
	}
	c.Report.SetDir(s.Dir)
	if r, ok := s.Reader.(interface{ OnDegraded(func(reason string)) }); ok {
		r.OnDegraded(func(reason string) { c.Report.Degraded("reader", "system calls", reason) })
	}
	if r, ok := s.Reader.(interface {
		OnFetch(func(took time.Duration))
	}); ok {
		r.OnFetch(s.Times.Reads.Add)
	}
	if err = s.openFile(); err == nil {
		err = s.readSuper()
	}
	if err == nil && !c.ReadOnly {
		err = s.drawTimeline()
	}
	if s.c.Report.Corrupt(err) != nil {
		s.finish(Ending{})
		return nil, fmt.Errorf("open %s: %w", s.Dir, err)
	}
	return s, nil
}

// SegmentSize returns the length of a segment in bytes.
func (s *Store) SegmentSize() int { return s.Super.SegmentSize }

// SegmentHolds returns how many bytes of messages a segment holds.
func (s *Store) SegmentHolds() int { return s.Super.SegmentSize - format.SegmentStart }

// Block returns the smallest unit of writing in bytes.
func (s *Store) Block() int { return s.dev.Block() }

// Reporter returns Config.Report.
func (s *Store) Reporter() *report.Reporter { return s.c.Report }

// Report describes the device that writes the log. It is zero if the store is read only.
func (s *Store) Report() vfs.DeviceReport { return s.report }

// LogFile returns the path of the log file, for messages.
func (s *Store) LogFile() string { return filepath.Join(s.Dir, LogName) }

// Attach ties a to the life of the store: Close and Abandon remove and close it at the right moment.
func (s *Store) Attach(a Attachment) { s.attached = append(s.attached, a) }

// Ending describes how a store is closed.
type Ending struct {
	End      format.LSN    // where the log ends
	NextID   uint64        // the next id that GenerateID would hand out
	NextPage format.PageID // the lowest page id that was never handed out
	// KeepMapped leaves memory maps and io buffers in place until the process ends, because a Tx still looks at them.
	KeepMapped bool
	// Busy says that something still works on the file. Everything stays open, and so locked, until the process ends.
	Busy bool
}

// sealPatience is the time that Close must have left for SealTail.
const sealPatience = time.Second

// SealTail ends the log's last segment if more than half of it is used, before the log is closed. The next opening
// would read all of it, and write it anew to another slot; of a sealed segment it reads the index. Only standalone logs
// have one. It does nothing if the reserve of free slots is not whole, since the rest of the segment is worth more on a
// full disk, or if ctx ends soon, since the rest, which is written, must not keep the store from being closed cleanly.
func (s *Store) SealTail(ctx context.Context) {
	end, ends := ctx.Deadline()
	if ctx.Err() != nil || ends && time.Until(end) < sealPatience {
		return
	}
	if s.Super.Log && !s.c.ReadOnly && !s.c.Temporary && s.Space.Whole() {
		s.Log.SealFrom(s.Super.SegmentSize/2 + 1)
	}
}

// Close marks the store as closed cleanly, unless something is still busy or failed, the error of closing so far, is
// not nil, and releases everything. Waits end with ctx. It returns failed joined with its own errors. If the directory
// or the log file was removed, it writes nothing, and the error wraps fs.ErrNotExist.
func (s *Store) Close(ctx context.Context, e Ending, failed error) error {
	s.ours = true
	err := failed
	if !s.closeSpace(ctx) {
		e.Busy = true
		err = errors.Join(err, errors.New("background file growth did not finish in time"))
	}
	if err == nil && !e.Busy && !s.c.Temporary {
		err = s.Lost()
	}
	if err == nil && !e.Busy && !s.c.Temporary && !s.c.ReadOnly {
		if _, err := s.GiveBack(); err != nil {
			s.c.Report.Background("space not given back", s.LogFile(), err)
		}
		sb := s.super.current()
		sb.Clean, sb.End, sb.NextID, sb.NextPage = true, e.End, e.NextID, e.NextPage
		sb.Joined = s.Space.JoinedBelow(e.End)
		err = s.saveSuper(sb)
	}
	s.finish(e)
	return err
}

// closeSpace ends the background growth of the file. It waits for CloseTimeout at most, or until ctx ends.
func (s *Store) closeSpace(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, iobuf.CloseTimeout)
	defer cancel()
	return s.Space.CloseContext(ctx)
}

// Abandon releases a store whose opening failed. It stops the log if that was started.
func (s *Store) Abandon() {
	busy := false
	if s.Log != nil {
		_, _ = s.Log.Close()
		busy = !s.closeSpace(context.Background())
	}
	s.finish(Ending{Busy: busy})
}

// finish removes a temporary store, or the beginning of a new one, and then releases everything that nothing uses any
// more.
func (s *Store) finish(e Ending) {
	defer s.c.Report.Flush()
	if s.opening != nil {
		_ = s.awaitDevice() // the opening has failed already
	}
	s.distrust.close()
	if s.c.Temporary || s.fresh { // an opening that is refused leaves nothing behind (rule 17)
		s.removeFiles()
	}
	// What the kernel may still be writing stays open, and so locked, until the process ends: a late write must not
	// reach the file of another opening.
	if e.Busy || s.Log != nil && !s.Log.Drained() {
		return
	}
	if inFlight := s.side.close(); inFlight || s.dev != nil && errors.Is(s.dev.Close(), vfs.ErrInFlight) {
		return
	}
	s.release(e.KeepMapped)
}

// release closes what is open, the locked file and the directory last.
func (s *Store) release(keepMapped bool) {
	if !keepMapped {
		for _, b := range s.bufs {
			freeBuffer(b)
		}
		if s.View != nil {
			_ = s.View.Close()
		}
		for _, a := range s.attached {
			a.Close()
		}
	}
	if s.Reader != nil {
		_ = s.Reader.Close() // what the kernel still reads would hold the lock
	}
	if s.super.file != nil {
		_ = s.super.file.Close()
	}
	if s.file != nil {
		_ = s.file.Close()
	}
	if s.Held != nil {
		_ = s.Held.Close()
	}
}
