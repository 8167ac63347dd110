package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/iouring"
	"pagecache/segments"
	"pagecache/segments/format"
)

// The names of a store's files in its directory.
const (
	logName      = "log"
	superName    = "superblock"
	superTmpName = "superblock.tmp"
)

// lockPatience is how long an opening waits for a predecessor to die: after a kill the kernel's in-flight work holds
// the file for a moment (trap 19).
const lockPatience = 2 * time.Second

// store is what page stores and standalone logs have in common: the directory, its lock, the log.
type store struct {
	opts    Options
	fs      vfs.FS
	dir     string
	madeIt  bool // this opening made the directory, for Temporary
	ours    bool // the files are this opening's to remove, if Temporary: the store is new, or was opened
	file    vfs.File
	view    vfs.Map
	reader  vfs.Reader // brings in what is cold of the maps of all files
	dev     vfs.Device
	report  vfs.DeviceReport
	side    side
	bufs    [][]byte
	space   *segments.Space
	log     *iobuf.Log
	super   format.Superblock
	blobs   blobs
	snaps   snapshots
	found   bool // the store existed before this opening
	cleaner cleaner
	keep    bool // at Close: a Tx has not ended, and what it has seen stays mapped
	busy    bool // at Close: something is still at work on the file

	// closed is set by Close, which then waits for the calls and Txs that have not seen it.
	closed atomic.Bool
	// calls are those at work on the log outside of a Tx, so that Close takes no buffer away under them.
	calls txs
}

// enter begins a call that uses the io buffers or the map outside of a Tx; it ends with End. It fails once the store is closed.
func (s *store) enter() (*Tx, error) {
	c := s.calls.begin()
	if s.closed.Load() { // after begin: Close sets it, then looks for calls
		c.End()
		return nil, iobuf.ErrClosed
	}
	return c, nil
}

// openStore opens or makes a store; recovered is what its log held, nil for a new one. On an error nothing stays open.
func openStore(dir string, o *Options, isLog bool) (s *store, found *recovered, err error) {
	if err := o.Validate(); err != nil {
		return nil, nil, err
	}
	st := &store{opts: o.withDefaults()}
	st.cleaner.kick = make(chan struct{}, 1)
	s = st
	s.fs = s.opts.fs
	s.reader = s.fs.OpenReader(s.opts.device().Ring)
	if s.dir, err = s.directory(dir); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			st.release() // not s: the returns above have set it to nil
			err = fmt.Errorf("open %s: %w", st.dir, err)
		}
	}()
	if err := s.openFile(); err != nil {
		return nil, nil, err
	}
	if err := s.readSuper(isLog); err != nil {
		return nil, nil, err
	}
	s.blobs.init(s)
	if found, err = s.recover(); err != nil {
		return nil, nil, err
	}
	start := s.start
	if s.opts.ReadOnly {
		start = s.startToRead
	}
	if err := start(found); err != nil {
		return nil, nil, err
	}
	return s, found, nil
}

// directory decides where the store lies: there it stays, whatever becomes of the working directory.
func (s *store) directory(dir string) (string, error) {
	if dir != "" && s.fs == osfs.OS {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", dir, err)
		}
		return abs, nil
	}
	if dir != "" {
		return filepath.Clean(dir), nil
	}
	if !s.opts.Temporary {
		return "", errors.New("open: no directory given, and not Temporary")
	}
	parent := "/dev/shm"
	if st, err := os.Stat(parent); err != nil || !st.IsDir() {
		parent = os.TempDir()
	}
	tmp, err := os.MkdirTemp(parent, "pagecache.tmp.")
	if err != nil {
		return "", fmt.Errorf("open: temporary directory: %w", err)
	}
	s.madeIt, s.ours = true, true
	return tmp, nil
}

