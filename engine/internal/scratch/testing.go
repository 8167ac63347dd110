package scratch

// Tick does now what the timer does after each Interval. It is for tests; no other code uses it.
func (k *Keeper) Tick() {
	k.mu.Lock()
	for k.timer == nil {
		k.mu.Unlock()
		k.Wake()
		k.mu.Lock()
	}
	k.mu.Unlock()
	k.tick()
}
