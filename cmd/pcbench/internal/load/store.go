package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/cmd/pcbench/internal/units"
	"pagecache/engine"
	"pagecache/segments/format"
)

// store is an open store with the table of its pages, or an open log. The jobs of a run share it.
type store struct {
	place   *place
	opts    engine.Options
	patched bool // the pages accept deltas
	keep    bool
	isLog   bool
	logFile *os.File                  // of Options.Logger; nil for none
	all     pageStore                 // pc or nodes
	pc      *engine.PageCache[[]byte] // nil for nodes
	nodes   *engine.PageCache[node]   // of --node, else nil
	log     *records
	first   *job.Spec
	// table holds the id of each page; 0 means that the page does not exist, claimed that a goroutine is allocating or
	// freeing it. Workers and layout write it, by compare-and-swap. A stale read costs another read.
	table []atomic.Uint64
	// laid is the first page that no goroutine of layout has taken yet. Written by layout (Add).
	laid atomic.Int64
	// changed is the largest LSN that a worker has published (CompareAndSwap upwards); for the bytes in flight.
	changed atomic.Int64
}

// pageStore is what page stores of all types of pages have in common.
type pageStore interface {
	Stats() engine.Stats
	Flush() (int, error)
	MakeStable(lsn engine.LSN) (int, error)
	StableLSN() engine.LSN
	Snapshot() error
	PinLog() (*engine.Batch, error)
	Close() error
}

// claimed is not the id of a page of pcbench: the store reserves pages 0 and 1.
const claimed = 1

// openStore makes the store that specs share, or opens the one that is there. All specs have the engine options of the
// first. The space that a new store needs is added to taken.
func openStore(specs []*job.Spec, taken space) (st *store, err error) {
	s := specs[0]
	st = &store{opts: s.Engine, isLog: s.Own.Log, keep: !s.Unlink, first: s}
	pages := int64(0)
	for _, x := range specs {
		pages = max(pages, x.AllPages())
		st.patched = st.patched || x.Own.Delta > 0
	}
	name := s.Filename
	if name == "" {
		name = s.Name
	}
	if st.keep {
		if st.place, err = reopen(s.Directory, name); err != nil {
			return nil, err
		}
	}
	found := st.place != nil
	if !found {
		if err := taken.check(specs); err != nil {
			return nil, err
		}
		if st.place, err = newPlace(s.Directory, name); err != nil {
			return nil, err
		}
		err = os.Mkdir(st.place.store(), 0o755)
		if dir := s.Engine.SnapshotDir; dir != "" && err == nil {
			err = st.place.makeParents(dir)
		}
	}
	st.table = make([]atomic.Uint64, pages)
	if err == nil {
		err = st.checkKind(found)
	}
	if err == nil {
		err = st.start()
	}
	if err == nil && !s.Engine.ReadOnly {
		if err = st.place.setKind(st.kind()); err != nil {
			err = errors.Join(err, st.stop())
		}
	}
	if err == nil && found {
		if err = st.findPages(s.Verify.Method != ""); err != nil {
			return nil, errors.Join(err, st.stop(), st.place.leave())
		}
	}
	if err != nil {
		err = fmt.Errorf("open the store: %w", err)
		if found {
			return nil, errors.Join(err, st.place.leave())
		}
		return nil, errors.Join(err, st.place.remove())
	}
	return st, nil
}

// Kinds of stores, in their markers. Those of nodes have their sizes behind.
const (
	kindPages  = "pages"
	kindDeltas = "pages with deltas"
	kindNodes  = "nodes"
)

// kind returns what the store holds.
func (st *store) kind() string {
	switch {
	case st.first.Own.Node:
		return fmt.Sprintf("%s of %d bytes with records of %d", kindNodes, st.first.PageSize(), st.first.Own.Delta)
	case st.patched:
		return kindDeltas
	}
	return kindPages
}

// checkKind compares a store that is there with what the jobs want. A store that has deltas is opened with deltas,
// since they are merged when a page is read. Opening pages as nodes would make them nodes for ever, and is an error.
func (st *store) checkKind(found bool) error {
	if !found {
		return nil
	}
	is, err := st.place.kind()
	if err != nil || is == "" { // of an older pcbench
		return err
	}
	want := st.kind()
	if isNodes := strings.HasPrefix(is, kindNodes); is != want && (isNodes || st.first.Own.Node) {
		return fmt.Errorf("--unlink=0: %w: %s holds %s, and the jobs want %s; give the options of the run that has "+
			"made it, or another --name", engine.ErrFormat, st.place.dir, is, want)
	}
	st.patched = st.patched || is == kindDeltas
	return nil
}

// space are the bytes that new stores need, by file system.
type space map[unix.Fsid]int64

