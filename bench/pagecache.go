package bench

import (
	"fmt"
	"sync/atomic"
	"time"

	"pagecache/engine"
)

// Pagecache is a Store on the page cache.
type Pagecache struct {
	PC    *engine.PageCache[[]byte]
	pages []page
}

// page holds the version that the last write returned, as a database would in its own structures, so that the next
// write need not read the page first. The goroutine that has set busy owns ptr; a goroutine that finds busy set
// writes without ptr.
type page struct {
	busy atomic.Uint32 // 0 or 1
	pid  atomic.Uint64 // 0: the page does not exist. Set once, by the owner of busy, after the page exists
	ptr  version
}

// version is one version of a page.
type version = engine.PagePtr[[]byte]

var _ Store = (*Pagecache)(nil)

// OpenPagecache makes a store for the given number of pages in dir. Close removes it.
func OpenPagecache(dir string, pages int, opts engine.Options) (*Pagecache, error) {
	opts.Temporary = true
	pc, err := engine.Open(dir, engine.Bytes{}, &opts)
	if err != nil {
		return nil, err
	}
	return &Pagecache{PC: pc, pages: make([]page, pages)}, nil
}

// OpenKept opens the store in dir, or makes one. Close keeps it. In a store that was there before, page i is the one
// that was allocated as number i, as Load does it.
func OpenKept(dir string, pages int, opts engine.Options) (*Pagecache, error) {
	pc, err := engine.Open(dir, engine.Bytes{}, &opts)
	if err != nil {
		return nil, err
	}
	s := &Pagecache{PC: pc, pages: make([]page, pages)}
	if pc.Stats().Pages.InUse > 0 {
		for i := range s.pages {
			s.pages[i].pid.Store(uint64(engine.FirstUserPage) + uint64(i))
		}
	}
	return s, nil
}

// Replace implements Store.
func (s *Pagecache) Replace(i int, value []byte) error {
	_, err := s.write(i, value, asWhole)
	return err
}

// Link implements Store.
func (s *Pagecache) Link(i int, delta []byte) error {
	_, err := s.write(i, delta, asDelta)
	return err
}

// Commit implements Store.
func (s *Pagecache) Commit(i int, delta []byte) error {
	lsn, err := s.write(i, delta, asDelta)
	if err == nil {
		_, err = s.PC.MakeStable(lsn)
	}
	return err
}

// How write changes a page.
const (
	asDelta = false // by Link
	asWhole = true  // by Replace
)

func (s *Pagecache) write(i int, frag []byte, whole bool) (engine.LSN, error) {
	tx, err := s.PC.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	p := &s.pages[i]
	for !p.busy.CompareAndSwap(0, 1) {
		if pid := p.pid.Load(); pid != 0 {
			ptr, err := change(s.PC, tx, target{pid: engine.PageID(pid)}, frag, whole)
			return ptr.LastLSN(), err
		}
		time.Sleep(20 * time.Microsecond) // until the owner of busy has allocated the page; yielding delays others
	}
	defer p.busy.Store(0)
	if p.pid.Load() == 0 {
		pid, ptr, err := s.PC.Allocate(tx, frag)
		if err != nil {
			return 0, err
		}
		p.ptr = ptr
		p.pid.Store(uint64(pid))
		return ptr.LastLSN(), nil
	}
	ptr, err := change(s.PC, tx, target{engine.PageID(p.pid.Load()), p.ptr}, frag, whole)
	if err != nil {
		return 0, err
	}
	p.ptr = ptr
	return ptr.LastLSN(), nil
}

// writer is a page cache whose Txs are of type T, which differs between versions of the engine. abtest compiles this
// file against older ones.
type writer[T any] interface {
	Link(tx T, pid engine.PageID, old version, delta []byte) (version, bool, error)
	Replace(tx T, pid engine.PageID, old version, frag []byte) (version, bool, error)
}

// change retries until its write wins. A write that loses returns the current version, so ptr may be zero at first.
// The loop ends because each loss means that another goroutine has changed the page.
func change[T any](pc writer[T], tx T, page target, frag []byte, whole bool) (ptr version, err error) {
	ptr = page.ptr
	for {
		var won bool
		if whole {
			ptr, won, err = pc.Replace(tx, page.pid, ptr, frag)
		} else {
			ptr, won, err = pc.Link(tx, page.pid, ptr, frag)
		}
		if err != nil || won {
			return ptr, err
		}
		if ptr.IsZero() {
			return ptr, fmt.Errorf("page %d was freed", page.pid)
		}
	}
}

// target is a page to change, and the version that it is expected to have.
type target struct {
	pid engine.PageID
	ptr version
}

// Get implements Store.
func (s *Pagecache) Get(i int) (int, error) {
	tx, err := s.PC.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	p, err := s.PC.Get(tx, engine.PageID(s.pages[i].pid.Load()))
	return look(p.Value), err
}

// PageID returns the page's id in the store, or 0 if the page does not exist.
func (s *Pagecache) PageID(i int) engine.PageID { return engine.PageID(s.pages[i].pid.Load()) }

// Flush implements Store.
func (s *Pagecache) Flush() error {
	_, err := s.PC.Flush()
	return err
}

// Close implements Store.
func (s *Pagecache) Close() error { return s.PC.Close() }
