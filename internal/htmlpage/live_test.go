package htmlpage_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/internal/htmlpage"
	"pagecache/internal/htmlpage/pagetest"
)

// A server on a loopback address answers to localhost only, and ends with its context.
func TestServeAnswersLocally(t *testing.T) {
	l, err := htmlpage.Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	if addr := l.Addr().String(); !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Errorf("it listens on %s", addr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	live := htmlpage.NewLive(func() *htmlpage.Report { return sampleReport(20) }, time.Second)
	go func() { done <- htmlpage.Serve(ctx, l, live) }()
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	for host, want := range map[string]int{"localhost:" + port: 200, "127.0.0.1": 200, "[::1]:" + port: 200,
		"example.org:" + port: 403, "127.0.0.1.example.org": 403, "10.0.0.1": 403} {
		r, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, answer.Body)
		if answer.Body.Close(); err != nil || answer.StatusCode != want {
			t.Errorf("%s: status %d, %v; want %d", host, answer.StatusCode, err, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, addr := range []string{"", "8080", "host"} {
		if l, err := htmlpage.Listen(addr); err == nil {
			t.Errorf("it listens on %q: %v", addr, l.Addr())
		}
	}
}

// A page of a running load shows newer values without being loaded again.
func TestBrowserRefreshes(t *testing.T) {
	pagetest.Browser(t)
	var asked atomic.Int64
	growing := func() *htmlpage.Report { return sampleReport(10 + int(asked.Add(1))) }
	live := htmlpage.NewLive(growing, 100*time.Millisecond)
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/store", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			live.ServeHTTP(w, r)
			return
		}
		page := httptest.NewRecorder()
		live.ServeHTTP(page, r)
		check := strings.Replace(pagetest.CheckScript, "<script>", "<script>setTimeout(() => {", 1)
		check = strings.Replace(check, "</script>", "}, 1000)</script>", 1)
		_, _ = io.WriteString(w, strings.Replace(page.Body.String(), "</body>", check, 1))
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	c := pagetest.Render(t, pagetest.Looks[0], s.URL+"/debug/store")
	if len(c.Wrong) > 0 || c.Charts != 10 || c.Main != 14 {
		t.Errorf("%d charts, %d figures, wrong: %v", c.Charts, c.Main, c.Wrong)
	}
	if asked.Load() < 3 {
		t.Errorf("the page asked for values %d times", asked.Load())
	}
}
