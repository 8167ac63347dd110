package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/load"
	"pagecache/internal/htmlpage/pagetest"
)

// pageData is the JSON in a page.
type pageData struct {
	Title  string   `json:"title"`
	Notes  []string `json:"notes"`
	Facts  []struct{ Name, Value string }
	Charts []struct {
		ID    string `json:"id"`
		Lines []struct {
			Name   string       `json:"name"`
			Points [][]*float64 `json:"points"` // seconds, mean; one interval each, as long as there are at most 100
		} `json:"lines"`
	} `json:"charts"`
	Histograms []struct {
		ID          string  `json:"id"`
		Operations  float64 `json:"operations"`
		Percentiles []struct {
			At   float64 `json:"at"`
			Name string  `json:"name"`
		} `json:"percentiles"`
	} `json:"histograms"`
	Heatmaps []struct {
		ID    string       `json:"id"`
		Cells [][3]float64 `json:"cells"` // column, row, operations
	} `json:"heatmaps"`
	Comparisons []struct {
		Title string `json:"title"`
		Rows  []struct {
			Name  string `json:"name"`
			Cells []struct {
				Side                string
				Median, Least, Most float64
				Ratio               *struct{ Median, Least, Most float64 }
			}
		}
	} `json:"comparisons"`
}

// dataOf returns the JSON in a page.
func dataOf(t *testing.T, page string) (d pageData) {
	t.Helper()
	_, rest, _ := strings.Cut(page, `id="data">`)
	text, _, ok := strings.Cut(rest, "</script>")
	if !ok {
		t.Fatalf("no data in the page:\n%.2000s", page)
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// integral returns the sum over time of the line of a chart.
func (d *pageData) integral(chart, line string) (sum float64) {
	for _, c := range d.Charts {
		for _, l := range c.Lines {
			last := 0.0
			for _, p := range l.Points {
				if c.ID == chart && l.Name == line && p[1] != nil {
					sum += (*p[0] - last) * *p[1]
				}
				last = *p[0]
			}
		}
	}
	return sum
}

// The page of a run has the operations, bytes and percentiles of the report of the same run, and shows them in a
// browser.
func TestPageEqualsReport(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "run.html")
	r := runJSON(t, "--name=w --rw=randrw --size=1m --runtime=1500ms --time_based --iodepth=2 --fdatasync=64 "+
		"--snapshots=300ms --cache=512k --name=t --stonewall --rw=randtrim --size=1m --snapshots=300ms --cache=512k "+
		"--html="+file)
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := dataOf(t, string(page))
	near := func(what string, got, want, part float64) {
		t.Helper()
		if !(math.Abs(got-want) <= part*want) {
			t.Errorf("%s: the page has %v, the report %v", what, got, want)
		}
	}
	w := r.Jobs[0]
	for _, k := range []struct {
		kind    string
		ops     int64
		bytes   int64
		latency fioLatency
	}{
		{"run1-%-read", w.Read.Total, w.Read.Bytes, w.Read.Clat},
		{"run1-%-write", w.Write.Total, w.Write.Bytes, w.Write.Clat},
		{"run1-%-commit", w.Sync.Total, 0, w.Sync.Lat},
		{"run2-%-trim", r.Jobs[1].Trim.Total, r.Jobs[1].Trim.Bytes, r.Jobs[1].Trim.Clat},
	} {
		run, name := k.kind[:5], k.kind[7:]
		found := 0
		for _, h := range d.Histograms {
			if h.ID == run+"distribution-"+name {
				found++
				near(h.ID, h.Operations, float64(k.ops), 0)
				for i, p := range []string{"50.000000", "99.000000", "99.900000"} {
					near(h.ID+" "+p, h.Percentiles[i].At, float64(k.latency.Percentile[p]), 1e-4)
				}
			}
		}
		for _, h := range d.Heatmaps {
			if h.ID == run+"heat-"+name {
				found++
				sum := 0.0
				for _, c := range h.Cells {
					sum += c[2]
				}
				near(h.ID, sum, float64(k.ops), 0)
			}
		}
		if found != 2 {
			t.Errorf("%s %s: %d pictures of latencies, want 2", run, name, found)
		}
		near(k.kind+" operations", d.integral(run+"iops", name), float64(k.ops), 2e-3)
		near(k.kind+" bytes", d.integral(run+"bandwidth", name), float64(k.bytes), 2e-3)
	}
	for _, id := range []string{"amplification", "resident", "hits", "cleaning", "segments", "snapshots"} {
		if !strings.Contains(string(page), `id="run1-`+id+`"`) {
			t.Errorf("no picture %s", id)
		}
	}
	names := ""
	for _, f := range d.Facts {
		names += f.Name + " "
	}
	for _, want := range []string{"command", "pcbench", "processors", "memory", "kernel", "file system", "Go", "log"} {
		if !strings.Contains(names, want) {
			t.Errorf("no fact %q in %s", want, names)
		}
	}
	if len(d.Notes) != 0 || d.Title != "pcbench: w, t" {
		t.Errorf("title %q, notes %q", d.Title, d.Notes)
	}
	if c := pagetest.RenderFile(t, string(page)); c.Charts != len(d.Charts) || c.Points < 100 {
		t.Errorf("%+v", c)
	}
}

// An interrupted run writes its page, which says so.
func TestPageOfInterruptedRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.html")
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, errOut, status := pcbench(t, ctx, "run --rw=randread --size=1m --runtime=1h --time_based --html="+file)
	page, err := os.ReadFile(file)
	if status != exitInterrupted || err != nil {
		t.Fatalf("status %d, %s, %v", status, errOut, err)
	}
	d := dataOf(t, string(page))
	if len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "interrupted") || len(d.Histograms) != 1 {
		t.Errorf("notes %q, %d histograms", d.Notes, len(d.Histograms))
	}
}

