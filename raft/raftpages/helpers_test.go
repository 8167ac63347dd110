package raftpages_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/internal/simdisk"
	"pagecache/raft/raftpages"
)

// bytesFSM is an FSM of byte slices, whose pages are named by roots.
type bytesFSM = raftpages.FSM[[]byte]

// command is what the tests give to raft.
type command struct {
	Op    string // set, link, delete, reject (after a set), error (after a set), panic (after a set), or get
	Key   string
	Value string
	// Pages is a number of pages more that set makes, which nothing names.
	Pages int
}

// errRefused is what the command reject is rejected with.
var errRefused = errors.New("refused")

// apply is an Apply that keeps a page for each key. Its response is the value of the page before.
func apply(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
	var c command
	if err := json.Unmarshal(e.Data, &c); err != nil {
		return nil, raftpages.Reject(err)
	}
	pid, err := tx.Root("key/" + c.Key)
	if errors.Is(err, engine.ErrRootNotFound) {
		pid, err = 0, nil
	}
	if err != nil {
		return nil, err
	}
	was := ""
	if pid != 0 {
		p, err := tx.Get(pid)
		if err != nil {
			return nil, err
		}
		was = string(p.Value)
	}
	switch {
	case c.Op == "get":
	case c.Op == "delete" && pid != 0:
		err = errors.Join(tx.Free(pid), tx.SetRoot("key/"+c.Key, 0))
	case c.Op == "delete":
	case pid == 0:
		if pid, err = tx.Allocate([]byte(c.Value)); err == nil {
			err = tx.SetRoot("key/"+c.Key, pid)
		}
	case c.Op == "link":
		err = tx.Link(pid, []byte(c.Value))
	default:
		err = tx.Replace(pid, []byte(c.Value))
	}
	for range c.Pages {
		if err == nil {
			_, err = tx.Allocate([]byte(c.Value))
		}
	}
	switch {
	case err != nil:
		return nil, err
	case c.Op == "reject":
		return nil, raftpages.Reject(errRefused)
	case c.Op == "error":
		return nil, errRefused
	case c.Op == "panic":
		panic("refused")
	}
	return was, nil
}

// model is what the pages must be: a value for each key.
type model map[string]string

// add applies a command that is not rejected and does not fail.
func (m model) add(c command) {
	switch c.Op {
	case "set":
		m[c.Key] = c.Value
	case "link":
		m[c.Key] += c.Value
	case "delete":
		delete(m, c.Key)
	}
}

// entry returns the entry of a command.
func entry(index uint64, c command) *raft.Log {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // no command causes one
	}
	return &raft.Log{Index: index, Term: termOf(index), Type: raft.LogCommand, Data: b}
}

// termOf returns the term of the entry at index in tests without raft.
func termOf(index uint64) uint64 { return 1 + index/10 }

// servers returns a configuration of n nodes.
func servers(n int) (c raft.Configuration) {
	for i := range n {
		c.Servers = append(c.Servers, raft.Server{
			ID: raft.ServerID(fmt.Sprint("node ", i)), Address: raft.ServerAddress(fmt.Sprint("address ", i)),
		})
	}
	return c
}

// confEntry returns the entry of a configuration of n nodes.
func confEntry(index uint64, n int) *raft.Log {
	return &raft.Log{
		Index: index, Term: termOf(index), Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers(n)),
	}
}

// small returns options of a store with segments of 16 KiB, so that little data fills many.
func small() *engine.Options {
	return &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
}

// simDir is the directory of an FSM on a simulated disk.
const simDir = "/data/fsm"

func newDisk(seed uint64) *simdisk.Disk { return simdisk.New(seed, simdisk.Options{}) }

// on returns options of an FSM on a disk. If it stops, fail is called.
func on(d *simdisk.Disk, fail func(error)) *raftpages.Options {
	o := &raftpages.Options{Store: small(), OnFail: fail}
	raftpages.OnFS(o, d)
	return o
}

