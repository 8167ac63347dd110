//go:build race

package lru

// undercounts says that ristretto loses most accesses: it buffers them in a sync.Pool, which the race detector makes
// drop many of its items.
const undercounts = true
