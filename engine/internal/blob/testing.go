package blob

// The declarations below are for tests of the engine. No other code uses them.

// Dir returns the path of the directory that holds the blobs.
func (s *Store) Dir() string { return s.c.Dir }

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
