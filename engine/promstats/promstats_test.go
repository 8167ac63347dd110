package promstats_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"pagecache/engine"
	"pagecache/engine/promstats"
)

// opened returns a store that has done something of everything, and is closed at the end of the test.
func opened(t *testing.T) *engine.PageCache[[]byte] {
	t.Helper()
	pc, err := engine.Open(t.TempDir(), engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	})
	work(t, pc)
	return pc
}

// work allocates, reads and commits some pages.
func work(t *testing.T, pc *engine.PageCache[[]byte]) {
	t.Helper()
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.End()
	for range 100 {
		pid, ptr, err := pc.Allocate(tx, make([]byte, 500))
		if err == nil {
			_, err = pc.MakeStable(ptr.LastLSN())
		}
		if err == nil {
			_, err = pc.Get(tx, pid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// gathered returns the metrics of a registry by name.
func gathered(t *testing.T, r prometheus.Gatherer) map[string]*dto.Metric {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*dto.Metric{}
	for _, f := range families {
		m[f.GetName()] = f.GetMetric()[0]
	}
	return m
}

// The metrics keep Prometheus' conventions for names, units and help, and have the numbers of Stats. Two stores can be
// registered side by side.
func TestCollector(t *testing.T) {
	pc := opened(t)
	c := promstats.NewCollector(pc, prometheus.Labels{"store": "a"})
	problems, err := testutil.CollectAndLint(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c, promstats.NewCollector(opened(t), prometheus.Labels{"store": "b"}))
	m := gathered(t, r)
	st := pc.Stats()
	for name, want := range map[string]int64{
		"pagecache_pages": 100, "pagecache_log_given_bytes_total": st.Log.BytesGiven,
		"pagecache_cache_capacity_bytes": st.Cache.Capacity, "pagecache_txs_open": 0, "pagecache_log_failed": 0,
		"pagecache_log_stable_bytes": int64(st.Log.StableLSN) + 1,
	} {
		if got := m[name].GetGauge().GetValue() + m[name].GetCounter().GetValue(); got != float64(want) {
			t.Errorf("%s is %v, want %d", name, got, want)
		}
	}
	h := m["pagecache_commit_duration_seconds"].GetHistogram()
	if h.GetSampleCount() == 0 || h.GetSampleSum() <= 0 || len(h.GetPositiveSpan()) == 0 || h.GetSchema() != 3 {
		t.Errorf("commits: %v", h)
	}
}

// A log without pages can be collected, and a store after Close.
func TestCollectorOfALogAndAfterClose(t *testing.T) {
	l, err := engine.OpenLog(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := promstats.NewCollector(l, nil)
	for range 2 {
		if n := testutil.CollectAndCount(c); n < 40 {
			t.Errorf("%d metrics", n)
		}
		_ = l.Close()
	}
}

// fixed is a source with given commits.
type fixed struct{ commits engine.Histogram }

func (fixed) Stats() engine.Stats            { return engine.Stats{} }
func (f fixed) Latencies() engine.Latencies  { return engine.Latencies{Commit: f.commits} }
func (fixed) Err() error                     { return fmt.Errorf("write: %w", engine.ErrFailed) }
func add(h *engine.Histogram, bucket, n int) { h.Buckets[bucket] += int64(n); h.Count += int64(n) }

// The buckets are those that the client library itself would count the same durations in.
func TestNativeHistogram(t *testing.T) {
	own := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "own", Help: "x", NativeHistogramBucketFactor: 1.1})
	h := engine.Histogram{Buckets: map[int]int64{}}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		// The middle of a bucket of engine.Histogram, as its documentation has them.
		bucket := rng.IntN(200) - 180
		d := engine.Histogram{Count: 1, Buckets: map[int]int64{bucket: 1}}.Quantile(1)
		seconds := d.Seconds() * 0.96
		own.Observe(seconds)
		add(&h, bucket, 1)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(promstats.NewCollector(fixed{h}, nil), own)
	m := gathered(t, r)
	got, want := m["pagecache_commit_duration_seconds"].GetHistogram(), m["own"].GetHistogram()
	if got.GetSchema() != want.GetSchema() || got.GetSampleCount() != 1000 ||
		fmt.Sprint(got.GetPositiveSpan(), got.GetPositiveDelta()) !=
			fmt.Sprint(want.GetPositiveSpan(), want.GetPositiveDelta()) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if m["pagecache_log_failed"].GetGauge().GetValue() != 1 {
		t.Error("a failed log is not shown")
	}
}

const docs = "../../docs"

// The list in docs/METRICS.md has each metric with its type and help, and no other.
func TestDocumentedMetrics(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(docs, "METRICS.md"))
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(promstats.NewCollector(fixed{}, nil))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, f := range families {
		row := fmt.Sprintf("| `%s` | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), f.GetHelp())
		if want[row] = true; !strings.Contains(string(b), row+"\n") {
			t.Errorf("docs/METRICS.md has no line %s", row)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `pagecache_\\w+` \\|.*$").FindAllString(string(b), -1) {
		if !want[row] {
			t.Errorf("docs/METRICS.md has a line of no metric: %s", row)
		}
	}
}

// dashboard is what the tests need of docs/grafana.json.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// queries returns the queries of the dashboard, with its variables filled in.
func queries(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(docs, "grafana.json"))
	var d dashboard
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$instance", ".*", "$__rate_interval", "5s")
	all := map[string]string{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all[fill.Replace(q.Expr)] = p.Title
		}
	}
	return all
}

// The dashboard uses metrics that exist, and all that are worth a look.
func TestDashboard(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(promstats.NewCollector(fixed{}, nil))
	exists := gathered(t, r)
	used := map[string]bool{}
	for q, panel := range queries(t) {
		for _, name := range regexp.MustCompile(`pagecache_\w+`).FindAllString(q, -1) {
			if used[name] = true; exists[name] == nil {
				t.Errorf("panel %q: there is no metric %s", panel, name)
			}
		}
	}
	if len(used) < 30 {
		t.Errorf("the dashboard uses %d metrics: %v", len(used), slices.Sorted(maps.Keys(used)))
	}
}

// A real Prometheus scrapes a store, and answers every query of the dashboard. Skipped if none is installed.
func TestDashboardOnPrometheus(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("needs the program prometheus")
	}
	pc := opened(t)
	r := prometheus.NewRegistry()
	r.MustRegister(promstats.NewCollector(pc, prometheus.Labels{"store": "a"}))
	target := httptest.NewServer(promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	defer target.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := "scrape_configs: [{job_name: a, scrape_interval: 250ms, scrape_timeout: 250ms, " +
		"static_configs: [{targets: ['" + strings.TrimPrefix(target.URL, "http://") + "']}]}]\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--enable-feature=native-histograms", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	// answer returns how many series a query has now.
	answer := func(q string) (int, error) {
		client := http.Client{Timeout: 5 * time.Second}
		res, err := client.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		var a struct {
			Status, Error string
			Data          struct{ Result []any }
		}
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil || a.Status != "success" {
			return 0, fmt.Errorf("%s: %s: %v", res.Status, a.Error, err)
		}
		return len(a.Data.Result), nil
	}
	left := queries(t)
	for end := time.Now().Add(60 * time.Second); len(left) > 0 && time.Now().Before(end); {
		work(t, pc)
		time.Sleep(250 * time.Millisecond)
		for q := range left {
			n, err := answer(q)
			if err != nil {
				break // it is not up yet
			}
			if n > 0 {
				delete(left, q)
			}
		}
	}
	for q, panel := range left {
		n, err := answer(q)
		t.Errorf("panel %q: %d series, %v, for %s", panel, n, err, q)
	}
}
