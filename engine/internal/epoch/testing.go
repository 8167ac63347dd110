package epoch

// The declarations below are for tests of other packages. No other code uses them.

// Looked returns how many slots all looks so far have loaded: the cost of Oldest and Readers.
func (d *Domain) Looked() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.looked
}
