package htmlpage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Live is an http.Handler that serves the report of something that still runs. It answers GET and HEAD, and changes
// nothing. The page asks for its newest contents each interval.
//
//	/            the page
//	/?part=main  the contents of the page, without styles and script
//	/?part=data  the values, as JSON
//
// It may be mounted below any path. Safe for concurrent use.
type Live struct {
	report func() *Report
	every  time.Duration
}

// NewLive returns a handler of the reports that report returns. It calls report for each request, from several
// goroutines, and does not change what it returns. The page shows newer values each interval of every.
func NewLive(report func() *Report, every time.Duration) *Live { return &Live{report, every} }

// ServeHTTP answers a request.
func (l *Live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD: the page is read only", http.StatusMethodNotAllowed)
		return
	}
	v := newView(l.report())
	v.Policy, v.Refresh = policyLive, l.every.Seconds()
	var out bytes.Buffer
	var err error
	kind := "text/html; charset=utf-8"
	switch part := r.URL.Query().Get("part"); part {
	case "":
		err = templates.ExecuteTemplate(&out, "page", v)
	case "main":
		err = templates.ExecuteTemplate(&out, "main", v)
	case "data":
		kind = "application/json"
		err = json.NewEncoder(&out).Encode(v.Data)
	default:
		http.Error(w, fmt.Sprintf("no part %q: main and data are known", part), http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(out.Bytes()) // the client may be gone
}

// Listen listens on addr, host:port. Without a host it listens on 127.0.0.1 only, since a page is for the person who
// runs the program; port 0 chooses a free port.
func Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: want host:port or :port: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// Serve serves h on l until ctx ends, and closes l. It returns nil if ctx ended it. Requests that are under way get a
// second to end. If l is on a loopback address, requests with another host name than localhost are refused, so that
// pages of other sites cannot read it by a name that resolves to this machine.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	const header, rest = 5 * time.Second, time.Second
	if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && a.Addr().IsLoopback() {
		h = localOnly(h)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: header}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		end, cancel := context.WithTimeout(context.Background(), rest)
		defer cancel()
		if s.Shutdown(end) != nil {
			_ = s.Close()
		}
	})
	err := s.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// localOnly refuses requests with a host name other than localhost or a loopback address.
func localOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
			http.Error(w, fmt.Sprintf("host %q: this server answers to localhost only", host), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
