package bench

// Store keeps pages, numbered from 0. Its methods but Close are safe for concurrent use. What it is given it may keep,
// so callers do not change it afterwards.
type Store interface {
	// Replace writes a whole page, which need not exist; it is durable soon.
	Replace(page int, value []byte) error
	// Link appends to a page that exists; it is durable soon.
	Link(page int, delta []byte) error
	// Commit appends to a page that exists, and returns once that is durable.
	Commit(page int, delta []byte) error
	// Get returns the length of a page.
	Get(page int) (int, error)
	// Flush returns once all that was written is durable.
	Flush() error
	// Close closes the store; its files stay.
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
