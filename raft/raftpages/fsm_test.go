package raftpages_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/internal/simdisk"
	"pagecache/raft/raftpages"
)

// A batch is applied, in order, with its responses. A restart finds all of it, and leaves out what is applied already.
func TestApply(t *testing.T) {
	f, disk := opened(t)
	batch := []*raft.Log{
		entry(2, command{Op: "set", Key: "k1", Value: "one"}),
		entry(3, command{Op: "link", Key: "k1", Value: "+two"}),
		confEntry(4, 5),
		entry(5, command{Op: "set", Key: "k2", Value: "three"}),
		entry(6, command{Op: "delete", Key: "k1"}),
	}
	got := f.ApplyBatch(batch)
	if fmt.Sprint(got) != "[ one <nil>  one+two]" {
		t.Errorf("responses %q", got)
	}
	want(t, f, model{"k2": "three"}, 6)
	if index, term := f.Applied(); index != 6 || term != termOf(6) {
		t.Errorf("applied: entry %d of term %d", index, term)
	}
	must(t, f.Close())

	f = open(t, disk)
	want(t, f, model{"k2": "three"}, 6)
	meta := newest(t, f)
	if meta.Index != 6 || meta.Term != termOf(6) || meta.ConfigurationIndex != 4 ||
		len(meta.Configuration.Servers) != 5 || meta.Version != 1 {
		t.Errorf("snapshot after a restart: %+v", meta)
	}
	got = f.ApplyBatch(append(batch[2:], entry(7, command{Op: "link", Key: "k2", Value: "+four"})))
	for i, r := range got {
		if err, _ := r.(error); (i < 3) != errors.Is(err, raftpages.ErrApplied) {
			t.Errorf("response %d: %v", i, r)
		}
	}
	want(t, f, model{"k2": "three+four"}, 7)
	if got := f.Apply(entry(7, command{Op: "set", Key: "k2"})); got != raftpages.ErrApplied {
		t.Errorf("response to an entry that was applied: %v", got)
	}
	want(t, f, model{"k2": "three+four"}, 7)
}

// Indexes, terms and configurations of any size come back.
func TestLargeState(t *testing.T) {
	disk := newDisk(1)
	f := open(t, disk)
	const high = 1<<40 + 5
	for _, index := range []uint64{1, 1 << 32, 1<<32 + 1, high} {
		e := confEntry(index, 3)
		e.Term = index * 3
		f.ApplyBatch([]*raft.Log{e})
		if i, term := f.Applied(); i != index || term != index*3 {
			t.Fatalf("entry %d of term %d, want entry %d", i, term, index)
		}
		must(t, f.Close())
		f = open(t, disk)
		want(t, f, model{}, index)
		if _, term := f.Applied(); term != index*3 {
			t.Fatalf("term %d, want %d", term, index*3)
		}
	}
	for n := range 60 {
		index := high + 1 + uint64(n)
		f.ApplyBatch([]*raft.Log{confEntry(index, n)})
		if n%20 == 19 {
			must(t, f.Close())
			f = open(t, disk)
			if m := newest(t, f); m.ConfigurationIndex != index || len(m.Configuration.Servers) != n {
				t.Fatalf("%d servers as of %d, want %d of %d", len(m.Configuration.Servers), m.ConfigurationIndex, n,
					index)
			}
		}
	}
}

// The contents do not depend on where batches begin and end, nor on which of their entries are rejected.
func TestBatches(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	f, _ := opened(t)
	g, _ := opened(t)
	m := model{}
	for index := uint64(2); index < 400; {
		var batch []*raft.Log
		var ops []string // of the batch
		for range 1 + rng.IntN(12) {
			all := []string{"set", "link", "link", "delete", "reject", "reject"}
			c := command{Op: all[rng.IntN(len(all))], Key: key(rng.IntN(keys)), Value: fmt.Sprint(index, " ")}
			batch, ops = append(batch, entry(index, c)), append(ops, c.Op)
			m.add(c)
			index++
		}
		one := f.ApplyBatch(batch)
		for i, e := range batch {
			other := g.Apply(e)
			if fmt.Sprint(other) != fmt.Sprint(one[i]) {
				t.Fatalf("entry %d: response %v in a batch, %v alone", e.Index, one[i], other)
			}
			var rejected *raftpages.RejectedError
			err, _ := other.(error)
			is := errors.As(err, &rejected) && rejected.Err == errRefused
			if is != (ops[i] == "reject") || !is && err != nil {
				t.Fatalf("entry %d, %s: response %v", e.Index, ops[i], other)
			}
		}
		want(t, f, m, index-1)
		want(t, g, m, index-1)
	}
}