// open opens an FSM on a disk. It fails the test if the FSM stops.
func open(t testing.TB, d *simdisk.Disk) *bytesFSM {
	t.Helper()
	f, err := raftpages.Open(simDir, engine.Bytes{}, apply, on(d, func(err error) { t.Error(err) }))
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

// opened is open on a new disk, with a configuration of three nodes in entry 1.
func opened(t testing.TB) (*bytesFSM, *simdisk.Disk) {
	t.Helper()
	d := newDisk(1)
	f := open(t, d)
	f.ApplyBatch([]*raft.Log{confEntry(1, 3)})
	return f, d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents reads all keys and values of an FSM.
func contents(t testing.TB, f *bytesFSM) (m model, index uint64) {
	t.Helper()
	m, index, err := read(f)
	must(t, err)
	return m, index
}

// read is contents that returns an error. A Tx knows the names of roots alone that it is asked for, so the keys are
// those of a, b, c, …, and those of the numbers.
func read(f *bytesFSM) (m model, index uint64, err error) {
	m = model{}
	index, err = f.View(context.Background(), func(tx *engine.Tx[[]byte]) error {
		for i := range keys {
			pid, err := tx.Root("key/" + key(i))
			if errors.Is(err, engine.ErrRootNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			p, err := tx.Get(pid)
			if err != nil {
				return err
			}
			m[key(i)] = string(p.Value)
		}
		return nil
	})
	return m, index, err
}

// keys is the number of keys that tests use, and key returns one of them.
const keys = 40

func key(i int) string { return fmt.Sprint("k", i) }

// want fails the test unless the FSM has exactly these contents.
func want(t testing.TB, f *bytesFSM, m model, index uint64) {
	t.Helper()
	got, at := contents(t, f)
	if at != index || !maps.Equal(got, m) {
		t.Fatalf("the store has, after entry %d, %.300v, want, after entry %d, %.300v", at, fmt.Sprint(got), index,
			fmt.Sprint(m))
	}
	if is, _ := f.Applied(); is != index {
		t.Fatalf("Applied returns %d, want %d", is, index)
	}
}

// newest returns the snapshot that List returns.
func newest(t testing.TB, f *bytesFSM) *raft.SnapshotMeta {
	t.Helper()
	list, err := f.Snapshots().List()
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d snapshots, want 1", len(list))
	}
	return list[0]
}

// take takes a snapshot, as raft does, at the index that raft counts as applied.
func take(f *bytesFSM, index uint64) error {
	s, err := f.Snapshot()
	if err != nil {
		return err
	}
	defer s.Release()
	sink, err := f.Snapshots().Create(1, index, termOf(index), servers(3), 1, nil)
	if err != nil {
		return err
	}
	if err := s.Persist(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// send sends the store of an FSM to another one, as raft does, through change, which may be nil.
func send(from, to *bytesFSM, change func(io.Reader) io.Reader) error {
	list, err := from.Snapshots().List()
	if err != nil || len(list) == 0 {
		return fmt.Errorf("%d snapshots: %w", len(list), err)
	}
	meta, r, err := from.Snapshots().Open(list[0].ID)
	if err != nil {
		return err
	}
	defer r.Close()
	in := io.Reader(r)
	if change != nil {
		in = change(in)
	}
	return receive(to, meta, in)
}

// receive makes an FSM install a snapshot, as raft does.
func receive(to *bytesFSM, meta *raft.SnapshotMeta, r io.Reader) error {
	sink, err := to.Snapshots().Create(meta.Version, meta.Index, meta.Term, meta.Configuration,
		meta.ConfigurationIndex, nil)
	if err != nil {
		return err
	}
	n, err := io.Copy(sink, r)
	if err == nil && n != meta.Size {
		err = fmt.Errorf("%d bytes, want %d: %w", n, meta.Size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return restore(to, sink.ID())
}

// counting wraps a snapshot as raft does.
type counting struct{ io.ReadCloser }

func (c counting) WrappedReadCloser() io.ReadCloser { return c.ReadCloser }

// restore makes an FSM restore a snapshot that it has received, as raft does.
func restore(to *bytesFSM, id string) error {
	_, r, err := to.Snapshots().Open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	return to.Restore(counting{r})
}

// within returns a context that ends when a test that hangs should.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// commandOf decodes a command.
func commandOf(t testing.TB, data string) (c command) {
	t.Helper()
	must(t, json.Unmarshal([]byte(data), &c))
	return c
}
