package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
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
		a.n.logger.Warn("a backup was broken off", "error", err)
		panic(http.ErrAbortHandler) // breaks the connection, so that no client takes it for the end
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
	ctx, cancel := context.WithTimeout(r.Context(), a.n.conf.timeout)
	defer cancel()
	if err := a.n.verifyLeader(ctx); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	body := pacedReader{http.MaxBytesReader(w, r.Body, r.ContentLength), control, a.n.conf.timeout}
	f, err := a.n.keepUpload(r.Context(), body)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer discardUpload(f)
	conf := a.n.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return err
	}
	meta := &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, Size: r.ContentLength,
		Configuration: conf.Configuration(), ConfigurationIndex: conf.Index(),
	}
	upload := &startedReader{r: f}
	err = a.n.raft.Restore(meta, upload, 0) // without a limit: it would hold for the entry behind the pages, too
	if err != nil && upload.started {
		err = unknownOutcome{err} // the pages may have been replaced
	} else {
		err = a.n.outcome(err)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// startedReader notes that it was read.
type startedReader struct {
	r       io.Reader
	started bool
}

func (s *startedReader) Read(b []byte) (int, error) {
	s.started = true
	return s.r.Read(b)
}

// uploads is the pattern of the names of files with uploads, in the directory of a node.
const uploads = "upload-*.tmp"

// keepUpload writes an upload to a file, and verifies that it is a complete backup. So raft, which reads backups in the
// goroutine of the leader, does not wait for a client.
func (n *node) keepUpload(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp(n.conf.dir, uploads)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(f, r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	var info engine.CheckpointInfo
	if err == nil {
		if info, err = engine.VerifyCheckpoint(ctx, f); err != nil || info.Since != 0 {
			err = requestError{http.StatusBadRequest, fmt.Sprint("not a complete backup: ", err)}
		}
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		discardUpload(f)
		return nil, err
	}
	return f, nil
}

// discardUpload removes an upload.
func discardUpload(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name()) // the next start removes what is left
}

// removeUploads removes the uploads that a node has left that was killed.
func removeUploads(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, uploads))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
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
	if err := os.Rename(tmp, name); err != nil {
		return 0, err
	}
	if err := syncDir(filepath.Dir(name)); err != nil { // the backup stays: it may have replaced an older one
		return 0, fmt.Errorf("the backup is complete, but a crash may take its name away: %w", err)
	}
	return index, nil
}

// syncDir makes the names in a directory durable, where the file system knows such a call.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
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
