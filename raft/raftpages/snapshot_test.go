package raftpages_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/internal/simdisk"
	"pagecache/raft/raftpages"
)

// fill applies n commands, and returns the last index.
func fill(f *bytesFSM, m model, from uint64, n int) uint64 {
	rng := rand.New(rand.NewPCG(from, 1))
	for range n {
		c := command{Op: "link", Key: key(rng.IntN(keys)), Value: strings.Repeat(fmt.Sprint(from, " "), rng.IntN(50))}
		if rng.IntN(2) == 0 {
			c.Op = "set"
		}
		if rng.IntN(20) == 0 {
			c.Value = strings.Repeat(c.Value, 100) // a blob
		}
		f.Apply(entry(from, c))
		if _, ok := m[c.Key]; !ok {
			c.Op = "set"
		}
		m.add(c)
		from++
	}
	return from - 1
}

// A snapshot makes the store durable, with the index that raft counts as applied, and the configuration that raft
// gives, unless a newer one was applied.
func TestTakeSnapshot(t *testing.T) {
	f, disk := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	for _, index := range []uint64{last, last + 3} { // raft has counted three barriers
		must(t, take(f, index))
		after := disk.Copy().Crash(7)
		g := open(t, after)
		want(t, f, m, index)
		want(t, g, m, index)
		for _, f := range []*bytesFSM{f, g} {
			if meta := newest(t, f); meta.Index != index || meta.Term != termOf(index) ||
				meta.ConfigurationIndex != 1 || len(meta.Configuration.Servers) != 3 {
				t.Errorf("the snapshot is %+v, want entry %d", meta, index)
			}
		}
	}
	f.ApplyBatch([]*raft.Log{confEntry(last+4, 5)})
	must(t, take(f, last+3)) // raft had asked before that entry
	if meta := newest(t, f); meta.Index != last+4 || meta.ConfigurationIndex != last+4 ||
		len(meta.Configuration.Servers) != 5 {
		t.Errorf("the snapshot is %+v, want that of a newer configuration", meta)
	}
	if _, err := f.Snapshots().Create(0, 1, 1, servers(1), 1, nil); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("a snapshot of version 0: %v", err)
	}
	s, err := f.Snapshot()
	must(t, err)
	if err := s.Persist(&raft.DiscardSnapshotSink{}); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("persist into another snapshot store: %v", err)
	}
	must(t, raftpages.DescribeAbove(f, last+4))
	if raftpages.DescribeAbove(f, last+5) == nil {
		t.Error("a checkpoint that ends below the snapshot was taken for it")
	}
}

// A disk that fails while a snapshot is taken stops the FSM.
func TestTakeSnapshotOnFailedDisk(t *testing.T) {
	disk, failed := newDisk(1), make(chan error, 1)
	f, err := raftpages.Open(simDir, engine.Bytes{}, apply, on(disk, func(err error) { failed <- err }))
	must(t, err)
	f.ApplyBatch([]*raft.Log{confEntry(1, 3), entry(2, command{Op: "set", Key: "k1", Value: "v"})})
	disk.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	if err := take(f, 2); !errors.Is(err, raftpages.ErrStopped) || !errors.Is(err, syscall.EIO) {
		t.Errorf("the snapshot was taken: %v", err)
	}
	if err := f.Err(); !errors.Is(err, raftpages.ErrStopped) {
		t.Fatalf("the FSM goes on: %v", err)
	}
	<-failed
	if err := f.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close: %v", err)
	}
}

// Raft restores a backup as an entry above all that the group has. The store has that index, also after a crash.
func TestInstallAboveItsIndex(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	meta, r, err := f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	defer r.Close()
	g, disk := opened(t)
	meta.Index, meta.Term = last+100, 77
	must(t, receive(g, meta, r))
	for _, f := range []*bytesFSM{g, open(t, disk.Copy().Crash(7))} {
		want(t, f, m, last+100)
		if meta := newest(t, f); meta.Index != last+100 || meta.Term != 77 {
			t.Errorf("the snapshot is %+v", meta)
		}
	}
}