// check compares the pages of a new store, and of those before, with the free space of its file system.
func (taken space) check(specs []*job.Spec) error {
	need, s := int64(0), specs[0]
	for _, x := range specs {
		if x.Engine.Compression != engine.CompressionNone {
			return nil // the space is not known
		}
		need = max(need, x.Space())
	}
	dir := filepath.Clean(s.Directory)
	var st unix.Statfs_t
	for {
		if err := unix.Statfs(dir, &st); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return nil // making the directory reports the error
		}
		dir = filepath.Dir(dir)
	}
	free, before := int64(st.Bavail)*st.Bsize, taken[st.Fsid]
	if need > free-before {
		others := ""
		if before > 0 {
			others = fmt.Sprintf(" beside %s of other stores", units.Bytes(before))
		}
		return fmt.Errorf("--size=%d: the pages need %s%s, and %s has %s free; use a smaller --size or another "+
			"--directory", s.Size, units.Bytes(need), others, s.Directory, units.Bytes(free))
	}
	taken[st.Fsid] = before + need
	return nil
}

// start opens the store.
func (st *store) start() (err error) {
	if name := st.first.Own.LogFile; name != "" && st.logFile == nil {
		st.logFile = os.Stderr
		if name != "-" {
			if st.logFile, err = os.Create(name); err != nil {
				return fmt.Errorf("--store_log: %w", err)
			}
		}
		st.opts.Logger = slog.New(slog.NewTextHandler(st.logFile, nil))
	}
	switch {
	case st.isLog:
		var l *engine.Log
		if l, err = engine.OpenLog(st.place.store(), &st.opts); err == nil {
			st.log = newRecords(l, len(st.table))
		}
	case st.first.Own.Node:
		st.nodes, err = engine.Open(st.place.store(), nodes{st.first.PageSize(), st.first.Own.Delta}, &st.opts)
		st.all = st.nodes
	case st.patched:
		st.pc, err = engine.Open(st.place.store(), patched{}, &st.opts)
		st.all = st.pc
	default:
		st.pc, err = engine.Open(st.place.store(), engine.Bytes{}, &st.opts)
		st.all = st.pc
	}
	return err
}

// findPages enters the pages of a store that is there into the table: in the order of their ids, or by the numbers in
// the headers of verify.
func (st *store) findPages(verified bool) error {
	tx, err := st.begin()
	if err != nil {
		return err
	}
	defer tx.End()
	at := 0
	var unnumbered []engine.PageID // written without verify
	for pid, kind := range st.allPages(tx) {
		if kind != engine.KindMaterialized {
			continue
		}
		i := at
		if verified {
			page, err := st.pc.Get(tx.bytes, pid)
			if err != nil {
				return fmt.Errorf("read page %d: %w", pid, err)
			}
			_, number, ok := readHeader(page.Value)
			if !ok {
				unnumbered = append(unnumbered, pid)
				continue
			}
			i = int(number)
		}
		if at++; i < len(st.table) {
			st.table[i].Store(uint64(pid))
		}
	}
	for i := 0; i < len(st.table) && len(unnumbered) > 0; i++ { // verify reports them; no page is laid out beside them
		if st.table[i].Load() == 0 {
			st.table[i].Store(uint64(unnumbered[0]))
			unnumbered = unnumbered[1:]
		}
	}
	return nil
}

func (st *store) stats() engine.Stats {
	if st.isLog {
		return st.log.log.Stats()
	}
	return st.all.Stats()
}

// flush makes everything stable.
func (st *store) flush() (err error) {
	if st.isLog {
		_, err = st.log.log.Flush()
	} else {
		_, err = st.all.Flush()
	}
	return err
}

// makeStable waits until the write at lsn is stable.
func (st *store) makeStable(lsn engine.LSN) (err error) {
	if st.isLog {
		_, err = st.log.log.MakeStable(lsn)
	} else {
		_, err = st.all.MakeStable(lsn)
	}
	return err
}

// inFlight returns the bytes between the newest write of a worker and the stable end of the log.
func (st *store) inFlight() int64 {
	stable := engine.LSN(0)
	if st.isLog {
		stable = st.log.log.StableLSN()
	} else {
		stable = st.all.StableLSN()
	}
	return max(0, st.changed.Load()-int64(stable))
}

// noteChange publishes the LSN of a write.
func (st *store) noteChange(lsn engine.LSN) {
	for {
		old := st.changed.Load()
		if int64(lsn) <= old || st.changed.CompareAndSwap(old, int64(lsn)) {
			return
		}
	}
}

