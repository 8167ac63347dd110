package blob

// The declarations below are for tests of the engine. No other code uses them.

// Names returns the names in the directory of the blobs. If there is none yet the error wraps fs.ErrNotExist.
func (s *Store) Names() ([]string, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return dir.ReadDir()
}

// Holds reports whether b, which is not empty, lies in the map of a blob.
func (s *Store) Holds(b []byte) bool {
	for _, f := range s.live.Range {
		if m := f.(*file).mapping.Load(); m != nil && m.view.Holds(0, b) {
			return true
		}
	}
	return false
}

// Pause locks what a write, a read and a removal of blobs lock, until resume is called.
func (s *Store) Pause() (resume func()) {
	s.mu.Lock()
	s.held.mu.Lock()
	return func() {
		s.held.mu.Unlock()
		s.mu.Unlock()
	}
}

// SetMaxLen changes the length in bytes of the longest blob. Nothing else may use the Store meanwhile.
func (s *Store) SetMaxLen(n int) { s.c.MaxLen = n }

// Retired returns how many blobs are scheduled for deletion.
func (s *Store) Retired() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.retired)
}

// LongBlob is the length in bytes from which on blobs are written through a device, PieceSize the length of one write
// to it, and Pieces the number of writes in flight.
const (
	LongBlob  = longBlob
	PieceSize = pieceSize
	Pieces    = pieces
)