// openFile makes the directory and opens and locks the log file. It begins again if the file has lost its name by the time that it
// is locked: a temporary store removes its files before it gives up the lock. The loop ends because each turn takes another such store.
func (s *store) openFile() error {
	if s.opts.ReadOnly {
		return s.openFileToRead()
	}
	for deadline := time.Now().Add(lockPatience); ; {
		if _, err := s.fs.ReadDir(s.dir); errors.Is(err, fs.ErrNotExist) {
			s.madeIt = true
		}
		if err := s.fs.MkdirAll(s.dir); err != nil {
			return err
		}
		f, err := s.findLog()
		if err != nil {
			return err
		}
		s.file = f
		if err := lockFile(f, vfs.LockExclusive, deadline); err != nil || !s.removed() {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		s.file = nil
	}
}

// openFileToRead opens the log file and locks it together with others who read.
func (s *store) openFileToRead() (err error) {
	if s.file, err = s.fs.Open(filepath.Join(s.dir, logName), vfs.FlagRead); err != nil {
		return err
	}
	return lockFile(s.file, vfs.LockShared, time.Now().Add(lockPatience))
}

// findLog opens the log file, or makes that of a new store. There is none beside a superblock only if it was lost: it is made before
// that, and removed after it.
func (s *store) findLog() (vfs.File, error) {
	name := filepath.Join(s.dir, logName)
	f, err := s.fs.Open(name, vfs.FlagWrite)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	super, err := s.fs.Open(filepath.Join(s.dir, superName), vfs.FlagRead)
	if errors.Is(err, fs.ErrNotExist) {
		return s.fs.Open(name, vfs.FlagWrite|vfs.FlagCreate)
	}
	if err != nil {
		return nil, err
	}
	_ = super.Close()
	f, err = s.fs.Open(name, vfs.FlagWrite) // somebody may just have made both
	if errors.Is(err, fs.ErrNotExist) {
		err = damagedFile(name, "there is a superblock but the log is missing", nil)
	}
	return f, err
}

// lockFile locks f. It tries until the deadline (trap 19).
func lockFile(f vfs.File, kind vfs.LockKind, deadline time.Time) error {
	for ; ; time.Sleep(5 * time.Millisecond) {
		err := f.Lock(kind)
		if !errors.Is(err, vfs.ErrLocked) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrLocked, err)
		}
	}
}

// removed reports whether the open log file is not the one of that name any more.
func (s *store) removed() bool {
	f, ok := s.file.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return false // on the simulated disk
	}
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(filepath.Join(s.dir, logName))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(open, named)
}

// readSuper reads the superblock, or draws a new one for a new store.
func (s *store) readSuper(isLog bool) error {
	kind := map[bool]string{false: "page store", true: "standalone log"}
	name := filepath.Join(s.dir, superName)
	b, err := s.readSmall(name, format.SuperblockSize)
	if errors.Is(err, fs.ErrNotExist) {
		if s.opts.ReadOnly {
			return err // a store whose making was cut off
		}
		size, err := s.file.Size()
		if err != nil {
			return err
		}
		if size != 0 {
			return damagedFile(name, "the log has contents but the superblock is missing", nil)
		}
		s.super = format.Superblock{SegmentSize: s.opts.SegmentSize, Log: isLog, IDInterval: s.opts.IDPersistInterval}
		orDefault(&s.super.SegmentSize, defaultSegmentSize)
		s.ours = true
		_, err = rand.Read(s.super.Store[:])
		return err
	}
	if err != nil {
		return err
	}
	s.found = true
	if s.super, err = format.DecodeSuperblock(b); errors.Is(err, format.ErrSuperVersion) {
		return fmt.Errorf("%s: %w: %w", name, ErrUnsupported, err)
	} else if err != nil {
		return damagedFile(name, err.Error(), err)
	}
	if want := s.opts.SegmentSize; want != 0 && want != s.super.SegmentSize {
		return fmt.Errorf("store has segments of %d bytes, Options.SegmentSize says %d", s.super.SegmentSize, want)
	}
	if s.super.Log != isLog {
		return fmt.Errorf("%w: this is a %s, not a %s", ErrUnsupported, kind[s.super.Log], kind[isLog])
	}
	return nil
}

// damagedFile is the error for a file that is damaged as a whole.
func damagedFile(name, reason string, err error) error {
	return &CorruptError{File: name, Reason: reason, Err: err}
}

// readSmall reads a file of at most limit bytes; of a longer one it returns one byte more.
func (s *store) readSmall(name string, limit int) ([]byte, error) {
	f, err := s.fs.Open(name, vfs.FlagRead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, int64(limit)+1))
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// writeSuper replaces the superblock, durably: trap 5.
func (s *store) writeSuper(sb format.Superblock) error {
	tmp := filepath.Join(s.dir, superTmpName)
	f, err := s.fs.Open(tmp, vfs.FlagWrite|vfs.FlagCreate|vfs.FlagTrunc)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(sb.Append(nil), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.fs.Rename(tmp, filepath.Join(s.dir, superName))
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return noSpace(fmt.Errorf("write superblock: %w", err))
	}
	s.super = sb
	return nil
}

func noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// finish ends a closing: it marks the store clean, if the log was closed without an error, and releases everything. end is where
// the log ends.
func (s *store) finish(end format.LSN, err error, nextID uint64, nextPage format.PageID) error {
	s.ours = true
	if n := s.calls.wait(); n > 0 {
		s.busy = true
		err = errors.Join(err, fmt.Errorf("%d calls have not ended", n))
	}
	if !s.space.Close(iobuf.CloseTimeout) {
		s.busy = true
		err = errors.Join(err, errors.New("the file does not come to rest after growing"))
	}
	if err == nil && (s.opts.Temporary || s.opts.ReadOnly) {
		s.release()
		return nil
	}
	if err == nil {
		sb := s.super
		sb.Clean, sb.End, sb.NextID, sb.NextPage = true, end, nextID, nextPage
		err = s.writeSuper(sb)
	}
	s.release()
	return err
}

// release closes what is open, in the order that keeps the lock to the last, and removes a temporary store. What the kernel may still
// be writing stays open, and so locked, until the process ends: a write that comes late must not meet another opening's.
func (s *store) release() {
	if s.opts.Temporary && s.ours {
		s.blobs.removeAll()
		if s.snaps.dir != "" {
			_ = s.removeSnapshots(math.MaxUint64)
		}
		for _, n := range []string{superTmpName, superName, logName} {
			_ = s.fs.Remove(filepath.Join(s.dir, n))
		}
	}
	if s.opts.Temporary && s.madeIt {
		_ = s.fs.Remove(s.dir) // fails, rightly, if somebody put something there
	}
	if s.busy || s.log != nil && !s.log.Drained() {
		return
	}
	if inFlight := s.side.close(); inFlight || s.dev != nil && errors.Is(s.dev.Close(), vfs.ErrInFlight) {
		return
	}
	if !s.keep {
		for _, b := range s.bufs {
			iouring.FreeBuffer(b)
		}
	}
	if s.view != nil && !s.keep {
		_ = s.view.Close()
		s.blobs.close()
	}
	if !s.keep {
		s.snaps.close()
	}
	if s.reader != nil {
		_ = s.reader.Close() // what the kernel is still reading would hold the lock
	}
	if s.file != nil {
		_ = s.file.Close()
	}
}

// side is a device of its own for what is written beside the log, so as not to stand in its way.
type side struct {
	mu    sync.Mutex
	dev   vfs.Device // made when it is first used
	zeros []byte     // always zero, but while a block of it is written
}

// close reports whether something may still be on its way.
func (s *side) close() (inFlight bool) {
	if s.dev == nil {
		return false
	}
	if inFlight = errors.Is(s.dev.Close(), vfs.ErrInFlight); !inFlight {
		iouring.FreeBuffer(s.zeros)
	}
	return inFlight
}

// errLater: nothing was tried yet, and it may work later.
var errLater = errors.New("segments cannot be recycled now")

// sidePiece is how much is written at once: little enough not to hold up a commit for long.
const sidePiece = 256 << 10

// sideDepth is how many writes it takes at once.
const sideDepth = 16

// beside calls write with the device and zeroed memory.
func (s *store) beside(write func(dev vfs.Device, zeros []byte) error) error {
	s.side.mu.Lock()
	defer s.side.mu.Unlock()
	if s.side.dev == nil {
		o := s.opts.device()
		o.Depth = sideDepth
		dev, _, err := s.file.OpenDevice(o)
		if err != nil {
			return fmt.Errorf("%w: %w", errLater, err)
		}
		if s.side.zeros, err = iouring.AllocBuffer(max(sidePiece, sideDepth*dev.Block())); err != nil {
			return fmt.Errorf("%w: %w", errLater, errors.Join(err, dev.Close()))
		}
		s.side.dev = dev
	}
	return write(s.side.dev, s.side.zeros)
}

// zero writes zeros to a range of the log file, durably. It stops with an error once quit is closed.
func (s *store) zero(off, n int64, quit <-chan struct{}) error {
	for end := off + n; off < end; {
		select {
		case <-quit:
			return ErrClosed
		default:
		}
		err := s.beside(func(dev vfs.Device, zeros []byte) error {
			b := zeros[:min(int64(len(zeros)), end-off)]
			off += int64(len(b))
			return writeTo(dev, b, off-int64(len(b)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
