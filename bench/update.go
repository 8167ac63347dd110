package bench

import (
	"fmt"
	"runtime"
	"sync"

	"pagecache/engine"
)

// Updater is a Store with the calls of programs that read a page and then change it. Each call is one operation, in a
// transaction of its own if the store has transactions. All calls are safe for concurrent use. Pages exist.
type Updater interface {
	Store
	// GetLink reads a page, looks at it, and appends delta.
	GetLink(page int, delta []byte) error
	// BlindLink appends delta to a page of which the caller knows nothing. A store that cannot do that reads the page.
	BlindLink(page int, delta []byte) error
	// FragmentsLink reads what was last written to a page and what was appended since, unmerged if the store can, looks
	// at all of it, and appends delta.
	FragmentsLink(page int, delta []byte) error
	// GetReplace reads a page, looks at it, and writes it anew.
	GetReplace(page int, value []byte) error
	// GetMany reads pages in one transaction, and the first byte of each.
	GetMany(pages []int) error
}

// first reads the first byte of a page.
func first(page []byte) {
	if len(page) > 0 {
		sink := page[0]
		runtime.KeepAlive(sink)
	}
}

var _ Updater = (*Pagecache)(nil)

// GetLink implements Updater.
func (s *Pagecache) GetLink(i int, delta []byte) error { return s.update(i, delta, asDelta) }

// GetReplace implements Updater.
func (s *Pagecache) GetReplace(i int, value []byte) error { return s.update(i, value, asWhole) }

// update retries until its write wins. The loop ends because each loss means that another goroutine has changed the
// page.
func (s *Pagecache) update(i int, frag []byte, whole bool) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid := s.PageID(i)
	for won := false; !won; {
		p, err := s.PC.Get(tx, pid)
		if err != nil {
			return err
		}
		look(p.Value)
		if whole {
			_, won, err = s.PC.Replace(tx, pid, p.Ptr, frag)
		} else {
			_, won, err = s.PC.Link(tx, pid, p.Ptr, frag)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stater is implemented by page caches that return a page's version without reading the page. abtest compiles this file
// against older versions, which do not.
type stater[T any] interface {
	State(tx T, pid engine.PageID) (version, engine.PageKind, error)
}

// BlindLink implements Updater. In versions of the engine without State, the first Link has no version; it loses and
// returns the current one.
func (s *Pagecache) BlindLink(i int, delta []byte) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid, ptr := s.PageID(i), version{}
	if ptr, err = state(s.PC, tx, pid); err != nil {
		return err
	}
	_, err = change(s.PC, tx, target{pid, ptr}, delta, asDelta)
	return err
}

// state returns the version of a page, or none if the page cache does not tell.
func state[T any](pc any, tx T, pid engine.PageID) (ptr version, err error) {
	if pc, ok := pc.(stater[T]); ok {
		ptr, _, err = pc.State(tx, pid)
	}
	return ptr, err
}

// fragmenter is implemented by page caches that append a page's fragments to a slice of the caller. Older versions of
// the engine do not.
type fragmenter[T any] interface {
	AppendFragments(tx T, pid engine.PageID, dst [][]byte) (version, [][]byte, error)
}

// rooms are slices for the fragments of one page.
var rooms = sync.Pool{New: func() any { return new([][]byte) }}

// fragments sets room to the fragments of a page.
func fragments[T any](pc oldFragmenter[T], tx T, pid engine.PageID, room *[][]byte) (ptr version, err error) {
	if appender, ok := pc.(fragmenter[T]); ok {
		ptr, *room, err = appender.AppendFragments(tx, pid, (*room)[:0])
	} else {
		ptr, *room, err = pc.Fragments(tx, pid)
	}
	return ptr, err
}

// oldFragmenter is implemented by all page caches.
type oldFragmenter[T any] interface {
	Fragments(tx T, pid engine.PageID) (version, [][]byte, error)
}

// FragmentsLink implements Updater. The loop ends because each loss means that another goroutine has changed the page.
func (s *Pagecache) FragmentsLink(i int, delta []byte) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	pid, room := s.PageID(i), rooms.Get().(*[][]byte)
	defer rooms.Put(room)
	for {
		ptr, err := fragments(s.PC, tx, pid, room)
		if err != nil {
			return err
		}
		if len(*room) == 0 {
			return fmt.Errorf("page %d has no fragments", i)
		}
		for _, f := range *room {
			look(f)
		}
		if _, won, err := s.PC.Link(tx, pid, ptr, delta); won || err != nil {
			return err
		}
	}
}

// GetMany implements Updater.
func (s *Pagecache) GetMany(pages []int) error {
	tx, err := s.PC.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for _, i := range pages {
		p, err := s.PC.Get(tx, s.PageID(i))
		if err != nil {
			return err
		}
		first(p.Value)
	}
	return nil
}
