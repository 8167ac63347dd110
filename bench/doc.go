// Package bench compares the page cache with other stores on the same machine, in the same process, in turns.
//
// Store is the interface that they have in common: numbered pages that are replaced as a whole or appended to,
// durably or not. Pagecache implements it, and so do the stores of other projects that Peers lists. Log is the same for
// logs. Run and RunFor drive a store from several goroutines.
//
//	go run ./cmd/compare      the comparisons that the project promises, side by side, with ratios and spreads
//	go run ./cmd/abtest       two versions of the engine, in turns, with confidence intervals
//	go test -bench . -count 6 benchmarks for benchstat, named like Link/store=pagecache/value=64/dist=zipf/threads=8
//
// It is a module of its own, so that programs that embed the page cache do not depend on the other stores.
package bench
