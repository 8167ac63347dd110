//go:build !abtest

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/bench"
	"pagecache/internal/machine"
	"pagecache/internal/versus"
)

// runPeer is the command compare peer, which pcbench run --against uses: it reads a load, applies it to another store,
// and writes the outcome. With --list it writes the names of the stores.
func runPeer(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "--list":
		return json.NewEncoder(out).Encode(peerList())
	case len(args) > 0:
		return errors.New("peer: wants --list, or a load on the standard input")
	}
	l := &versus.Load{}
	if err := json.NewDecoder(in).Decode(l); err != nil {
		return fmt.Errorf("peer: read the load: %w", err)
	}
	if l.Format != versus.Format {
		return fmt.Errorf("peer: the load has format %d, want %d: build both programs from one commit", l.Format,
			versus.Format)
	}
	o, err := applyLoad(ctx, l)
	if err != nil {
		return fmt.Errorf("%s: %w", l.Store, err)
	}
	return json.NewEncoder(out).Encode(o)
}

// peerList returns the stores.
func peerList() versus.List {
	built, list := machine.Versions(), versus.List{Format: versus.Format}
	for _, p := range bench.Peers() {
		list.Stores = append(list.Stores, versus.Store{Name: p.Name, Version: built[p.Module], Config: p.Config})
	}
	return list
}

// peerLoad is a load that is applied to a store.
type peerLoad struct {
	*versus.Load
	s       bench.Store
	draws   []byte         // of 4 bytes each
	cursors []atomic.Int64 // of the jobs, for loads in order
	base    time.Time
	stop    atomic.Bool // set when a worker has failed or the context is done; ends all after their operation
}

// applyLoad makes the store, applies the load and measures it.
func applyLoad(ctx context.Context, l *versus.Load) (o *versus.Outcome, err error) {
	at := slices.IndexFunc(bench.Peers(), func(p bench.Peer) bool { return strings.EqualFold(p.Name, l.Store) })
	if at < 0 || l.Pages < 1 || l.PageSize < 1 || l.Jobs < 1 || l.Depth < 1 || l.Operations == 0 && l.Runtime == 0 {
		return nil, errors.New("the load is not complete, or no store has this name")
	}
	p := &peerLoad{Load: l, cursors: make([]atomic.Int64, l.Jobs)}
	if l.Draws != "" {
		if p.draws, err = os.ReadFile(l.Draws); err != nil || len(p.draws) < 4 {
			return nil, fmt.Errorf("read the pages to draw: %d bytes, %w", len(p.draws), err)
		}
	}
	for j := range p.cursors {
		p.cursors[j].Store(int64(j) * l.Pages / int64(l.Jobs))
	}
	options := bench.PeerOptions{Cache: l.Cache, Sync: l.SyncEvery == 1, Goroutines: l.Jobs * l.Depth}
	if p.s, err = bench.Peers()[at].Open(l.Dir, options); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.s.Close()) }()
	if l.Laid {
		if err := bench.Load(p.s, int(l.Pages), l.PageSize); err != nil {
			return nil, fmt.Errorf("lay out: %w", err)
		}
	}
	defer context.AfterFunc(ctx, func() { p.stop.Store(true) })()
	if o, err = p.run(); err == nil {
		err = ctx.Err()
	}
	return o, err
}

// run runs the workers and measures them.
func (p *peerLoad) run() (*versus.Outcome, error) {
	before := versus.OwnUsage()
	p.base = time.Now()
	var ramp sync.WaitGroup
	ramped := before
	if p.Ramp > 0 {
		ramp.Go(func() { time.Sleep(p.Ramp); ramped = versus.OwnUsage() })
	}
	workers, errs := make([]peerWorker, p.Jobs*p.Depth), make([]error, p.Jobs*p.Depth)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			if errs[i] = workers[i].run(p, i); errs[i] != nil {
				p.stop.Store(true)
			}
		})
	}
	wg.Wait()
	ramp.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if p.Flush {
		if err := p.s.Flush(); err != nil {
			return nil, err
		}
	}
	end, usage := time.Since(p.base)-p.Ramp, versus.OwnUsage()
	if err := p.s.Flush(); err != nil {
		return nil, err
	}
	o := &versus.Outcome{Format: versus.Format, Seconds: max(0, end).Seconds(), CPU: usage.CPU - ramped.CPU,
		Written: versus.OwnUsage().Written - before.Written}
	sum := &workers[0]
	for i := range workers[1:] {
		sum.add(&workers[1+i])
	}
	o.Read, o.Write = sum.reads.Work(sum.readBytes), sum.writes.Work(sum.writeBytes)
	o.Commit = sum.commits.Work(0)
	if p.SyncEvery == 1 { // a durable write is one call: its time is that of a commit
		o.Write = versus.Work{Operations: o.Commit.Operations, Bytes: sum.writeBytes}
	}
	var err error
	o.Space, err = versus.Space(p.Dir)
	return o, err
}