// Wait returns when the entry is applied, when a snapshot with it is restored, and when there is no point in waiting.
func TestWait(t *testing.T) {
	src, _ := opened(t)
	last := fill(src, model{}, 2, 20)
	must(t, take(src, last))
	for _, c := range []struct {
		name string
		do   func(f *bytesFSM)
		want error
	}{
		{"apply", func(f *bytesFSM) { f.Apply(entry(2, command{Op: "set", Key: "k1"})) }, nil},
		{"restore", func(f *bytesFSM) { must(t, send(src, f, nil)) }, nil},
		{"stop", func(f *bytesFSM) { f.Apply(entry(2, command{Op: "error"})) }, raftpages.ErrStopped},
		{"close", func(f *bytesFSM) { must(t, f.Close()) }, engine.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := failing(t, newDisk(1), apply)
			f.ApplyBatch([]*raft.Log{confEntry(1, 3)})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a lost wake-up
			defer cancel()
			waits := make(chan struct{})
			waited := make(chan error)
			go func() { waited <- f.Wait(noticed{ctx, waits}, 2) }()
			<-waits
			c.do(f)
			if err := <-waited; !errors.Is(err, c.want) {
				t.Errorf("Wait returns %v, want %v", err, c.want)
			}
		})
	}
}

// noticed is a context that closes a channel when somebody waits for its end for the first time.
type noticed struct {
	context.Context
	waits chan struct{}
}

func (n noticed) Done() <-chan struct{} {
	select {
	case <-n.waits:
	default:
		close(n.waits)
	}
	return n.Context.Done()
}

// failing opens an FSM that may stop, and returns the errors that it stops with.
func failing(t *testing.T, d *simdisk.Disk, a raftpages.Apply[[]byte]) (*bytesFSM, <-chan error) {
	failed := make(chan error, 10)
	f, err := raftpages.Open(simDir, engine.Bytes{}, a, on(d, func(err error) { failed <- err }))
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f, failed
}

// An Apply that fails or panics stops the FSM: entries before that one are applied, and it and later ones are not, now
// or ever, until a start with an Apply that can.
func TestStop(t *testing.T) {
	for _, op := range []string{"error", "panic"} {
		t.Run(op, func(t *testing.T) {
			disk := newDisk(1)
			f, failed := failing(t, disk, apply)
			got := f.ApplyBatch([]*raft.Log{
				confEntry(1, 3),
				entry(2, command{Op: "set", Key: "k1", Value: "kept"}),
				entry(3, command{Op: op, Key: "k1", Value: "never"}),
				entry(4, command{Op: "set", Key: "k2", Value: "later"}),
			})
			for i, r := range got {
				if err, _ := r.(error); (i >= 2) != errors.Is(err, raftpages.ErrStopped) {
					t.Fatalf("response %d: %v", i, r)
				}
			}
			err := <-failed
			var p *raftpages.PanicError
			if !errors.Is(err, raftpages.ErrStopped) || f.Err() != err || !strings.Contains(err.Error(), "entry 3") ||
				(op == "panic") != errors.As(err, &p) || (op == "error") != errors.Is(err, errRefused) {
				t.Errorf("stopped with %v", err)
			}
			got = f.ApplyBatch([]*raft.Log{entry(5, command{Op: "set", Key: "k2", Value: "later"})})
			if err, _ := got[0].(error); !errors.Is(err, raftpages.ErrStopped) {
				t.Errorf("response afterwards: %v", got[0])
			}
			if _, err := f.Snapshot(); !errors.Is(err, raftpages.ErrStopped) {
				t.Errorf("snapshot afterwards: %v", err)
			}
			if err := f.Wait(within(t), 3); !errors.Is(err, raftpages.ErrStopped) {
				t.Errorf("wait afterwards: %v", err)
			}
			want(t, f, model{"k1": "kept"}, 2)
			must(t, f.Close())
			if len(failed) > 0 {
				t.Errorf("it has stopped again: %v", <-failed)
			}

			mended := func(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
				response, err := apply(tx, entry(e.Index, command{Op: "set", Key: "k1", Value: "mended"}))
				return response, err
			}
			f, _ = failing(t, disk, mended)
			want(t, f, model{"k1": "kept"}, 2)
			f.ApplyBatch([]*raft.Log{entry(3, command{Op: op, Key: "k1", Value: "never"})})
			want(t, f, model{"k1": "mended"}, 3)
		})
	}
}

// Without OnFail the FSM panics: in Apply itself if that has panicked.
func TestStopPanics(t *testing.T) {
	for _, op := range []string{"error", "panic"} {
		f, err := raftpages.Open(simDir, engine.Bytes{}, apply, on(newDisk(1), nil))
		must(t, err)
		func() {
			defer func() {
				p := recover()
				if err, _ := p.(error); (op == "error") != errors.Is(err, raftpages.ErrStopped) || p == nil {
					t.Errorf("%s: panic %v", op, p)
				}
			}()
			f.Apply(entry(1, command{Op: op}))
		}()
		want(t, f, model{}, 0)
		must(t, f.Close())
	}
}

