//go:build race

package lru

// deaf says that ristretto counts next to nothing: under the race detector sync.Pool, where it keeps what was met, loses much.
const deaf = true
