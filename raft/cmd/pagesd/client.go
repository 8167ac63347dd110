package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxPause is the longest pause before a client asks again.
const maxPause = time.Second

// client sends requests to the nodes of a cluster. Every node answers, or forwards to the leader.
type client struct {
	http  *http.Client
	addrs []string
}

// newClient returns a client of the nodes at some addresses. Nodes whose address has no entry in via are dialed at it.
func newClient(d dialer, addrs []string) *client {
	return &client{http: newHTTPClient(d), addrs: addrs}
}

// answerError is an error that a node has answered.
type answerError struct {
	failure
	status int
}

func (e answerError) Error() string {
	if e.Outcome == outcomeUnknown {
		return e.failure.Error + " (the change may have been made)"
	}
	return e.failure.Error
}

// Is lets errors.Is find errNoKey.
func (e answerError) Is(err error) bool { return err == errNoKey && e.status == http.StatusNotFound }

// request is what do sends.
type request struct {
	method, path string
	query        url.Values
	body         []byte
}

// do sends a request to one node after another until one answers with a result or an error that is final, or until ctx
// ends. A change is not sent again if it may have been made: then the error is an unknownOutcome.
func (c *client) do(ctx context.Context, r request) (body []byte, header http.Header, err error) {
	pause := 10 * time.Millisecond
	for i := 0; ; i++ {
		body, header, err = c.send(ctx, c.addrs[i%len(c.addrs)], r)
		var answered answerError
		switch {
		case err == nil:
			return body, header, nil
		case errors.As(err, &unknownOutcome{}):
			return nil, header, err
		case errors.As(err, &answered) && answered.status != http.StatusServiceUnavailable:
			return nil, header, err
		}
		if i%len(c.addrs) != len(c.addrs)-1 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, nil, err
		case <-time.After(pause):
			pause = min(2*pause, maxPause)
		}
	}
}

// send sends a request to one node.
func (c *client) send(ctx context.Context, addr string, r request) ([]byte, http.Header, error) {
	target := url.URL{Scheme: "http", Host: addr, Path: r.path, RawQuery: r.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, lost(r.method, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, lost(r.method, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.Header, answeredError(resp.StatusCode, body)
	}
	return body, resp.Header, nil
}

// answeredError returns the error of an answer.
func answeredError(status int, body []byte) error {
	e := answerError{status: status}
	if json.Unmarshal(body, &e.failure) != nil || e.failure.Error == "" {
		e.failure.Error = fmt.Sprintf("%s: %s", http.StatusText(status), bytes.TrimSpace(body))
	}
	if e.Outcome == outcomeUnknown {
		return unknownOutcome{e}
	}
	return e
}

// methods are the methods of the ops.
var methods = map[op]string{opPut: http.MethodPut, opLink: http.MethodPost, opDelete: http.MethodDelete}

// change makes a change, and returns its index.
func (c *client) change(ctx context.Context, cmd command) (uint64, error) {
	body, _, err := c.do(ctx, request{methods[cmd.op], "/v1/page", url.Values{"key": {cmd.key}}, cmd.value})
	if err != nil {
		return 0, err
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return 0, unknownOutcome{err}
	}
	return a.Index, nil
}

// read reads a page. local has the node answer from its own pages. The index is that at which the page was read.
func (c *client) read(ctx context.Context, key string, local bool) (index uint64, value []byte, err error) {
	query := url.Values{"key": {key}}
	if local {
		query.Set("local", "true")
	}
	value, header, err := c.do(ctx, request{http.MethodGet, "/v1/page", query, nil})
	if header != nil {
		index, _ = strconv.ParseUint(header.Get(indexHeader), 10, 64) // missing if the request failed before it read
	}
	return index, value, err
}

// status describes a node, or the leader.
func (c *client) status(ctx context.Context, leader bool) (status, error) {
	query := url.Values{}
	if leader {
		query.Set("leader", "true")
	}
	return c.describe(ctx, request{http.MethodGet, "/v1/status", query, nil})
}

// join makes a node a member.
func (c *client) join(ctx context.Context, m member) (status, error) {
	return c.admin(ctx, "/v1/join", m)
}

// leave ends the membership of a node.
func (c *client) leave(ctx context.Context, id string) (status, error) {
	return c.admin(ctx, "/v1/leave", member{ID: id})
}

// transfer hands the leadership to a node, or to any if id is empty.
func (c *client) transfer(ctx context.Context, id string) (status, error) {
	return c.admin(ctx, "/v1/transfer", member{ID: id})
}

// snapshot has a node take a snapshot.
func (c *client) snapshot(ctx context.Context) (status, error) {
	return c.admin(ctx, "/v1/snapshot", member{})
}

// admin sends a request about a member.
func (c *client) admin(ctx context.Context, path string, m member) (status, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return status{}, err
	}
	return c.describe(ctx, request{http.MethodPost, path, nil, body})
}

// describe sends a request whose answer is a status.
func (c *client) describe(ctx context.Context, r request) (s status, err error) {
	body, _, err := c.do(ctx, r)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("the answer is no status: %w", err)
	}
	return s, nil
}
