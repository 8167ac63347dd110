package bench

import "runtime"

// Store keeps pages, numbered from 0. All methods except Close are safe for concurrent use. A store may keep the
// slices that it is given, so the caller must not modify them afterwards.
type Store interface {
	// Replace writes a whole page, which need not exist. The write becomes durable later, at the latest by Flush.
	Replace(page int, value []byte) error
	// Link appends to a page that exists. The write becomes durable later, at the latest by Flush.
	Link(page int, delta []byte) error
	// Commit appends to a page that exists, and returns once the write is durable.
	Commit(page int, delta []byte) error
	// Get returns the length of a page. It looks at the page: see look.
	Get(page int) (int, error)
	// Flush returns once all earlier writes are durable.
	Flush() error
	// Close closes the store.
	Close() error
}

// look reads a byte of each 4 KiB of a page, and its last byte, and returns its length. Stores that return views of
// memory maps would otherwise not read the page.
func look(page []byte) int {
	const step = 4 << 10
	sum := byte(0)
	for i := 0; i < len(page); i += step {
		sum += page[i]
	}
	if len(page) > 0 {
		sum += page[len(page)-1]
	}
	runtime.KeepAlive(sum)
	return len(page)
}

// Load writes the first pages of a store, each of size bytes, and makes them durable.
func Load(s Store, pages, size int) error {
	const perTransaction = 1000
	values := NewValues(0, size)
	many, ok := s.(bulk)
	for i := 0; i < pages; {
		n, err := 1, error(nil)
		if ok {
			n = min(perTransaction, pages-i)
			group := make([][]byte, n)
			for k := range group {
				group[k] = values.Next()
			}
			err = many.loadMany(i, group)
		} else {
			err = s.Replace(i, values.Next())
		}
		if err != nil {
			return err
		}
		i += n
	}
	return s.Flush()
}

// bulk is implemented by stores that load many pages faster than one by one.
type bulk interface {
	// loadMany writes the pages first, first+1, … that do not exist yet.
	loadMany(first int, values [][]byte) error
}
