package bench

// Store keeps pages, numbered from 0. All methods except Close are safe for concurrent use. A store may keep the
// slices that it is given, so the caller must not modify them afterwards.
type Store interface {
	// Replace writes a whole page, which need not exist. The write becomes durable later, at the latest by Flush.
	Replace(page int, value []byte) error
	// Link appends to a page that exists. The write becomes durable later, at the latest by Flush.
	Link(page int, delta []byte) error
	// Commit appends to a page that exists, and returns once the write is durable.
	Commit(page int, delta []byte) error
	// Get returns the length of a page.
	Get(page int) (int, error)
	// Flush returns once all earlier writes are durable.
	Flush() error
	// Close closes the store.
	Close() error
}

// Load writes the first pages of a store, each of size bytes, and makes them durable.
func Load(s Store, pages, size int) error {
	values := NewValues(0, size)
	for i := range pages {
		if err := s.Replace(i, values.Next()); err != nil {
			return err
		}
	}
	return s.Flush()
}
