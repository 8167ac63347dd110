// Package linear checks that the calls on a page store are linearizable, also across kills. It consists of tests only.
//
// It is a module of its own. The checker (porcupine) is needed by no program that embeds the store, and a requirement
// of a test would still be listed in go.sum and in the module graph of each of them.
//
// Goroutines work on a few shared pages and roots, and each call is recorded with its arguments, its results, and the
// times at which it began and ended. The checker looks for an order of the calls that respects these times and in which
// a simple model (model_test.go) gives the same results. Each page and each root is checked by itself: linearizability
// is local.
//
// After a kill, the contents that the next opening shows are one more read. The model keeps all versions of a page or
// root, and the read must find one of them that is not older than the newest acknowledged one. The store loses
// unacknowledged changes only from the end: durable_test.go compares what survived between pages, and within batches.
package linear