// An error of the store is no rejection, also if Apply says so: nodes would differ.
func TestRejectedStoreError(t *testing.T) {
	broken := func(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
		return nil, raftpages.Reject(fmt.Errorf("read: %w", engine.ErrCorrupt))
	}
	f, failed := failing(t, newDisk(1), broken)
	if err, _ := f.Apply(entry(1, command{})).(error); !errors.Is(err, raftpages.ErrStopped) {
		t.Fatalf("response %v", err)
	}
	if err := <-failed; !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("stopped with %v", err)
	}
}

// openIn opens an FSM in a directory of the operating system.
func openIn(t *testing.T, dir string) *bytesFSM {
	t.Helper()
	f, err := raftpages.Open(dir, engine.Bytes{}, apply, &raftpages.Options{Store: small()})
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

// Open makes a store, finds it again, and refuses directories that lack something.
func TestOpen(t *testing.T) {
	dir := t.TempDir() + "/a/b"
	for _, o := range []engine.Options{{ReadOnly: true}, {Temporary: true}} {
		if _, err := raftpages.Open(dir, engine.Bytes{}, apply, &raftpages.Options{Store: &o}); err == nil {
			t.Errorf("%+v were taken", o)
		}
	}
	f := openIn(t, dir)
	if list, err := f.Snapshots().List(); err != nil || len(list) > 0 {
		t.Errorf("snapshots of an empty FSM: %v, %v", list, err)
	}
	if _, err := raftpages.Open(dir, engine.Bytes{}, apply, nil); !errors.Is(err, engine.ErrLocked) {
		t.Errorf("second opening: %v", err)
	}
	must(t, f.Close())
	must(t, f.Close())
	calls := map[string]error{
		"Err": f.Err(), "Wait": f.Wait(within(t), 1), "take": take(f, 1), "send": send(f, f, nil),
	}
	_, calls["View"] = f.View(within(t), nil)
	_, calls["Snapshot"] = f.Snapshot()
	_, calls["List"] = f.Snapshots().List()
	_, _, calls["Open"] = f.Snapshots().Open("store-")
	_, calls["Create"] = f.Snapshots().Create(1, 1, 1, servers(1), 1, nil)
	calls["Apply"], _ = f.Apply(entry(9, command{})).(error)
	for name, err := range calls {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s of a closed FSM: %v", name, err)
		}
	}

	// A crash before CURRENT is written.
	must(t, os.Remove(dir+"/CURRENT"))
	f = openIn(t, dir)
	must(t, f.Close())
	for _, text := range []string{"", "\n", "store-000001", "store-1\n", "store-000002\n", "../x\n", "store-000000\n"} {
		must(t, os.WriteFile(dir+"/CURRENT", []byte(text), 0o600))
		if _, err := raftpages.Open(dir, engine.Bytes{}, apply, nil); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("CURRENT %q: %v", text, err)
		}
	}
	must(t, os.Remove(dir+"/CURRENT"))
	must(t, os.Rename(dir+"/store-000001", dir+"/store-000007"))
	if _, err := raftpages.Open(dir, engine.Bytes{}, apply, nil); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("no CURRENT, and a store with another number: %v", err)
	}
	if _, err := os.Stat(dir + "/store-000001"); err == nil {
		t.Error("an opening that was refused has made a store")
	}
}

// Roots that an FSM has not written are refused, and so is a store without a configuration of raft as a snapshot.
func TestStateOfOthers(t *testing.T) {
	dir := t.TempDir()
	f := openIn(t, dir)
	f.Apply(entry(1, command{Op: "set", Key: "k1"}))
	must(t, f.Close())
	f = openIn(t, dir)
	if _, err := f.Snapshots().List(); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("snapshots without a configuration: %v", err)
	}
	f.ApplyBatch([]*raft.Log{confEntry(2, 3)})
	must(t, f.Close())
	for _, part := range []string{"\x01more", "\x02more", "\x01", ""} {
		setRoot := func(pid engine.PageID) {
			pc, err := engine.Open(dir+"/store-000001", engine.Bytes{}, small())
			must(t, err)
			_, err = pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
				return tx.SetRoot(raftpages.Reserved+"1/conf/"+part, pid)
			})
			must(t, errors.Join(err, pc.Close()))
		}
		setRoot(2)
		if f, err := raftpages.Open(dir, engine.Bytes{}, apply, nil); err == nil {
			t.Errorf("a configuration with the part %q was taken", part)
			must(t, f.Close())
		}
		setRoot(0)
	}
	f = openIn(t, dir)
	want(t, f, model{"k1": ""}, 2)
}
