package bench

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"pagecache/engine"
)

// Pagecache is our store.
type Pagecache struct {
	PC    *engine.PageCache[[]byte]
	pages []page
}

// page keeps the state that the last write led to, as a database would in its own structures, so that the next one need not
// read the page first. The state belongs to who has set busy; whoever finds it set goes on without.
type page struct {
	busy atomic.Uint32 // 0 or 1
	pid  atomic.Uint64 // 0: does not exist. Set once, under busy, after the page exists
	ptr  engine.PagePtr[[]byte]
}

var _ Store = (*Pagecache)(nil)

// OpenPagecache makes a store for so many pages in dir. It is removed when it is closed.
func OpenPagecache(dir string, pages int, opts engine.Options) (*Pagecache, error) {
	opts.Temporary = true
	pc, err := engine.Open(dir, engine.Bytes{}, &opts)
	if err != nil {
		return nil, err
	}
	return &Pagecache{PC: pc, pages: make([]page, pages)}, nil
}

// Replace implements Store.
func (s *Pagecache) Replace(i int, value []byte) error {
	_, err := s.write(i, value, true)
	return err
}

// Link implements Store.
func (s *Pagecache) Link(i int, delta []byte) error {
	_, err := s.write(i, delta, false)
	return err
}

// Commit implements Store.
func (s *Pagecache) Commit(i int, delta []byte) error {
	lsn, err := s.write(i, delta, false)
	if err == nil {
		_, err = s.PC.MakeStable(lsn)
	}
	return err
}

func (s *Pagecache) write(i int, frag []byte, whole bool) (engine.LSN, error) {
	tx, err := s.PC.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	p := &s.pages[i]
	for !p.busy.CompareAndSwap(0, 1) {
		if pid := p.pid.Load(); pid != 0 {
			ptr, err := s.change(tx, engine.PageID(pid), engine.PagePtr[[]byte]{}, frag, whole)
			return ptr.LastLSN(), err
		}
		runtime.Gosched() // somebody is allocating it; ends with that
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
	ptr, err := s.change(tx, engine.PageID(p.pid.Load()), p.ptr, frag, whole)
	if err != nil {
		return 0, err
	}
	p.ptr = ptr
	return ptr.LastLSN(), nil
}

// change writes until it wins; losing tells the current state, so that ptr may be zero. It ends because each loss means that
// somebody else has changed the page.
func (s *Pagecache) change(tx *engine.Tx, pid engine.PageID, ptr engine.PagePtr[[]byte], frag []byte, whole bool) (engine.PagePtr[[]byte], error) {
	for {
		var won bool
		var err error
		if whole {
			ptr, won, err = s.PC.Replace(tx, pid, ptr, frag)
		} else {
			ptr, won, err = s.PC.Link(tx, pid, ptr, frag)
		}
		if err != nil || won {
			return ptr, err
		}
		if ptr.IsZero() {
			return ptr, fmt.Errorf("page %d is gone", pid)
		}
	}
}

// Get implements Store.
func (s *Pagecache) Get(i int) (int, error) {
	tx, err := s.PC.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	p, err := s.PC.Get(tx, engine.PageID(s.pages[i].pid.Load()))
	return len(p.Value), err
}

// PageID is the page's name in the store, 0 if it does not exist.
func (s *Pagecache) PageID(i int) engine.PageID { return engine.PageID(s.pages[i].pid.Load()) }

// Flush implements Store.
func (s *Pagecache) Flush() error {
	_, err := s.PC.Flush()
	return err
}

// Close implements Store.
func (s *Pagecache) Close() error { return s.PC.Close() }
