package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
)

// backup streams this node's pages, as engine.Checkpoint.Write writes them, at or behind the index of the answer. Only
// the time of each write is limited.
func (a *api) backup(w http.ResponseWriter, r *http.Request, _ []byte) error {
	meta, stream, err := a.n.openSnapshot(r.Context())
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	defer stream.Close()
	w.Header().Set(indexHeader, strconv.FormatUint(meta.Index, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := io.Copy(pacedWriter{w, http.NewResponseController(w), a.n.conf.timeout}, stream); err != nil {
		a.n.logger.Warn("a backup was broken off", "error", err) // the reader sees that the stream has no end
	}
	return nil
}

// openSnapshot takes a snapshot, unless the newest is still current, and opens its stream.
func (n *node) openSnapshot(ctx context.Context) (*raft.SnapshotMeta, io.ReadCloser, error) {
	f := n.raft.Snapshot()
	err := await(ctx, f)
	if err == nil {
		return f.Open()
	}
	if !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil, nil, err
	}
	list, err := n.disk.pages.Snapshots().List()
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, raft.ErrNothingNewToSnapshot
	}
	return n.disk.pages.Snapshots().Open(list[0].ID)
}

// pacedWriter limits the time of each write.
type pacedWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

func (p pacedWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// pacedReader limits the time of each read.
type pacedReader struct {
	r       io.Reader
	control *http.ResponseController
	limit   time.Duration
}

func (p pacedReader) Read(b []byte) (int, error) {
	if err := p.control.SetReadDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// restore replaces all pages of the cluster by those of a backup. Only the leader does it, and forwards nothing.
func (a *api) restore(w http.ResponseWriter, r *http.Request) {
	if err := a.restoreFrom(w, r); err != nil {
		report(w, err)
		return
	}
	reply(w, http.StatusOK, a.n.describe())
}

func (a *api) restoreFrom(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength < 0 {
		return requestError{http.StatusLengthRequired, "the length of the backup is required"}
	}
	if err := a.n.verifyLeader(r.Context()); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	conf := a.n.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return err
	}
	meta := &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, Size: r.ContentLength,
		Configuration: conf.Configuration(), ConfigurationIndex: conf.Index(),
	}
	body := pacedReader{http.MaxBytesReader(w, r.Body, r.ContentLength), control, a.n.conf.timeout}
	if err := a.n.outcome(a.n.raft.Restore(meta, body, a.n.conf.timeout)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// backup writes a backup of one of the nodes to a file, which appears when it is complete and verified. It returns the
// index that the backup has at least.
func (c *client) backup(ctx context.Context, name string) (index uint64, err error) {
	var resp *http.Response
	for _, addr := range c.addrs {
		if resp, err = c.open(ctx, http.MethodGet, "http://"+addr+"/v1/backup", nil); err == nil {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	index, _ = strconv.ParseUint(resp.Header.Get(indexHeader), 10, 64)
	tmp := name + ".part"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer os.Remove(tmp)
	_, err = engine.VerifyCheckpoint(ctx, io.TeeReader(resp.Body, f))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("back up: %w", err)
	}
	return index, os.Rename(tmp, name)
}

// open sends a request and returns the answer, whose body the caller closes.
func (c *client) open(ctx context.Context, method, url string, body *os.File) (*http.Response, error) {
	var reader io.Reader = http.NoBody
	size := int64(0)
	if body != nil {
		info, err := body.Stat()
		if err != nil {
			return nil, err
		}
		reader, size = body, info.Size()
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	return nil, answeredError(resp.StatusCode, text)
}

// restore verifies a backup, and replaces all pages of the cluster by it.
func (c *client) restore(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := engine.VerifyCheckpoint(ctx, f); err != nil {
		return fmt.Errorf("%s is not a complete backup: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s, err := c.status(ctx, true)
	if err != nil {
		return err
	}
	resp, err := c.open(ctx, http.MethodPost, "http://"+s.Address+"/v1/restore", f)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
