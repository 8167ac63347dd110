// Package bench compares the page cache with other stores, on the same machine, in the same process, at the same time.
//
// Store is what they have in common: numbered pages that are replaced as a whole or appended to, durably or not. Pagecache
// and Pebble are the stores behind it. Run and RunFor drive one from several goroutines.
//
//	go run ./cmd/compare      the comparisons that the project promises, side by side, with ratios
//	go test -bench . -count 6 benchmarks for benchstat, named like Link/store=pagecache/value=64/dist=zipf/threads=8
//
// It is a module of its own, so that whoever embeds the page cache does not fetch its rivals.
package bench
