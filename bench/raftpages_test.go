//go:build !abtest

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolt "go.etcd.io/bbolt"

	"pagecache/engine"
	"pagecache/raft/raftlog"
	"pagecache/raft/raftpages"
)

// The replicated page stores have this many pages, of 100 bytes at first.
const replicatedPages, replicatedDelta = 10_000, 100

// linkCommand is the command that appends 100 bytes to a page; page −1: that makes all pages.
func linkCommand(page int) []byte {
	b := make([]byte, 8+replicatedDelta)
	binary.LittleEndian.PutUint64(b, uint64(page))
	return b
}

func commandPage(b []byte) (page int, delta []byte) {
	return int(int64(binary.LittleEndian.Uint64(b))), b[8:]
}

// linker is the Apply of a node. The pages that it has made are in memory, since the benchmark restarts no node.
type linker struct{ ids []engine.PageID }

func (l *linker) apply(tx *engine.Tx[[]byte], e *raft.Log) (any, error) {
	page, delta := commandPage(e.Data)
	if page >= 0 {
		return nil, tx.Link(l.ids[page], delta)
	}
	l.ids = l.ids[:0]
	for range replicatedPages {
		pid, err := tx.Allocate(delta)
		if err != nil {
			return nil, err
		}
		l.ids = append(l.ids, pid)
	}
	return nil, nil
}

// boltFSM is the same state machine on bbolt: a batch is one transaction, with the applied index.
type boltFSM struct{ db *bolt.DB }

func (f *boltFSM) Apply(e *raft.Log) any { return f.ApplyBatch([]*raft.Log{e})[0] }

func (f *boltFSM) ApplyBatch(entries []*raft.Log) []any {
	responses := make([]any, len(entries))
	err := f.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		for _, e := range entries {
			if e.Type == raft.LogCommand {
				if err := f.link(b, e.Data); err != nil {
					return err
				}
			}
		}
		last := entries[len(entries)-1].Index
		return b.Put([]byte("applied"), binary.LittleEndian.AppendUint64(nil, last))
	})
	if err != nil {
		panic(err)
	}
	return responses
}

func (f *boltFSM) link(b *bolt.Bucket, data []byte) error {
	page, delta := commandPage(data)
	if page >= 0 {
		k := key(new([8]byte), page)
		return b.Put(k, slices.Concat(b.Get(k), delta))
	}
	for page := range replicatedPages {
		if err := b.Put(key(new([8]byte), page), delta); err != nil {
			return err
		}
	}
	return nil
}

func (*boltFSM) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("the benchmark takes none")
}
func (*boltFSM) Restore(io.ReadCloser) error { return errors.New("the benchmark restores none") }

// replicas are three nodes on one machine.
type replicas struct {
	leader *raft.Raft
	close  func()
}

// startReplicas starts three nodes. start starts one, and returns what closes it.
func startReplicas(b *testing.B, start func(i int, conf *raft.Config, t raft.Transport) (*raft.Raft, func())) replicas {
	b.Helper()
	var nodes []*raft.Raft
	var closers []func()
	var transports []*raft.InmemTransport
	var conf raft.Configuration
	for i := range 3 {
		id := fmt.Sprint("node", i)
		_, t := raft.NewInmemTransport(raft.ServerAddress(id))
		for _, other := range transports {
			other.Connect(t.LocalAddr(), t)
			t.Connect(other.LocalAddr(), other)
		}
		transports = append(transports, t)
		c := raft.DefaultConfig()
		c.LocalID, c.Logger, c.BatchApplyCh = raft.ServerID(id), hclog.NewNullLogger(), true
		c.SnapshotInterval = time.Hour
		r, closer := start(i, c, t)
		nodes, closers = append(nodes, r), append(closers, closer)
		conf.Servers = append(conf.Servers, raft.Server{ID: c.LocalID, Address: t.LocalAddr()})
	}
	if err := nodes[0].BootstrapCluster(conf).Error(); err != nil {
		b.Fatal(err)
	}
	c := replicas{close: func() {
		for i, r := range nodes {
			if err := r.Shutdown().Error(); err != nil {
				b.Error(err)
			}
			closers[i]()
		}
	}}
	for c.leader == nil {
		time.Sleep(10 * time.Millisecond)
		for _, r := range nodes {
			if r.State() == raft.Leader {
				c.leader = r
			}
		}
	}
	if err := c.leader.Apply(linkCommand(-1), 0).Error(); err != nil {
		b.Fatal(err)
	}
	return c
}

