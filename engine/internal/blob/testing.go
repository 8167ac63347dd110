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