// Another node that installs a snapshot has the same contents, and goes on with them.
func TestInstall(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 150)
	g, disk := opened(t)
	fill(g, model{}, 2, 30)
	must(t, take(f, last))
	must(t, send(f, g, nil))
	want(t, g, m, last)
	if meta := newest(t, g); meta.Index != last {
		t.Errorf("the snapshot of the other node is %+v, want entry %d", meta, last)
	}
	f.Apply(entry(last+1, command{Op: "set", Key: "k1", Value: "more"}))
	g.Apply(entry(last+1, command{Op: "set", Key: "k1", Value: "more"}))
	m["k1"] = "more"
	want(t, f, m, last+1)
	want(t, g, m, last+1)
	must(t, g.Close())
	g = open(t, disk)
	want(t, g, m, last+1)
	meta := newest(t, g)
	if meta.Index != last+1 || meta.ConfigurationIndex != 1 || len(meta.Configuration.Servers) != 3 {
		t.Errorf("the snapshot of the other node is %+v", meta)
	}
	must(t, g.Close())
	for name := range disk.Sizes() {
		if !strings.Contains(name, "/store-000002") && filepath.Base(name) != "CURRENT" {
			t.Errorf("%s is left", name)
		}
	}
	// The stream is one that engine.Install knows, too.
	_, r, err := f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	defer r.Close()
	info, err := engine.VerifyCheckpoint(context.Background(), r)
	if err != nil || info.Segments < 3 {
		t.Errorf("verify the stream: %+v, %v", info, err)
	}
}

// A received store that cannot be opened is removed, and the node goes on.
func TestReceivedStoreIsNotOpened(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	g, disk := opened(t)
	meta, r, err := f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	sink, err := g.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	must(t, err)
	_, err = io.Copy(sink, r)
	must(t, errors.Join(err, r.Close()))
	disk.SetFault(func(o simdisk.Op) error {
		if o.Kind == simdisk.OpDeviceWrite && strings.Contains(o.Name, "/store-000002/") {
			return syscall.EIO
		}
		return nil
	})
	if err := sink.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close: %v", err)
	}
	disk.SetFault(nil)
	if names := slices.Collect(maps.Keys(disk.Sizes())); !areOfOneStore(names) {
		t.Errorf("%v are left", names)
	}
	want(t, g, model{}, 1)
	must(t, send(f, g, nil))
	want(t, g, m, last)
}

// A snapshot of the entry that the store ends with changes nothing, and neither does a store's own. An older one
// replaces the store, which then takes the entries behind it again, also if they are others (raft.FSM).
func TestOldSnapshot(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	g, disk := opened(t)
	must(t, send(f, g, nil))
	must(t, send(f, g, nil)) // as old as the store
	fill(g, maps.Clone(m), last+1, 5)
	must(t, send(f, g, nil))
	want(t, g, m, last)
	n := maps.Clone(m)
	end := fill(g, n, last+1, 3)
	want(t, g, n, end)
	must(t, restore(g, newest(t, g).ID))
	want(t, g, n, end)
	if err := restore(g, "received-1-2-3"); !errors.Is(err, raftpages.ErrSnapshot) {
		t.Errorf("restore what is not there: %v", err)
	}
	for id, to := range map[string]*bytesFSM{newest(t, f).ID: g} {
		_, r, err := f.Snapshots().Open(id)
		must(t, err)
		if err := to.Restore(r); !errors.Is(err, raftpages.ErrConfig) {
			t.Errorf("restore the stream of another node: %v", err)
		}
		must(t, r.Close())
	}
	if err := g.Restore(io.NopCloser(strings.NewReader("x"))); !errors.Is(err, raftpages.ErrConfig) {
		t.Errorf("restore a stream of something else: %v", err)
	}
	want(t, g, n, end)
	must(t, g.Close())
	if names := slices.Collect(maps.Keys(disk.Sizes())); !areOfOneStore(names) {
		t.Errorf("%v are left", names)
	}
}