// link appends to a page, durably on a majority.
func (c replicas) link(page int) error {
	f := c.leader.Apply(linkCommand(page), 0)
	if err := f.Error(); err != nil {
		return err
	}
	err, _ := f.Response().(error)
	return err
}

func pageReplicas(b *testing.B) replicas {
	return startReplicas(b, func(i int, conf *raft.Config, t raft.Transport) (*raft.Raft, func()) {
		dir := filepath.Join(b.TempDir(), fmt.Sprint("pages", i))
		logs, err := raftlog.Open(filepath.Join(dir, "log"), nil)
		if err != nil {
			b.Fatal(err)
		}
		fsm, err := raftpages.Open(filepath.Join(dir, "fsm"), engine.Bytes{}, new(linker).apply, nil)
		if err != nil {
			b.Fatal(err)
		}
		r, err := fsm.NewRaft(conf, logs, logs, t)
		if err != nil {
			b.Fatal(err)
		}
		return r, func() {
			if err := errors.Join(fsm.Close(), logs.Close()); err != nil {
				b.Error(err)
			}
		}
	})
}

// boltReplicas use raft-boltdb and bbolt. Without sync, a crash of the machine may corrupt the pages.
func boltReplicas(b *testing.B, sync bool) replicas {
	return startReplicas(b, func(i int, conf *raft.Config, t raft.Transport) (*raft.Raft, func()) {
		dir := b.TempDir()
		logs, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db"),
			BoltOptions: &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType}})
		if err != nil {
			b.Fatal(err)
		}
		s, err := OpenBolt(dir, PeerOptions{Sync: sync, Goroutines: 1})
		if err != nil {
			b.Fatal(err)
		}
		cache, err := raft.NewLogCache(512, logs)
		if err != nil {
			b.Fatal(err)
		}
		r, err := raft.NewRaft(conf, &boltFSM{s.DB}, cache, logs, raft.NewDiscardSnapshotStore(), t)
		if err != nil {
			b.Fatal(err)
		}
		return r, func() {
			if err := errors.Join(s.DB.Close(), logs.Close()); err != nil {
				b.Error(err)
			}
		}
	})
}

// single is one page store, without raft, whose Links are durable.
type single struct {
	pc *engine.PageCache[[]byte]
	l  linker
}

func newSingle(b *testing.B) *single {
	s := &single{}
	var err error
	if s.pc, err = engine.Open(b.TempDir(), engine.Bytes{}, nil); err != nil {
		b.Fatal(err)
	}
	if err := s.do(linkCommand(-1)); err != nil {
		b.Fatal(err)
	}
	return s
}

func (s *single) do(command []byte) error {
	lsn, err := s.pc.Update(context.Background(), func(tx *engine.Tx[[]byte]) error {
		_, err := s.l.apply(tx, &raft.Log{Data: command})
		return err
	})
	if err == nil {
		_, err = s.pc.MakeStable(lsn)
	}
	return err
}

// A replicated page store of three nodes on this machine, with 64 clients that append 100 bytes to pages, durably:
// raftpages and raftlog against the same state machine on bbolt and raft-boltdb, and against one page store without
// raft. Each turn is a second of each; the figures are medians of turns.
func BenchmarkRaftPages(b *testing.B) {
	const clients = 64
	ours, synced, unsynced, alone := pageReplicas(b), boltReplicas(b, true), boltReplicas(b, false), newSingle(b)
	links := []func(page int) error{ours.link, synced.link, unsynced.link,
		func(page int) error { return alone.do(linkCommand(page)) }}
	second := func(link func(page int) error) float64 {
		var wg sync.WaitGroup
		var n atomic.Int64
		start := time.Now()
		for client := range clients {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(client), uint64(start.UnixNano())))
				for time.Since(start) < time.Second {
					if err := link(rng.IntN(replicatedPages)); err != nil {
						b.Error(err)
						return
					}
					n.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(n.Load()) / time.Since(start).Seconds()
	}
	rates := make([][]float64, len(links))
	for b.Loop() {
		for i, link := range links {
			rates[i] = append(rates[i], second(link))
		}
	}
	median := func(i int) float64 {
		slices.Sort(rates[i])
		return rates[i][len(rates[i])/2]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(0), "raftpages-links/s")
	b.ReportMetric(median(1), "bbolt-links/s")
	b.ReportMetric(median(2), "bbolt-nosync-links/s")
	b.ReportMetric(median(3), "single-links/s")
	b.ReportMetric(median(0)/median(1), "ratio")
	b.ReportMetric(median(0)/median(3), "ratio-to-single")
	ours.close()
	synced.close()
	unsynced.close()
	if err := alone.pc.Close(); err != nil {
		b.Error(err)
	}
}
