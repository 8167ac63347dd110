// Package promstats exports the statistics of a store to Prometheus. It is a module of its own, so that programs that
// embed the store without it do not inherit the client library.
//
//	prometheus.MustRegister(promstats.NewCollector(pc, prometheus.Labels{"store": "orders"}))
//
// docs/METRICS.md lists the metrics, and docs/grafana.json is a dashboard for them.
package promstats

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pagecache/engine"
)

// Source is a store, or a standalone log, that is open or closed.
type Source interface {
	Stats() engine.Stats
	Latencies() engine.Latencies
	Err() error
}

// metric is a metric with one value, taken from Stats.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*engine.Stats) float64
}

// metrics are all metrics with one value.
var metrics = []metric{
	counter("log_given_bytes_total", "Bytes of messages that callers have written, without blobs.",
		func(s *engine.Stats) int64 { return s.Log.BytesGiven }),
	counter("log_written_bytes_total", "Bytes given to the device, padding included.",
		func(s *engine.Stats) int64 { return s.Log.BytesWritten }),
	counter("log_padding_bytes_total", "Bytes of padding given to the device.",
		func(s *engine.Stats) int64 { return s.Log.BytesPadded }),
	counter("log_flushes_total", "Writes of the log to the device.",
		func(s *engine.Stats) int64 { return s.Log.Flushes }),
	counter("log_buffer_waits_total", "Times that a writer has waited for an io buffer.",
		func(s *engine.Stats) int64 { return s.Log.BufferWaits }),
	gauge("log_stable_bytes", "Length of the log up to its last stable byte, since the store was made.",
		func(s *engine.Stats) int64 { return int64(s.Log.StableLSN) + 1 }),
	gauge("log_open_batches", "Batches that are open.",
		func(s *engine.Stats) int64 { return int64(s.Log.Batches) }),
	age("log_oldest_batch_age_seconds", "Age of the oldest open batch, which holds up stability.",
		func(s *engine.Stats) time.Duration { return s.Log.OldestBatch.Age }),
	age("log_oldest_reservation_age_seconds", "Age of the oldest reservation, which holds up durability.",
		func(s *engine.Stats) time.Duration { return s.Log.OldestReservation.Age }),

	gauge("space_file_bytes", "Bytes that the log file occupies on the disk.",
		func(s *engine.Stats) int64 { return s.Space.FileBytes }),
	gauge("space_live_bytes", "Bytes of messages that are current.",
		func(s *engine.Stats) int64 { return s.Space.LiveBytes }),
	gauge("space_blob_bytes", "Bytes of blobs.", func(s *engine.Stats) int64 { return s.Space.BlobBytes }),
	gauge("space_blobs", "Files of blobs.", func(s *engine.Stats) int64 { return int64(s.Space.Blobs) }),
	gauge("space_segments", "Slots of the log file.",
		func(s *engine.Stats) int64 { return int64(s.Space.Segments) }),
	gauge("space_segments_in_use", "Slots of the log file that are not free.",
		func(s *engine.Stats) int64 { return int64(s.Space.SegmentsInUse) }),
	gauge("space_segments_out_of_use", "Slots of the log file that cannot be written or read.",
		func(s *engine.Stats) int64 { return int64(s.Space.OutOfUse) }),
	gauge("space_segments_draining", "Segments in which nothing is current, that cannot be recycled yet.",
		func(s *engine.Stats) int64 { return int64(s.Space.Draining) }),
	counter("space_recycled_segments_total", "Segments recycled.",
		func(s *engine.Stats) int64 { return s.Space.Recycled }),
	counter("space_cleaned_segments_total", "Segments whose live data was moved.",
		func(s *engine.Stats) int64 { return s.Space.Cleaned }),
	counter("space_moved_bytes_total", "Bytes of live data that were moved.",
		func(s *engine.Stats) int64 { return s.Space.BytesMoved }),

	counter("snapshots_total", "Snapshots written.", func(s *engine.Stats) int64 { return s.Snapshots }),
	gauge("snapshot_since_messages", "Messages in the log since the newest snapshot.",
		func(s *engine.Stats) int64 { return s.Snapshot.Since }),
	gauge("snapshot_rebuilding_blocks", "Corrupt blocks of the snapshot that are being looked up in the log.",
		func(s *engine.Stats) int64 { return s.Snapshot.Rebuilding }),

	gauge("pages", "Pages that were allocated and not freed.", func(s *engine.Stats) int64 { return s.Pages.InUse }),
	gauge("pages_roots", "Names that have a root.", func(s *engine.Stats) int64 { return s.Pages.Roots }),
	counter("pages_fetches_total", "Fragments read from the log or the kernel's page cache.",
		func(s *engine.Stats) int64 { return s.Pages.Fetches }),
	counter("pages_cold_fetches_total", "Fragments read from disk, or assumed to be.",
		func(s *engine.Stats) int64 { return s.Pages.FetchesCold }),
	counter("pages_merges_total", "Merges of fragments.", func(s *engine.Stats) int64 { return s.Pages.Merges }),
	counter("pages_consolidations_total", "Pages written as one message.",
		func(s *engine.Stats) int64 { return s.Pages.Consolidations }),

	gauge("cache_capacity_bytes", "Capacity of the cache.", func(s *engine.Stats) int64 { return s.Cache.Capacity }),
	gauge("cache_heap_bytes", "Bytes of resident values on the Go heap.",
		func(s *engine.Stats) int64 { return s.Cache.HeapResident }),
	gauge("cache_mapped_bytes", "Bytes of resident values that are views of the mapped file.",
		func(s *engine.Stats) int64 { return s.Cache.MappedResident }),
	counter("cache_hits_total", "Gets of resident pages.", func(s *engine.Stats) int64 { return s.Cache.Hits }),
	counter("cache_misses_total", "Gets that had to read.", func(s *engine.Stats) int64 { return s.Cache.Misses }),
	counter("cache_evictions_total", "Pages evicted.", func(s *engine.Stats) int64 { return s.Cache.Evictions }),
	counter("cache_reclaimed_bytes_total", "Bytes evicted by calls that exceeded the capacity.",
		func(s *engine.Stats) int64 { return s.Cache.Reclaimed }),
	counter("cache_rewritten_bytes_total", "Bytes written to the log by evictions.",
		func(s *engine.Stats) int64 { return s.Cache.BytesRewritten }),

	gauge("txs_open", "Txs that are open.", func(s *engine.Stats) int64 { return int64(s.Txs.Open) }),
	age("txs_oldest_age_seconds", "Age of the oldest open Tx; segments that it can see are not recycled.",
		func(s *engine.Stats) time.Duration { return s.Txs.Age }),
	gauge("txs_views", "Views that are open.", func(s *engine.Stats) int64 { return s.Txs.Views }),
	gauge("txs_versions", "Old versions of pages that are kept for open Views.",
		func(s *engine.Stats) int64 { return s.Txs.Versions }),
	gauge("scratch_bytes", "Bytes of memory kept for encoding, compressing and decompressing.",
		func(s *engine.Stats) int64 { return s.Scratch.Bytes }),
}

