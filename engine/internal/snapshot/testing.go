package snapshot

// Pause waits for the snapshot being written and lets none begin until resume is called. It is for tests.
func (s *Store) Pause() (resume func()) {
	s.writing <- struct{}{}
	return func() { <-s.writing }
}