// A stream that is corrupt or ends early is refused, and the store stays, with every byte. The next one is installed.
func TestCorruptSnapshot(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 60)
	must(t, take(f, last))
	meta, r, err := f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	whole, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	if int64(len(whole)) != meta.Size {
		t.Fatalf("%d bytes, want %d", len(whole), meta.Size)
	}
	g, disk := opened(t)
	n := model{}
	end := fill(g, n, 2, 10)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 20 {
		bad, what := bytes.Clone(whole), ""
		switch i % 2 {
		case 0:
			at := rng.IntN(len(bad) * 8)
			bad[at/8] ^= 1 << (at % 8)
			what = fmt.Sprintf("bit %d flipped", at)
		case 1:
			bad = bad[:rng.IntN(len(bad))]
			what = fmt.Sprintf("cut at %d of %d", len(bad), len(whole))
		}
		if err := receive(g, meta, bytes.NewReader(bad)); err == nil {
			t.Fatalf("%s: it was installed", what)
		}
		want(t, g, n, end)
		for name := range disk.Sizes() {
			if strings.Contains(name, "store-") && !strings.Contains(name, "store-000001") {
				t.Fatalf("%s: %s is left", what, name)
			}
		}
	}
	end = fill(g, n, end+1, 5)
	want(t, g, n, end)
	longer := *meta
	longer.Size += 100_000 // zeros may follow
	must(t, receive(g, &longer, io.MultiReader(bytes.NewReader(whole), bytes.NewReader(make([]byte, 100_000)))))
	want(t, g, m, last)
}

// While entries are applied, snapshots are taken and sent. Each copy is the store as of its index.
func TestSnapshotWhileApplying(t *testing.T) {
	f, _ := opened(t)
	history := []model{{}, {}} // by index
	var mu sync.Mutex
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		rng := rand.New(rand.NewPCG(1, 1))
		for index := uint64(2); index < 3000; index++ {
			c := command{Op: "set", Key: key(rng.IntN(keys)), Value: fmt.Sprint(index)}
			mu.Lock()
			m := maps.Clone(history[index-1])
			m.add(c)
			history = append(history, m)
			mu.Unlock()
			f.Apply(entry(index, c))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 5 {
		index, _ := f.Applied()
		must(t, take(f, index))
		g, _ := opened(t)
		must(t, send(f, g, nil))
		m, at := contents(t, g)
		mu.Lock()
		if at < index || !maps.Equal(m, history[at]) {
			t.Errorf("the copy of entry %d is not what it was: %v, want %v", at, m, history[at])
		}
		mu.Unlock()
		must(t, g.Close())
	}
	close(stop)
	<-stopped
}

// A View that is under way when a snapshot is restored goes on with the store as it was. Close waits for it.
func TestViewWhileRestoring(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	g, _ := opened(t)
	g.Apply(entry(2, command{Op: "set", Key: "k1", Value: "old"}))
	inside, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		at, err := g.View(within(t), func(tx *engine.Tx[[]byte]) error {
			close(inside)
			<-goOn
			pid, err := tx.Root("key/k1")
			if err != nil {
				return err
			}
			p, err := tx.Get(pid)
			if err == nil && string(p.Value) != "old" {
				err = fmt.Errorf("value %q", p.Value)
			}
			return err
		})
		if err == nil && at != 2 {
			err = fmt.Errorf("index %d, want 2", at)
		}
		done <- err
	}()
	<-inside
	must(t, send(f, g, nil))
	want(t, g, m, last) // nor do other readers wait for that View
	closed := make(chan error)
	go func() { closed <- g.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	default:
	}
	close(goOn)
	must(t, <-done)
	must(t, <-closed)
}

// A stream that nobody reads on does not hold up Close, and nothing is held once it is closed.
func TestStreamEnds(t *testing.T) {
	f, _ := opened(t)
	last := fill(f, model{}, 2, 20)
	must(t, take(f, last))
	_, r, err := f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 100))
	must(t, err)
	must(t, r.Close())
	_, r, err = f.Snapshots().Open(newest(t, f).ID)
	must(t, err)
	must(t, f.Close())
	if _, err := io.ReadAll(r); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("read on after Close: %v", err)
	}
	must(t, r.Close())
}