func counter(name, help string, value func(*engine.Stats) int64) metric {
	return metric{name, help, prometheus.CounterValue, func(s *engine.Stats) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(*engine.Stats) int64) metric {
	return metric{name, help, prometheus.GaugeValue, func(s *engine.Stats) float64 { return float64(value(s)) }}
}

func age(name, help string, value func(*engine.Stats) time.Duration) metric {
	return metric{name, help, prometheus.GaugeValue, func(s *engine.Stats) float64 { return value(s).Seconds() }}
}

// histogram is a metric taken from Latencies.
type histogram struct {
	name, help string
	value      func(*engine.Latencies) engine.Histogram
}

var histograms = []histogram{
	{"commit_duration_seconds", "Time of calls of MakeStable and Flush that had to wait.",
		func(l *engine.Latencies) engine.Histogram { return l.Commit }},
	{"read_duration_seconds", "Time of reads from disk that a call waited for.",
		func(l *engine.Latencies) engine.Histogram { return l.Read }},
	{"device_write_duration_seconds", "Time of writes of the log to the device.",
		func(l *engine.Latencies) engine.Histogram { return l.Device }},
}

// failed is the name of the metric that is 1 once the log has failed.
const failed, failedHelp = "log_failed", "1 if the log has stopped after an I/O error, else 0. Reopen the store."

// namespace is the first word of all names.
const namespace = "pagecache"

// NewCollector returns a collector for a store or log. labels are added to all metrics; with several stores in a
// process, they must tell the stores apart. Collecting takes some microseconds, takes no lock that calls wait for, and
// goes on after Close. The collector keeps the store in memory until it is unregistered.
func NewCollector(s Source, labels prometheus.Labels) prometheus.Collector {
	c := &collector{source: s, opened: time.Now()}
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, nil, labels)
	}
	for _, m := range metrics {
		c.singles = append(c.singles, desc(m.name, m.help))
	}
	c.failed = desc(failed, failedHelp)
	for _, h := range histograms {
		c.histograms = append(c.histograms, desc(h.name, h.help))
	}
	return c
}

type collector struct {
	source     Source
	opened     time.Time // about when the counts began
	failed     *prometheus.Desc
	singles    []*prometheus.Desc // of metrics
	histograms []*prometheus.Desc // of histograms
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.failed
	for _, d := range c.singles {
		ch <- d
	}
	for _, d := range c.histograms {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	f := 0.0
	if errors.Is(c.source.Err(), engine.ErrFailed) {
		f = 1
	}
	ch <- prometheus.MustNewConstMetric(c.failed, prometheus.GaugeValue, f)
	st, l := c.source.Stats(), c.source.Latencies()
	for i, m := range metrics {
		ch <- prometheus.MustNewConstMetric(c.singles[i], m.kind, m.value(&st))
	}
	for i, h := range histograms {
		ch <- c.native(c.histograms[i], h.value(&l))
	}
}

// native returns a native histogram. Schema and numbers of the buckets are those of engine.Histogram. The threshold of
// the bucket of zeros, which is empty, marks a histogram without counts as native, too.
func (c *collector) native(d *prometheus.Desc, h engine.Histogram) prometheus.Metric {
	const schema = 3
	m, err := prometheus.NewConstNativeHistogram(d, uint64(h.Count), h.Sum.Seconds(), h.Buckets, nil, 0, schema,
		prometheus.DefNativeHistogramZeroThreshold, c.opened)
	if err != nil {
		return prometheus.NewInvalidMetric(d, err)
	}
	return m
}
