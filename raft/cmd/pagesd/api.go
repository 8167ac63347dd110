package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// The headers of the protocol.
const (
	indexHeader     = "Pagesd-Index"     // of an answer: the index of raft at which a page was read
	forwardedHeader = "Pagesd-Forwarded" // of a request: the node that has forwarded it to the leader
)

// The outcomes of a change that an error reports.
const (
	outcomeNotDone = "not done" // the change was not made, and can be tried again
	outcomeUnknown = "unknown"  // the change may have been made, or may be made later
)

var (
	errNotLeader = errors.New("this node is not the leader")
	errNoLeader  = errors.New("there is no leader now")
	errBusy      = errors.New("too many requests at a time")
)

// answer is the JSON of a change that was made.
type answer struct {
	Index uint64 `json:"index"` // of the change in the log of raft
}

// failure is the JSON of an error.
type failure struct {
	Error   string `json:"error"`
	Outcome string `json:"outcome"`
}

// unknownOutcome wraps an error after which a change may have been made.
type unknownOutcome struct{ error }

func (u unknownOutcome) Unwrap() error { return u.error }

// requestError is the fault of a request.
type requestError struct {
	status int
	text   string
}

func (e requestError) Error() string { return e.text }

// api answers the requests of clients and of other nodes.
type api struct {
	n        *node
	forwards *http.Client
	slots    chan struct{} // one for each request that is under way
}

// newAPI returns the handler of all requests.
func newAPI(n *node) http.Handler {
	a := &api{n: n, slots: make(chan struct{}, n.conf.requests), forwards: newHTTPClient(n.dialer())}
	m := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"PUT /v1/page":      a.changes(opPut),
		"POST /v1/page":     a.changes(opLink),
		"DELETE /v1/page":   a.changes(opDelete),
		"GET /v1/page":      a.read,
		"GET /v1/status":    a.status,
		"GET /v1/backup":    a.backup,
		"POST /v1/join":     a.join,
		"POST /v1/leave":    a.leave,
		"POST /v1/transfer": a.transfer,
		"POST /v1/snapshot": a.snapshot,
	} {
		m.HandleFunc(pattern, a.serve(h))
	}
	m.HandleFunc("POST /v1/restore", a.restore)
	return m
}

// dialError wraps the error of a connection, or of its handshake: no request was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// newHTTPClient returns a client whose connections are of the dialer.
func newHTTPClient(d dialer) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
			conn, err := d.dial(ctx, addr)
			if err != nil {
				return nil, dialError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}}
}

// handler answers a request. Its context ends with the time limit, and its body has been read.
type handler func(w http.ResponseWriter, r *http.Request, body []byte) error

// serve limits requests in number, length and time, and reports errors.
func (a *api) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.n.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
		default:
			report(w, errBusy)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), a.n.conf.timeout)
		defer cancel()
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.n.conf.maxBody))
		if long := (*http.MaxBytesError)(nil); errors.As(err, &long) {
			text := fmt.Sprintf("the body has more than %d bytes", long.Limit)
			err = requestError{http.StatusRequestEntityTooLarge, text}
		}
		if err == nil {
			err = h(w, r.WithContext(ctx), body)
		}
		if err != nil {
			report(w, err)
		}
	}
}

// report answers with an error.
func report(w http.ResponseWriter, err error) {
	f := failure{Error: err.Error(), Outcome: outcomeNotDone}
	status := http.StatusServiceUnavailable
	if errors.As(err, &unknownOutcome{}) {
		status, f.Outcome = http.StatusGatewayTimeout, outcomeUnknown
	}
	var bad requestError
	switch {
	case errors.As(err, &bad):
		status = bad.status
	case errors.Is(err, errNoKey):
		status = http.StatusNotFound
	case errors.Is(err, engine.ErrNoSpace):
		status = http.StatusInsufficientStorage
	case errors.Is(err, engine.ErrTooLarge):
		status = http.StatusRequestEntityTooLarge
	}
	reply(w, status, f)
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that the client is gone
}

// keyOf returns the key of a request.
func keyOf(r *http.Request) (string, error) {
	key := r.URL.Query().Get("key")
	if key == "" || len(key) > maxKey {
		return "", requestError{http.StatusBadRequest, fmt.Sprintf("the key must have 1 to %d bytes", maxKey)}
	}
	return key, nil
}

// changes returns the handler of an op.
func (a *api) changes(o op) handler {
	return func(w http.ResponseWriter, r *http.Request, body []byte) error {
		key, err := keyOf(r)
		if err != nil {
			return err
		}
		index, err := a.n.change(r.Context(), command{o, key, body})
		if errors.Is(err, errNotLeader) {
			return a.forward(w, r, body)
		}
		if err == nil {
			reply(w, http.StatusOK, answer{index})
		}
		return err
	}
}

// read returns a page: the leader's, unless the request has local=true.
func (a *api) read(w http.ResponseWriter, r *http.Request, body []byte) error {
	key, err := keyOf(r)
	if err != nil {
		return err
	}
	var index uint64
	var value []byte
	local, _ := strconv.ParseBool(r.URL.Query().Get("local"))
	if local {
		index, value, err = a.n.readLocal(r.Context(), key)
	} else {
		index, value, err = a.n.read(r.Context(), key)
	}
	if errors.Is(err, errNotLeader) {
		return a.forward(w, r, body)
	}
	w.Header().Set(indexHeader, strconv.FormatUint(index, 10))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(value)))
	_, _ = w.Write(value) // an error means that the client is gone
	return nil
}

// forward has the leader answer. A request is forwarded once.
func (a *api) forward(w http.ResponseWriter, r *http.Request, body []byte) error {
	if from := r.Header.Get(forwardedHeader); from != "" {
		return fmt.Errorf("%w, which node %s took it for", errNotLeader, from)
	}
	leader, _ := a.n.raft.LeaderWithID()
	if leader == "" || string(leader) == a.n.conf.advertise {
		return errNoLeader
	}
	url := "http://" + string(leader) + r.URL.RequestURI()
	req, err := http.NewRequestWithContext(r.Context(), r.Method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set(forwardedHeader, a.n.conf.id)
	resp, err := a.forwards.Do(req)
	if err != nil {
		return lost(r.Method, fmt.Errorf("ask the leader at %s: %w", leader, err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return lost(r.Method, fmt.Errorf("read the answer of the leader at %s: %w", leader, err))
	}
	for _, name := range []string{indexHeader, "Content-Type"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer) // an error means that the client is gone
	return nil
}

// lost wraps the error of a request to another node. Only if no connection was made, or nothing should change, is it
// certain that nothing has changed.
func lost(method string, err error) error {
	if method == http.MethodGet || errors.As(err, &dialError{}) {
		return err
	}
	return unknownOutcome{err}
}

// await waits for a result of raft until ctx ends.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remaining returns the time until ctx ends.
func remaining(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return time.Minute
	}
	return max(time.Until(end), time.Millisecond)
}