// Trap: the latencies of an open loop that did not keep up looked complete. Each report says what they do not have.
func TestNotBegunIsReported(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.html")
	out, errOut, status := pcbench(t, context.Background(), "run --rw=randread --size=64k --rate_iops=40000000 "+
		"--runtime=50ms --time_based --output-format=normal,json --html="+file)
	b, err := os.ReadFile(file)
	if err != nil || status != 0 {
		t.Fatalf("%d, %s%v", status, errOut, err)
	}
	const want = "operations were due before the end"
	if !strings.Contains(out, want) || !strings.Contains(string(b), want) || !strings.Contains(out, `"not_begun": 1`) {
		t.Errorf("%s", out)
	}
}

// A page that cannot be written is an error: before anything is laid out if the file cannot be made, and at the end
// otherwise. Nothing half-written stays.
func TestPageCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	for line, want := range map[string]string{
		"--size=1g --html=" + filepath.Join(dir, "no", "run.html"): "--html",
		"--size=1m --html=/dev/full":                               "no space left",
		"--size=1m --html=/dev/full --runtime=100ms --time_based":  "no space left",
	} {
		began := time.Now()
		out, errOut, status := pcbench(t, context.Background(), "run --rw=randread "+line)
		if status != exitFailed || !strings.Contains(errOut, want) || time.Since(began) > time.Minute {
			t.Errorf("%s: status %d, %s", line, status, errOut)
		}
		if strings.Contains(line, "/dev/full") != strings.Contains(out, "err= 0") {
			t.Errorf("%s: the report is\n%s", line, out)
		}
	}
	file := filepath.Join(dir, "run.html")
	for line, want := range map[string]string{
		"run --html= --size=1m":                                      "must name a file",
		"run --html=" + file + " --output=" + file:                   "is the file of --output",
		"run --live=8080 --size=1m":                                  "host:port",
		"run --html=" + file + " --live=127.0.0.1:99999":             "--live",
		"run --html=" + file + " --size=64k --bs=128k --rw=randread": "--size",
	} {
		if _, errOut, status := pcbench(t, context.Background(), line); status == 0 || !strings.Contains(errOut, want) {
			t.Errorf("%s: status %d, %s", line, status, errOut)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends b.
func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String returns what was written.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The live page shows a run while it runs, changes nothing, and ends with the run.
func TestLivePage(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var messages lockedBuffer
	var out bytes.Buffer
	status := make(chan int, 1)
	go func() {
		args := strings.Fields("run --rw=randrw --size=1m --segment=256k --runtime=1h --time_based --live=:0 " +
			"--eta=never --directory=" + dir)
		status <- command(ctx, args, &out, io.Discard, &load.Progress{Out: &messages, Every: time.Hour})
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	url := ""
	get := func(method, query string) (string, int) {
		r, err := http.NewRequest(method, url+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			return err.Error(), 0
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), answer.StatusCode
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if url = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(messages.String()); url != "" {
			page, code := get(http.MethodGet, "")
			if code != http.StatusOK {
				t.Fatalf("status %d, %s", code, page)
			}
			if d := dataOf(t, page); len(d.Histograms) == 2 {
				if len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "The jobs run") {
					t.Errorf("notes %q", d.Notes)
				}
				break
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no pictures: %s", &messages)
		}
	}
	if _, code := get(http.MethodPost, ""); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", code)
	}
	first, _ := get(http.MethodGet, "?part=data")
	time.Sleep(time.Second)
	if second, _ := get(http.MethodGet, "?part=data"); first == second {
		t.Error("the page does not change")
	}
	cancel()
	if got := <-status; got != exitInterrupted {
		t.Errorf("status %d", got)
	}
	if text, code := get(http.MethodGet, ""); code != 0 {
		t.Errorf("after the run: status %d, %.100s", code, text)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// A port that is in use is an error before the pages are laid out.
func TestLivePortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, errOut, status := pcbench(t, ctx, "run --rw=randread --size=1g --live="+l.Addr().String())
	if status != exitFailed || !strings.Contains(errOut, "--live="+l.Addr().String()) ||
		!strings.Contains(errOut, "address already in use") || out != "" {
		t.Errorf("status %d, %s%s", status, out, errOut)
	}
}
