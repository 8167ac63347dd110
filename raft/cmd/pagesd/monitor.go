package main

import (
	"fmt"
	"net/http"
	"time"

	metrics "github.com/hashicorp/go-metrics"
	metricsprom "github.com/hashicorp/go-metrics/prometheus"
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pagecache/engine/promstats"
)

// measure has go-metrics, where raft and raftlog count, add to a registry of Prometheus. It is called once.
func measure() (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	sink, err := metricsprom.NewPrometheusSinkFrom(metricsprom.PrometheusOpts{
		Registerer: registry, Expiration: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	conf := metrics.DefaultConfig("")
	conf.EnableHostname, conf.EnableRuntimeMetrics = false, false
	_, err = metrics.NewGlobal(conf, sink)
	return registry, err
}

// newMonitor returns the handler of health and metrics.
func newMonitor(n *node, registry *prometheus.Registry) http.Handler {
	registry.MustRegister(
		promstats.NewCollector(n.disk.log.Log(), prometheus.Labels{"store": "log"}),
		promstats.NewCollector(n.disk.pages, prometheus.Labels{"store": "pages"}),
		nodeCollector{n},
	)
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	m.HandleFunc("GET /healthz", check(n.err))
	m.HandleFunc("GET /readyz", check(n.unready))
	return m
}

// check answers 200 if an error is nil, else 503 with its text.
func check(err func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := err(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// unready returns why a node cannot answer requests well, nil if it can: its disk does not hang, and it is the leader,
// or has heard from the leader within the last heartbeats.
func (n *node) unready() error {
	if err := n.err(); err != nil {
		return err
	}
	if _, ok := n.member(n.conf.id); !ok {
		return fmt.Errorf("node %s is not a member", n.conf.id)
	}
	if waiting := n.disk.pages.Waiting(); waiting > n.conf.heartbeat {
		return fmt.Errorf("the disk has been storing entries for %v", waiting.Round(time.Millisecond))
	}
	if n.raft.State() == raft.Leader {
		return nil
	}
	if addr, _ := n.raft.LeaderWithID(); addr == "" {
		return errNoLeader
	}
	if silent := time.Since(n.raft.LastContact()); silent > 3*n.conf.heartbeat {
		return fmt.Errorf("nothing was heard from the leader for %v", silent.Round(time.Millisecond))
	}
	return nil
}

// nodeCollector exports the status of a node.
type nodeCollector struct{ n *node }

// gauge is a number of the status.
type gauge struct {
	desc  *prometheus.Desc
	value func(*node, status) float64
}

func newGauge(name, help string, value func(*node, status) float64) gauge {
	return gauge{prometheus.NewDesc("pagesd_"+name, help, nil, nil), value}
}

// truth is 1 or 0.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// gauges are all numbers of the status.
var gauges = []gauge{
	newGauge("leader", "1 if this node is the leader.",
		func(_ *node, s status) float64 { return truth(s.State == raft.Leader.String()) }),
	newGauge("has_leader", "1 if this node knows a leader.",
		func(_ *node, s status) float64 { return truth(s.Leader.ID != "") }),
	newGauge("ready", "1 if /readyz says ok.",
		func(n *node, _ status) float64 { return truth(n.unready() == nil) }),
	newGauge("healthy", "1 if /healthz says ok.",
		func(_ *node, s status) float64 { return truth(s.Error == "") }),
	newGauge("term", "Term of raft.", func(_ *node, s status) float64 { return float64(s.Term) }),
	newGauge("last_index", "Index of the last entry of the log.",
		func(_ *node, s status) float64 { return float64(s.LastIndex) }),
	newGauge("commit_index", "Index of the last entry that is known to be committed.",
		func(_ *node, s status) float64 { return float64(s.CommitIndex) }),
	newGauge("applied_index", "Index of the last entry that the pages have.",
		func(_ *node, s status) float64 { return float64(s.AppliedIndex) }),
	newGauge("snapshot_index", "Index of the newest snapshot.",
		func(_ *node, s status) float64 { return float64(s.SnapshotIndex) }),
	newGauge("members", "Members of the cluster.", func(_ *node, s status) float64 { return float64(len(s.Members)) }),
}

// Describe implements prometheus.Collector.
func (c nodeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, g := range gauges {
		descs <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	s := c.n.describe()
	for _, g := range gauges {
		out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(c.n, s))
	}
}