// A received snapshot that raft does not restore is removed: by Close, by the next one, and by Cancel.
func TestForgottenSnapshot(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	g, disk := opened(t)
	var before string
	for i := range 3 {
		meta, r, err := f.Snapshots().Open(newest(t, f).ID)
		must(t, err)
		sink, err := g.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, 1, nil)
		must(t, err)
		_, err = io.Copy(sink, r)
		must(t, err)
		must(t, r.Close())
		if i == 2 {
			must(t, sink.Cancel())
		} else {
			must(t, sink.Close())
		}
		if _, err := sink.Write([]byte("x")); err == nil {
			t.Error("a sink that has ended was written to")
		}
		must(t, sink.Close())
		must(t, sink.Cancel())
		if i == 1 {
			if err := restore(g, before); !errors.Is(err, raftpages.ErrSnapshot) {
				t.Errorf("restore the snapshot before the newest: %v", err)
			}
		}
		before = sink.ID()
	}
	empty, err := g.Snapshots().Create(1, last, 1, servers(1), 1, nil)
	must(t, err)
	if err := empty.Close(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a snapshot of nothing: %v", err)
	}
	if _, err := empty.Write([]byte("x")); err == nil {
		t.Error("a sink that has ended was written to")
	}
	want(t, g, model{}, 1)
	must(t, g.Close())
	for name := range disk.Sizes() {
		if strings.Contains(name, "store-") && !strings.Contains(name, "store-000001") {
			t.Errorf("%s is left", name)
		}
	}
}

// steps runs a node that applies entries, takes a snapshot, installs one of another node, and goes on. acked is called
// with the entries that must not be lost any more.
func steps(f *bytesFSM, whole []byte, meta *raft.SnapshotMeta, acked func(index uint64)) error {
	m := model{}
	f.ApplyBatch([]*raft.Log{confEntry(1, 3)})
	fill(f, m, 2, 3)
	if err := take(f, 4); err != nil {
		return err
	}
	acked(4)
	if err := receive(f, meta, bytes.NewReader(whole)); err != nil {
		return err
	}
	acked(meta.Index)
	last := fill(f, m, meta.Index+1, 2)
	if err := take(f, last); err != nil {
		return err
	}
	acked(last)
	return f.Close()
}

// The power fails at each operation of the disk in turn. The store is that of before, or that of the snapshot, and has
// all that was durable. Another opening after another crash finds the same.
func TestCrashWhileInstalling(t *testing.T) {
	src, _ := opened(t)
	after := model{}
	last := fill(src, after, 2, 8)
	must(t, take(src, last))
	meta, r, err := src.Snapshots().Open(newest(t, src).ID)
	must(t, err)
	whole, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 1; ; n += step {
		disk := newDisk(uint64(n))
		disk.CrashAfter(n)
		floor := uint64(0)
		ignore := func(error) {} // the FSM stops when the disk fails
		f, err := raftpages.Open(simDir, engine.Bytes{}, apply, on(disk, ignore))
		if err == nil {
			err = steps(f, whole, meta, func(index uint64) { floor = index })
			_ = f.Close()
		}
		done := !disk.Crashed()
		if done {
			must(t, err)
		}
		for again := range uint64(1 + (n+1)%2) {
			disk = disk.Crash(uint64(n) + again)
			g := open(t, disk)
			got, index := contents(t, g)
			if err := checkCrash(got, index, meta.Index, after); err != nil {
				t.Fatalf("crash at operation %d: %v", n, err)
			}
			if names := slices.Collect(maps.Keys(disk.Sizes())); !areOfOneStore(names) {
				t.Fatalf("crash at operation %d: the opening leaves %v", n, names)
			}
			if index < floor {
				t.Fatalf("crash at operation %d: entry %d is the last one, but %d was durable", n, index, floor)
			}
			if list, err := g.Snapshots().List(); err != nil || len(list) > 0 && list[0].Index != index {
				t.Fatalf("crash at operation %d: snapshots %v, %v; want entry %d", n, list, err, index)
			}
			must(t, g.Close())
		}
		if done {
			t.Logf("%d operations", n)
			return
		}
	}
}

// areOfOneStore reports whether the names are those of CURRENT and of files of one store.
func areOfOneStore(names []string) bool {
	stores := map[string]bool{}
	for _, name := range names {
		rest := strings.TrimPrefix(name, simDir+"/")
		store, _, inside := strings.Cut(rest, "/")
		if !inside && rest != "CURRENT" {
			return false
		}
		stores[store] = inside
	}
	delete(stores, "CURRENT")
	return len(stores) == 1
}