// forget empties the kernel's page cache of the store's files. The kernel drops only data that it has written back.
func (st *store) forget(sync bool) error {
	return filepath.WalkDir(st.place.store(), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if sync {
			err = f.Sync()
		}
		return errors.Join(err, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
}

// invalidate reopens the store, with no page resident and none of its files in the kernel's page cache.
func (st *store) invalidate() error {
	if err := st.stop(); err != nil {
		return err
	}
	old := st.log
	if err := errors.Join(st.forget(true), st.start()); err != nil {
		return err
	}
	if old != nil {
		st.log.adopt(old)
	}
	return nil
}

func (st *store) stop() error {
	if st.isLog {
		return st.log.log.Close()
	}
	return st.all.Close()
}

// close closes the store, and removes it unless it is kept.
func (st *store) close() error {
	err := st.stop()
	if err != nil {
		err = fmt.Errorf("close the store: %w", err)
	}
	if st.logFile != nil && st.logFile != os.Stderr {
		err = errors.Join(err, st.logFile.Close())
	}
	if st.keep {
		return errors.Join(err, st.place.leave())
	}
	return errors.Join(err, st.removeSnapshots(), st.place.remove())
}

// removeSnapshots removes the snapshots of the store that are in a directory of their own.
func (st *store) removeSnapshots() error {
	dir := st.opts.SnapshotDir
	if dir == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(st.place.store(), "superblock"))
	if err != nil {
		return nil // a log, or a store that has removed itself
	}
	super, err := format.DecodeSuperblock(b)
	if err != nil {
		return fmt.Errorf("remove the snapshots: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove the snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, is := format.ParseSnapshotName(e.Name())
		if !is {
			id, is = format.ParseSnapshotTmpName(e.Name())
		}
		if is && id.Store == super.Store {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// layout allocates all missing pages from from to to and makes them stable. It ends early when ctx is done or a page
// cannot be allocated. It returns one error, however many goroutines fail.
func (st *store) layout(ctx context.Context, s *job.Spec, pages int64, pr *Progress) error {
	var wg sync.WaitGroup
	st.laid.Store(0)
	defer pr.watch("laying out", func() (p progressState) {
		done := min(st.laid.Load(), pages)
		p.share = float64(done) / float64(max(pages, 1))
		p.ops[job.DirWrite], p.bytes[job.DirWrite] = done, done*s.PageSize()
		return p
	})()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sizes := s.BS[job.DirRead]
	if !s.Reads() {
		sizes = s.BS[job.DirWrite]
	}
	for i := range layoutWorkers() {
		wg.Go(func() {
			v := newValues(sizes, &s.Buffers, newVerifier(&s.Verify), pick.New(s.Seed, layoutStream+i))
			if s.Own.Node {
				v = nodeValues(s, s.Seed, layoutStream+i)
			}
			if err := st.layoutSome(ctx, v, pages); err != nil {
				cancel(&layoutError{err})
			}
		})
	}
	wg.Wait()
	var failed *layoutError
	if errors.As(context.Cause(ctx), &failed) {
		return fmt.Errorf("lay out: %w", failed.error)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := st.flush(); err != nil {
		return fmt.Errorf("lay out: %w", err)
	}
	return nil
}

// layoutError is the first error of a goroutine of layout.
type layoutError struct{ error }

// layoutSome allocates one run of pages after another until no pages are left.
func (st *store) layoutSome(ctx context.Context, v *values, pages int64) error {
	const run = 64
	for ctx.Err() == nil {
		from := st.laid.Add(run) - run
		if from >= pages {
			return nil
		}
		if st.isLog {
			for i := from; i < min(from+run, pages); i++ {
				if _, _, err := st.log.append(v, i); err != nil {
					return err
				}
			}
			continue
		}
		tx, err := st.begin()
		if err != nil {
			return err
		}
		for i := from; i < min(from+run, pages) && err == nil; i++ {
			_, _, _, err = st.allocate(tx, i, v)
		}
		tx.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// allocate makes page i if it does not exist, and returns the LSN and the size of the page. It returns false if another
// goroutine has made the page or is making it.
func (st *store) allocate(tx tx, i int64, v *values) (lsn engine.LSN, n int64, made bool, err error) {
	if st.table[i].Load() != 0 || !st.table[i].CompareAndSwap(0, claimed) {
		return 0, 0, false, nil
	}
	var pid engine.PageID
	if st.nodes != nil {
		pid, lsn, n, err = st.allocateNode(tx.nodes, v)
	} else {
		var b []byte
		if b, err = v.take(i); err == nil {
			var ptr engine.PagePtr[[]byte]
			pid, ptr, err = st.pc.Allocate(tx.bytes, b)
			lsn, n = ptr.LastLSN(), int64(len(b))
		}
	}
	st.table[i].Store(uint64(pid)) // 0 after an error
	return lsn, n, err == nil, err
}
