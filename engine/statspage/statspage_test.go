package statspage_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/statspage"
)

// get returns the answer to a GET of a part of the page.
func get(p http.Handler, url string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	return w
}

// chartData is a picture in the page's JSON.
type chartData struct {
	ID    string
	Lines []struct {
		Name   string
		Points [][]*float64
	}
}

// points returns the points of a line.
func points(t *testing.T, p http.Handler, id, line string) [][]*float64 {
	t.Helper()
	var d struct{ Charts []chartData }
	if err := json.Unmarshal(get(p, "/?part=data").Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Charts {
		for _, l := range c.Lines {
			if c.ID == "run1-"+id && l.Name == line {
				return l.Points
			}
		}
	}
	return nil
}

// until waits until ok returns true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// The page of a real store shows its directory and what it does.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	}()
	page := statspage.New(pc.Stats, &statspage.Options{Every: 10 * time.Millisecond})
	defer page.Close()
	until(t, "hits and device writes", func() bool {
		tx, err := pc.Begin()
		if err != nil {
			t.Fatal(err)
		}
		pid, _, err := pc.Allocate(tx, make([]byte, 1000))
		for range 100 {
			_, _ = pc.Get(tx, pid)
		}
		tx.End()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		most := 0.0
		for _, p := range points(t, page, "cleaning", "written") {
			most = max(most, *p[1])
		}
		return most > 0 && points(t, page, "hits", "hits") != nil && points(t, page, "resident", "heap") != nil
	})
	text := get(page, "/").Body.String()
	for _, want := range []string{"<title>" + dir + "</title>", "Resident bytes", "Hit ratio", "Amplification",
		"connect-src"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// A sample has the counts since the one before, and the page keeps the newest ones.
func TestSamples(t *testing.T) {
	var calls atomic.Int64
	stats := func() (s engine.Stats) {
		n := calls.Add(1)
		s.Log.BytesWritten, s.Log.BytesGiven = 3000*n, 2000*n
		s.Cache.Hits, s.Cache.Misses = 3*n, n
		return s
	}
	page := statspage.New(stats, &statspage.Options{Title: "a store", Every: time.Millisecond, Keep: 5})
	until(t, "20 samples", func() bool { return calls.Load() > 20 })
	page.Close()
	page.Close()
	n := calls.Load()
	for _, c := range []struct {
		id, line string
		want     float64
	}{{"amplification", "write", 1.5}, {"hits", "hits", 75}} {
		got := points(t, page, c.id, c.line)
		if len(got) != 5 {
			t.Errorf("%s: %d samples, want 5", c.id, len(got))
		}
		for _, p := range got {
			if p[1] == nil || *p[1] != c.want {
				t.Errorf("%s: %v, want %v", c.id, *p[1], c.want)
			}
		}
	}
	time.Sleep(5 * time.Millisecond)
	if calls.Load() != n {
		t.Error("Stats was called after Close")
	}
}

// A page is read only, and listens on the loopback address unless it is told otherwise.
func TestServe(t *testing.T) {
	page := statspage.New(func() engine.Stats { return engine.Stats{} }, nil)
	defer page.Close()
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
	if w := get(page, "/?part=else"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown part: status %d", w.Code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- page.ListenAndServe(ctx, ":0") }()
	time.Sleep(10 * time.Millisecond)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := page.ListenAndServe(t.Context(), "nonsense"); err == nil {
		t.Error("an address without a port was accepted")
	}
}