// peerWorker is one goroutine of a load, and its counts.
type peerWorker struct {
	p                      *peerLoad
	rng                    *rand.PCG
	values                 *bench.Values
	cursor                 *atomic.Int64
	at, since              int
	reads, writes, commits versus.Times
	readBytes, writeBytes  int64
}

// add adds the counts of v.
func (w *peerWorker) add(v *peerWorker) {
	w.reads.Merge(&v.reads)
	w.writes.Merge(&v.writes)
	w.commits.Merge(&v.commits)
	w.readBytes, w.writeBytes = w.readBytes+v.readBytes, w.writeBytes+v.writeBytes
}

// run does operations until its share is done, the time is over, or the load stops.
func (w *peerWorker) run(p *peerLoad, i int) error {
	n := int64(p.Jobs * p.Depth)
	upTo := func(i int64) int64 { return i*(p.Operations/n) + i*(p.Operations%n)/n } // as pcbench shares them
	quota := upTo(int64(i)+1) - upTo(int64(i))
	if p.Operations == 0 {
		quota = 1<<63 - 1
	}
	w.p, w.rng, w.values = p, rand.NewPCG(p.Seed, uint64(i)), bench.NewValues(p.Seed+uint64(i), p.PageSize)
	w.cursor, w.at = &p.cursors[i/p.Depth], len(p.draws)/4*i/int(n)
	deadline := time.Duration(1<<63 - 1)
	if p.Runtime > 0 {
		deadline = p.Ramp + p.Runtime
	}
	for done := int64(0); done < quota && !p.stop.Load(); {
		start := time.Since(p.base)
		if start >= deadline {
			return nil
		}
		measured := start >= p.Ramp
		if measured {
			done++
		}
		if err := w.operate(start, measured); err != nil {
			return err
		}
	}
	return nil
}

// page returns the next page.
func (w *peerWorker) page() int {
	if w.p.draws == nil {
		return int((w.cursor.Add(1) - 1) % w.p.Pages)
	}
	if w.at++; w.at*4+4 > len(w.p.draws) {
		w.at = 0
	}
	return int(binary.LittleEndian.Uint32(w.p.draws[w.at*4:]))
}

// operate does one operation, which has started at start.
func (w *peerWorker) operate(start time.Duration, measured bool) error {
	p, page := w.p, w.page()
	if p.ReadPercent == 100 || p.ReadPercent > 0 && w.rng.Uint64()%100 < uint64(p.ReadPercent) {
		n, err := p.s.Get(page)
		if err == nil && n != p.PageSize {
			err = fmt.Errorf("page %d has %d bytes, want %d", page, n, p.PageSize)
		}
		if err == nil && measured {
			w.reads.Add(time.Since(p.base) - start)
			w.readBytes += int64(n)
		}
		return err
	}
	var err error
	durable, ok := p.s.(interface{ ReplaceSync(int, []byte) error })
	if ok && p.SyncEvery == 1 {
		err = durable.ReplaceSync(page, w.values.Next())
	} else {
		err = p.s.Replace(page, w.values.Next())
	}
	if err != nil {
		return err
	}
	end := time.Since(p.base)
	if measured {
		w.writeBytes += int64(p.PageSize)
		if p.SyncEvery == 1 {
			w.commits.Add(end - start)
		} else {
			w.writes.Add(end - start)
		}
	}
	if w.since++; p.SyncEvery > 1 && w.since >= p.SyncEvery {
		w.since = 0
		if err := p.s.Flush(); err != nil {
			return err
		}
		if measured {
			w.commits.Add(time.Since(p.base) - end)
		}
	}
	return nil
}