// checkCrash returns an error unless the contents after a crash are those that they were after the entry at index, with
// steps: after the first four entries, or after the snapshot of entry installed, with the contents after, and two more.
func checkCrash(got model, index, installed uint64, after model) error {
	m, from := model{}, uint64(2)
	switch {
	case index <= 4:
	case index >= installed && index <= installed+2:
		m, from = maps.Clone(after), installed+1
	default:
		return fmt.Errorf("the store ends with entry %d", index)
	}
	for at := from; at <= index; at++ {
		applyModel(m, at, from)
	}
	if !maps.Equal(got, m) {
		return fmt.Errorf("after entry %d there is %.300v, want %.300v", index, fmt.Sprint(got), fmt.Sprint(m))
	}
	return nil
}

// applyModel adds what fill, which began with entry from, does as entry at.
func applyModel(m model, at, from uint64) {
	rng := rand.New(rand.NewPCG(from, 1))
	for i := from; ; i++ {
		c := command{Op: "link", Key: key(rng.IntN(keys)), Value: strings.Repeat(fmt.Sprint(i, " "), rng.IntN(50))}
		if rng.IntN(2) == 0 {
			c.Op = "set"
		}
		if rng.IntN(20) == 0 {
			c.Value = strings.Repeat(c.Value, 100)
		}
		if i == at {
			if _, ok := m[c.Key]; !ok {
				c.Op = "set"
			}
			m.add(c)
			return
		}
	}
}

// A snapshot that a full disk has no room for is refused, and the node goes on. With room it is installed.
func TestFullDiskWhileInstalling(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 150)
	must(t, take(f, last))
	g, disk := opened(t)
	n := model{}
	end := fill(g, n, 2, 5)
	must(t, take(g, end))
	used := int64(0)
	for _, size := range disk.Sizes() {
		used += size
	}
	for _, room := range []int64{0, 5000, 20_000} {
		disk.SetCapacity(used + room)
		if err := send(f, g, nil); !errors.Is(err, engine.ErrNoSpace) && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
		want(t, g, n, end)
	}
	g.Apply(entry(end+1, command{Op: "set", Key: "k0", Value: "goes on"}))
	n["k0"] = "goes on"
	want(t, g, n, end+1)
	disk.SetCapacity(0)
	must(t, send(f, g, nil))
	want(t, g, m, last)
}

// The disk fails when CURRENT is written. Before the rename the store stays in use; afterwards nobody knows which store
// the next opening finds, so the FSM stops.
func TestCurrentFails(t *testing.T) {
	f, _ := opened(t)
	m := model{}
	last := fill(f, m, 2, 20)
	must(t, take(f, last))
	for _, kind := range []simdisk.OpKind{simdisk.OpWrite, simdisk.OpSync, simdisk.OpRename, simdisk.OpSyncDir} {
		disk := newDisk(1)
		g, failed := failing(t, disk, apply)
		g.ApplyBatch([]*raft.Log{confEntry(1, 3), entry(2, command{Op: "set", Key: "k1", Value: "old"})})
		must(t, take(g, 2))
		meta, r, err := f.Snapshots().Open(newest(t, f).ID)
		must(t, err)
		sink, err := g.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, 1, nil)
		must(t, err)
		_, err = io.Copy(sink, r)
		must(t, err)
		must(t, r.Close())
		must(t, sink.Close())
		disk.FailFrom(kind, 1, syscall.EIO)
		err = restore(g, sink.ID())
		disk.SetFault(nil)
		stops := kind == simdisk.OpRename || kind == simdisk.OpSyncDir
		if !errors.Is(err, syscall.EIO) || errors.Is(err, raftpages.ErrStopped) != stops {
			t.Fatalf("%v: %v", kind, err)
		}
		if stops {
			<-failed
		}
		want(t, g, model{"k1": "old"}, 2)
		if !stops {
			must(t, send(f, g, nil))
			want(t, g, m, last)
		}
		must(t, g.Close())
		got, index := contents(t, open(t, disk))
		if index == last && !maps.Equal(got, m) || index == 2 && got["k1"] != "old" || index != 2 && index != last {
			t.Errorf("%v: the next opening finds entry %d", kind, index)
		}
	}
}
