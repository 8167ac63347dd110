package raftlog

import metrics "github.com/hashicorp/go-metrics"

// Metrics receives counts of a Store or of all groups of a Multi. The collectors of raft-wal implement it, and the
// names are raft-wal's:
//
//	log_appends              calls of StoreLog and StoreLogs that have succeeded
//	log_entries_written      their entries
//	log_entry_bytes_written  bytes of those entries, as they are encoded
//	log_entries_read         entries read by GetLog
//	log_entry_bytes_read     bytes of those entries, as they are encoded
//	head_truncations         entries removed at the beginning
//	tail_truncations         entries removed at the end
//	stable_gets              calls of Get and GetUint64
//	stable_sets              calls of Set and SetUint64 that have succeeded
//
// Segments, space and latencies are in the Stats and Latencies of the log; see Store.Log.
type Metrics interface {
	// IncrementCounter adds to a count. Goroutines call it at the same time.
	IncrementCounter(name string, delta uint64)
}

// The names of the metrics.
const (
	logAppends           = "log_appends"
	logEntriesWritten    = "log_entries_written"
	logEntryBytesWritten = "log_entry_bytes_written"
	logEntriesRead       = "log_entries_read"
	logEntryBytesRead    = "log_entry_bytes_read"
	headTruncations      = "head_truncations"
	tailTruncations      = "tail_truncations"
	stableGets           = "stable_gets"
	stableSets           = "stable_sets"
)

// GoMetrics returns Metrics that adds to counters of go-metrics, where raft itself counts. prefix is the first part of
// their names.
func GoMetrics(prefix ...string) Metrics { return goMetrics(prefix) }

// goMetrics is the first part of names.
type goMetrics []string

// IncrementCounter implements Metrics.
func (m goMetrics) IncrementCounter(name string, delta uint64) {
	metrics.IncrCounter(append(m[:len(m):len(m)], name), float32(delta))
}
