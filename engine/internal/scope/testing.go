package scope

// The methods below are for tests.

// Each calls f with every Scope that the Set keeps. Nobody makes one meanwhile.
func (t *Set) Each(f func(*Scope)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tx := range t.all {
		f(tx)
	}
}

// Pause holds the lock of the Set until resume is called.
func (t *Set) Pause() (resume func()) {
	t.mu.Lock()
	return t.mu.Unlock
}
