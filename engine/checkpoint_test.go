package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// take takes a checkpoint, which the test's end closes.
func take(t testing.TB, pc *engine.PageCache[[]byte]) *engine.Checkpoint {
	t.Helper()
	c, err := pc.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// streamOf returns what a checkpoint writes since an LSN.
func streamOf(t testing.TB, c *engine.Checkpoint, since engine.LSN) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := c.Write(t.Context(), &b, since)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d bytes of %d, %v", n, b.Len(), err)
	}
	if size := c.Size(); n > size {
		t.Errorf("a stream has %d bytes, which is more than Size, %d", n, size)
	}
	return b.Bytes()
}

// readers returns readers of streams.
func readers(streams ...[]byte) (r []io.Reader) {
	for _, s := range streams {
		r = append(r, bytes.NewReader(s))
	}
	return r
}

// install makes a store in dir of streams.
func install(t testing.TB, dir string, o *engine.Options, streams ...[]byte) {
	t.Helper()
	if _, err := engine.Install(t.Context(), dir, o, readers(streams...)...); err != nil {
		t.Fatal(err)
	}
}

// A store that was installed has all pages, roots and blobs of the checkpoint, none of those that were written later,
// and goes on with the ids. It opens as after a clean close, in a timeline of its own. Proves Z1.
func TestCheckpointIsInstalled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 64 << 10, CacheCapacity: 1 << 20}
	pc := enginetest.Open(t, filepath.Join(dir, "store"), o)
	enginetest.Busy(t, pc, 1000, 1)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	enginetest.Busy(t, pc, 500, 2)
	blob, _ := enginetest.Allocate(t, pc, enginetest.Random(100_000, 7))
	contents := enginetest.Contents(t, pc)
	c := take(t, pc)
	next, err := pc.GenerateID()
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Busy(t, pc, 500, 3)
	later := enginetest.Contents(t, pc)

	info, err := engine.VerifyCheckpoint(t.Context(), readers(streamOf(t, c, 0))...)
	if err != nil || info.LSN != c.LSN() || info.Blobs == 0 || info.Segments == 0 {
		t.Fatalf("%+v, %v; the checkpoint is of LSN %d", info, err, c.LSN())
	}
	to := filepath.Join(dir, "copy")
	stream := streamOf(t, c, 0)
	if size := c.Size(); size != int64(len(stream)) {
		t.Errorf("a stream has %d bytes, Size says %d", len(stream), size)
	}
	install(t, to, nil, append(stream, 0, 0)) // nothing behind its end is read
	r, err := engine.Check(to, nil, func(problem error) { t.Error(problem) })
	if err != nil || r.Strays > 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
	cp := enginetest.Open(t, to, nil)
	if got := enginetest.Contents(t, cp); got != contents {
		t.Errorf("the copy differs from the store as it was")
	}
	if got := enginetest.Get(t, cp, blob); len(got.Value) != 100_000 {
		t.Errorf("the blob has %d bytes", len(got.Value))
	}
	if id, err := cp.GenerateID(); err != nil || id < next || id > next+1000 {
		t.Errorf("id %d, %v, after %d", id, err, next)
	}
	enginetest.Busy(t, cp, 100, 4)
	enginetest.Close(t, cp)
	if got := enginetest.Contents(t, pc); got != later {
		t.Errorf("the store has changed")
	}
	enginetest.Close(t, pc)
}

// A checkpoint can be read while the store goes on, also after it was closed, and shows what it showed at the
// beginning: segments that were in io buffers, blobs and roots, too. Proves Z1, Z2 and rule 2.
func TestCheckpointIsRead(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1},
		seam.Options{FS: d, Eager: true})
	pc := enginetest.Open(t, "/store", o)
	var contents []string
	var read []*engine.PageCache[[]byte]
	for round := range uint64(4) {
		enginetest.Busy(t, pc, 150, round)
		if round == 2 {
			if err := pc.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		contents = append(contents, enginetest.Contents(t, pc))
		c := take(t, pc)
		cp, err := engine.OpenCheckpoint(c, engine.Bytes{}, &engine.Options{CacheCapacity: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		read = append(read, cp)
		enginetest.CleanAll(t, pc)
	}
	for i, cp := range read {
		if got := enginetest.Contents(t, cp); got != contents[i] {
			t.Errorf("checkpoint %d has changed", i)
		}
		tx := enginetest.Begin(t, cp)
		if _, _, err := cp.Allocate(tx, []byte("new")); !errors.Is(err, engine.ErrReadOnly) {
			t.Errorf("allocate in a checkpoint: %v", err)
		}
		tx.End()
		if err := cp.Close(); err != nil {
			t.Error(err)
		}
	}
	end := pc.StableLSN()
	enginetest.Busy(t, pc, 50, 9)
	wantRecycled(t, pc, end)
}

// wantRecycled fails the test unless all segments that begin below an LSN are recycled in which nothing is live. The
// log has gone on behind them.
func wantRecycled(t *testing.T, pc *engine.PageCache[[]byte], below engine.LSN) {
	t.Helper()
	if enginetest.CleanAll(t, pc); pc.Stats().Space.Recycled == 0 {
		t.Error("nothing was recycled")
	}
	for _, g := range pc.Segments() {
		if g.State == "draining" && g.Base < below {
			t.Errorf("a segment is held: %+v", g)
		}
	}
}

// checkpointRun is a store with checkpoints, and what each of them must have.
type checkpointRun struct {
	t     *testing.T
	disk  *simdisk.Disk
	o     engine.Options
	eager bool
	h     *enginetest.History
	d     *enginetest.Driver
	rng   *rand.Rand
	open  []heldCheckpoint
	chain [][]byte // the last complete stream, and those that continue it
	end   engine.LSN
	n     int // stores installed
}

// heldCheckpoint is a checkpoint with the history of its store.
type heldCheckpoint struct {
	c *engine.Checkpoint
	h *enginetest.History
}

// clone returns a history that does not change with h.
func clone(h *enginetest.History) *enginetest.History {
	return &enginetest.History{Base: h.Base.Clone(), Now: h.Now.Clone(), Effects: slices.Clone(h.Effects),
		Batches: slices.Clone(h.Batches), Acked: h.Acked, NextID: h.NextID}
}

// step takes a checkpoint, or writes and closes one.
func (r *checkpointRun) step() error {
	if len(r.open) < 3 && r.rng.IntN(2) == 0 {
		c, err := r.d.PC.Checkpoint(r.t.Context())
		if err != nil {
			return err
		}
		h := clone(r.h)
		r.open = append(r.open, heldCheckpoint{c, h})
		end := c.LSN()
		if end%(16<<10) == 0 { // the log may be stable behind the next segment's header, where no message is
			end += 4096
		}
		err = h.Cut(end)
		h.Acked = c.LSN()
		return err
	}
	if len(r.open) == 0 {
		return nil
	}
	k := r.open[0]
	r.open = r.open[1:]
	if r.rng.IntN(4) == 0 {
		dir := r.next()
		_, err := k.c.CopyTo(r.t.Context(), dir, &r.o)
		if k.c.Close(); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		return r.verify(k, dir)
	}
	since := r.end
	if r.end == 0 || len(r.chain) == 0 || len(r.chain) > 3 || r.rng.IntN(3) == 0 {
		since, r.chain = 0, nil
	}
	var b bytes.Buffer
	_, err := k.c.Write(r.t.Context(), &b, since)
	if k.c.Close(); err != nil {
		return fmt.Errorf("write since %d: %w", since, err)
	}
	r.chain, r.end = append(r.chain, b.Bytes()), k.c.LSN()
	return r.installed(k)
}

// next returns the directory for the next copy.
func (r *checkpointRun) next() string {
	r.n++
	return fmt.Sprintf("/copy%d", r.n)
}

// installed makes a store of the chain, and compares it with the history.
func (r *checkpointRun) installed(k heldCheckpoint) error {
	dir := r.next()
	if _, err := engine.Install(r.t.Context(), dir, &r.o, readers(r.chain...)...); err != nil {
		return fmt.Errorf("install %d streams: %w", len(r.chain), err)
	}
	return r.verify(k, dir)
}

// verify compares a copy with the history, and removes it.
func (r *checkpointRun) verify(k heldCheckpoint, dir string) error {
	o := r.o
	var strays int64
	var problems []error
	report, err := engine.Check(dir, &o, func(err error) { problems = append(problems, err) })
	if strays = report.Strays; err != nil || len(problems) > 0 || strays > 0 {
		return fmt.Errorf("%d strays, %w", strays, errors.Join(append(problems, err)...))
	}
	pc, err := engine.Open(dir, engine.Bytes{}, &o)
	if err != nil {
		return err
	}
	err = k.h.Check(pc)
	if err == nil { // it can be changed
		var d *enginetest.Driver
		if d, err = enginetest.NewDriver(pc, r.rng, k.h); err == nil {
			err = errors.Join(d.Work(10), d.SealAll())
		}
		defer runtime.KeepAlive(d) // with the batches that it could not seal
		d.End()
	}
	return errors.Join(err, pc.Close(), r.disk.RemoveAll(dir))
}

// reopen closes the store, or lets the power fail, and opens it again. A chain of streams goes on.
func (r *checkpointRun) reopen() error {
	closeAll := func() {
		for _, k := range r.open {
			k.c.Close()
		}
		r.open = nil
	}
	defer closeAll()
	if r.rng.IntN(2) == 0 { // otherwise after the store
		closeAll()
	}
	pc := r.d.PC
	if r.rng.IntN(2) == 0 {
		if err := r.d.SealAll(); err != nil {
			return err
		}
		r.d.End()
		if err := r.h.Closed(pc.Close()); err != nil {
			return err
		}
		r.h.AckClosed()
	} else {
		r.d.End()
		r.disk = r.disk.Crash(r.rng.Uint64())
		_ = pc.Close()
		enginetest.WithSeam(&r.o, seam.Options{FS: r.disk, Eager: r.eager})
	}
	end, _, err := enginetest.LogEnd(r.disk, "/store")
	if err == nil {
		err = r.h.Cut(end)
	}
	if err != nil {
		return err
	}
	return r.begin()
}

// begin opens the store.
func (r *checkpointRun) begin() error {
	pc, err := engine.Open("/store", engine.Bytes{}, &r.o)
	if err == nil {
		err = r.h.Check(pc)
	}
	if err != nil {
		return err
	}
	if r.d, err = enginetest.NewDriver(pc, r.rng, r.h); err != nil {
		return err
	}
	r.d.Max, r.d.Eager, r.d.Patience = 6000, r.rng.IntN(2) == 0, 5
	return nil
}

// Checkpoints are what the history of the store says, whatever the store does meanwhile: cleaning, batches that are
// open, snapshots, blobs; however long they are open, and as chains of incremental streams, too, between which the
// store is closed, or the power fails. Proves Z1, Z2 and Z5, and rule 4 for what is held.
func TestCheckpointModel(t *testing.T) {
	t.Parallel()
	seeds := uint64(60)
	if testing.Short() {
		seeds = 12
	}
	for seed := range seeds {
		r := &checkpointRun{t: t, disk: simdisk.New(seed, simdisk.Options{NoClone: seed%3 == 0}),
			h: enginetest.NewHistory(), rng: rand.New(rand.NewPCG(seed, 77)), eager: seed%2 == 0}
		r.o = *enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1,
			ConsolidateAfter: 3, IDPersistInterval: 10}, seam.Options{FS: r.disk, Eager: r.eager})
		if err := r.run(); err != nil {
			t.Fatalf("seed %d: %v\n%v", seed, err, r.h)
		}
	}
}

func (r *checkpointRun) run() error {
	if err := r.begin(); err != nil {
		return err
	}
	for range 12 {
		if r.rng.IntN(5) == 0 {
			if err := r.reopen(); err != nil {
				return fmt.Errorf("reopen: %w", err)
			}
		}
		if err := r.d.Work(10 + r.rng.IntN(60)); err != nil {
			return err
		}
		if err := r.step(); err != nil {
			return err
		}
	}
	for len(r.open) > 0 {
		if err := r.step(); err != nil {
			return err
		}
	}
	if err := r.d.SealAll(); err != nil {
		return err
	}
	r.d.End()
	if r.d.Changed != nil {
		return r.d.Changed
	}
	pc := r.d.PC
	if _, err := pc.Flush(); err != nil {
		return err
	}
	return errors.Join(r.h.Check(pc), pc.Close(), enginetest.Problems("/store", &r.o))
}

// A checkpoint keeps the segments and blobs that it shows, and none once it is closed. Proves Z2.
func TestCheckpointHolds(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1},
		seam.Options{FS: d, Eager: true})
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 5, 500)
	long, _ := enginetest.Allocate(t, pc, enginetest.Random(9000, 1))
	enginetest.Flush(t, pc)
	contents := enginetest.Contents(t, pc)
	c := take(t, pc)
	tx := enginetest.Begin(t, pc)
	p, err := pc.Get(tx, long)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Replace(tx, long, p.Ptr, enginetest.Random(9000, 2)))
	tx.End()
	enginetest.Churn(t, pc, pids, 20)
	enginetest.CleanAll(t, pc)
	held := pc.Stats().Space
	if held.Blobs != 2 {
		t.Errorf("%d blobs while the checkpoint is open, want 2", held.Blobs)
	}
	install(t, "/copy", o, streamOf(t, c, 0))
	cp := enginetest.Open(t, "/copy", o)
	if got := enginetest.Contents(t, cp); got != contents {
		t.Error("the copy differs")
	}
	enginetest.Close(t, cp)
	c.Close()
	c.Close()
	wantRecycled(t, pc, c.LSN())
	if s := pc.Stats().Space; s.SegmentsInUse >= held.SegmentsInUse || s.Blobs != 1 {
		t.Errorf("after the checkpoint was closed: %+v; before: %+v", s, held)
	}
}

// Writers go on beside a checkpoint, and each checkpoint has everything that was acknowledged before it began, and
// transactions as a whole. Proves Z1; under the race detector, that reading a segment races with no writer.
func TestCheckpointBesideWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 64 << 10, CleanupThreshold: 0.8}
	pc := enginetest.Open(t, filepath.Join(dir, "store"), o)
	const writers = 4
	var pids [writers][2]engine.PageID
	for i := range pids {
		for j := range pids[i] {
			pids[i][j], _ = enginetest.Allocate(t, pc, record(0))
		}
	}
	var acked [writers]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range pids {
		all.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				lsn, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
					for _, pid := range pids[i] {
						if err := tx.Replace(pid, record(n)); err != nil {
							return err
						}
					}
					return nil
				})
				if err == nil {
					_, err = pc.MakeStable(lsn)
				}
				if err != nil {
					t.Error(err)
					return
				}
				acked[i].Store(n)
			}
		})
	}
	for round := range 5 {
		time.Sleep(20 * time.Millisecond)
		var least [writers]int64
		for i := range least {
			least[i] = acked[i].Load()
		}
		c := take(t, pc)
		b := streamOf(t, c, 0)
		c.Close()
		to := filepath.Join(dir, fmt.Sprint("copy", round))
		install(t, to, nil, b)
		cp := enginetest.Open(t, to, nil)
		for i := range pids {
			one, two := enginetest.Get(t, cp, pids[i][0]).Value, enginetest.Get(t, cp, pids[i][1]).Value
			if !bytes.Equal(one, two) {
				t.Errorf("round %d: half of a transaction of writer %d", round, i)
			}
			if n := number(one); n < least[i] {
				t.Errorf("round %d: writer %d is at %d, %d was acknowledged", round, i, n, least[i])
			}
		}
		enginetest.Close(t, cp)
	}
	stop()
	all.Wait()
}

// record returns a value of 1000 bytes with a number; number returns the number.
func record(n int64) []byte { return fmt.Appendf(nil, "%01000d", n) }

func number(b []byte) int64 {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// A checkpoint beside an open batch has nothing of the batch, and does not wait for it; segments that are about to
// leave by a message above its cut stay. Proves Z1, Z2 and rule 18.
func TestCheckpointBelowABatch(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1},
		seam.Options{FS: d, Eager: true})
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 5, 500)
	enginetest.Churn(t, pc, pids, 3)
	contents := enginetest.Contents(t, pc)
	b, err := pc.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := enginetest.Allocate(t, pc, []byte("in the batch"))
	enginetest.CleanAll(t, pc) // a message by which segments leave lies above the beginning of the batch
	c := take(t, pc)
	if c.LSN() > b.LSN() {
		t.Errorf("the checkpoint ends at LSN %d, the batch begins at %d", c.LSN(), b.LSN())
	}
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	enginetest.Churn(t, pc, pids, 10)
	enginetest.CleanAll(t, pc)
	install(t, "/copy", o, streamOf(t, c, 0))
	cp := enginetest.Open(t, "/copy", o)
	freed := fmt.Sprintf("%d false \n", pid) // its id was handed out in the batch
	if got := strings.Replace(enginetest.Contents(t, cp), freed, "", 1); got != contents {
		t.Error("the copy differs")
	}
	enginetest.Close(t, cp)
	c.Close()
	enginetest.Churn(t, pc, pids, 1)
	if n := enginetest.CleanAll(t, pc); n == 0 {
		t.Error("nothing is recycled after the checkpoint was closed")
	}
	if p := enginetest.Get(t, pc, pid); string(p.Value) != "in the batch" {
		t.Errorf("the page of the batch is %q", p.Value)
	}
}

// mixedStreams returns a complete stream of MixedStore, and one that continues it.
func mixedStreams(t testing.TB) (d *simdisk.Disk, o *engine.Options, full, more []byte, contents string) {
	d, o, _ = enginetest.MixedStore(t)
	pc := enginetest.Open(t, "/store", o)
	c := take(t, pc)
	full = streamOf(t, c, 0)
	enginetest.Busy(t, pc, 60, 21)
	enginetest.Allocate(t, pc, enginetest.Random(8000, 3))
	contents = enginetest.Contents(t, pc)
	c2 := take(t, pc)
	more = streamOf(t, c2, c.LSN())
	c.Close()
	c2.Close()
	enginetest.Close(t, pc)
	return d, o, full, more, contents
}

// A stream that is not exactly what was written is refused, with the offset: one with a flipped bit anywhere, one that
// ends early, and one that lacks a part or has one twice. Nothing is installed. Proves Z3 and Z4; rule 12.
func TestCheckpointStreamIsVerified(t *testing.T) {
	t.Parallel()
	d, o, full, more, contents := mixedStreams(t)
	refused := func(what string, streams ...[]byte) {
		t.Helper()
		_, err := engine.VerifyCheckpoint(t.Context(), readers(streams...)...)
		var ce *engine.CorruptError
		if !errors.As(err, &ce) {
			t.Fatalf("%s: %v", what, err)
		}
		if _, known := ce.Place.Offset(); !known {
			t.Fatalf("%s: no offset: %v", what, err)
		}
	}
	rng := rand.New(rand.NewPCG(5, 5))
	flips := 2000
	if testing.Short() {
		flips = 300
	}
	for i := range flips {
		b := bytes.Clone(full)
		at := rng.IntN(len(b))
		if i < 400 {
			at = i // the first parts
		}
		b[at] ^= 1 << rng.IntN(8)
		refused(fmt.Sprintf("bit flipped at %d", at), b)
		if n := rng.IntN(len(full)); n > 0 {
			refused(fmt.Sprintf("%d of %d bytes", n, len(full)), full[:n])
		}
	}
	parts := partsOf(full)
	for i := range parts {
		b := slices.Concat(append(slices.Clone(parts[:i]), parts[i+1:]...)...)
		refused(fmt.Sprintf("without part %d of %d", i, len(parts)), b)
		twice := slices.Concat(slices.Insert(slices.Clone(parts), i, parts[i])...)
		if i < len(parts)-1 {
			refused(fmt.Sprintf("with part %d twice", i), twice)
		}
	}
	bad := bytes.Clone(more)
	bad[len(bad)/2] ^= 1
	if _, err := engine.Install(t.Context(), "/copy", o, readers(full, bad)...); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("install of a corrupt chain: %v", err)
	}
	if names, err := d.ReadDir("/"); err != nil || !slices.Equal(names, []string{"store"}) {
		t.Errorf("left: %v, %v", names, err)
	}
	install(t, "/copy", o, full, more)
	cp := enginetest.Open(t, "/copy", o)
	if got := enginetest.Contents(t, cp); got != contents {
		t.Error("the copy differs")
	}
}

// partsOf splits a stream into its parts.
func partsOf(b []byte) (parts [][]byte) {
	for len(b) > 0 {
		n := 32 + (int(b[16]) | int(b[17])<<8 | int(b[18])<<16 | int(b[19])<<24)
		parts, b = append(parts, b[:n]), b[n:]
	}
	return parts
}

// Streams that do not belong together are refused, as is an incremental one alone, and a place where something is.
// Proves Z3 and Z5.
func TestCheckpointChain(t *testing.T) {
	t.Parallel()
	d, o, full, more, _ := mixedStreams(t)
	_, _, other, _, _ := mixedStreams(t)
	for name, streams := range map[string][][]byte{
		"incremental alone": {more}, "another store": {other, more}, "twice": {full, more, more},
		"two complete ones": {full, full},
	} {
		if _, err := engine.Install(t.Context(), "/copy", o, readers(streams...)...); !errors.Is(err, engine.ErrChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := engine.Install(t.Context(), "/copy", o); err == nil {
		t.Error("a store was made of no stream")
	}
	if _, err := engine.Install(t.Context(), "/store", o, readers(full)...); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a store: %v", err)
	}
	if names, err := d.ReadDir("/"); err != nil || !slices.Equal(names, []string{"store"}) {
		t.Errorf("left: %v, %v", names, err)
	}
	if info, err := engine.VerifyCheckpoint(t.Context(), readers(more)...); err != nil || info.Since == 0 {
		t.Errorf("an incremental stream alone: %+v, %v", info, err)
	}
}

// A copy that has gone on by itself does not continue the original, even if the LSNs fit. Proves Z5.
func TestCheckpointOfACopy(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}, seam.Options{FS: d})
	pc := enginetest.Open(t, "/store", o)
	enginetest.Busy(t, pc, 50, 1)
	install(t, "/copy", o, streamOf(t, take(t, pc), 0))
	cp := enginetest.Open(t, "/copy", o)
	for _, c := range []*engine.PageCache[[]byte]{pc, cp} {
		enginetest.Busy(t, c, 200, 2)
	}
	c := take(t, pc)
	full := streamOf(t, c, 0)
	enginetest.Busy(t, cp, 200, 3)
	more := streamOf(t, take(t, cp), c.LSN())
	_, err := engine.Install(t.Context(), "/both", o, readers(full, more)...)
	if !errors.Is(err, engine.ErrChain) || !strings.Contains(err.Error(), "lacks the segment") {
		t.Error(err)
	}
}

// chained returns a stream of parts, the checksums of whose headers are made right.
func chained(parts [][]byte) (b []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := uint32(0)
	for i, p := range parts {
		p = bytes.Clone(p)
		if i == len(parts)-1 {
			binary.LittleEndian.PutUint64(p[32:], uint64(i))
			binary.LittleEndian.PutUint64(p[40:], uint64(len(b)))
			binary.LittleEndian.PutUint32(p[24:], crc32.Checksum(p[32:], table))
		}
		crc = crc32.Update(crc, table, p[:28])
		binary.LittleEndian.PutUint32(p[28:], crc)
		b = append(b, p...)
	}
	return b
}

// A stream with right checksums that lacks a blob, or part of a snapshot, is not installed: the store that it makes is
// looked at before it gets its name. Proves Z3.
func TestInstallLooksAtTheStore(t *testing.T) {
	t.Parallel()
	d, o, full, _, _ := mixedStreams(t)
	const kindSnapshotData, kindBlob = 5, 7
	for _, kind := range []byte{kindSnapshotData, kindBlob} {
		parts := partsOf(full)
		i := slices.IndexFunc(parts, func(p []byte) bool { return p[6] == kind })
		if i < 0 {
			t.Fatalf("the stream has no part of kind %d", kind)
		}
		if kind == kindBlob {
			parts = slices.Delete(parts, i, i+1)
		} else {
			p := bytes.Clone(parts[i])
			p[len(p)-1] ^= 1
			binary.LittleEndian.PutUint32(p[24:], crc32.Checksum(p[32:], crc32.MakeTable(crc32.Castagnoli)))
			parts[i] = p
		}
		b := chained(parts)
		if _, err := engine.VerifyCheckpoint(t.Context(), readers(b)...); err != nil {
			t.Fatalf("kind %d: %v", kind, err)
		}
		if _, err := engine.Install(t.Context(), "/copy", o, readers(b)...); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("kind %d: %v", kind, err)
		}
		if names, err := d.ReadDir("/"); err != nil || !slices.Equal(names, []string{"store"}) {
			t.Errorf("kind %d: left: %v, %v", kind, names, err)
		}
	}
}

// The power fails at every operation of an Install. Then the store is there as a whole or not at all, and Install can
// be repeated. Proves Z3.
func TestInstallPowerCut(t *testing.T) {
	t.Parallel()
	_, o, full, more, contents := mixedStreams(t)
	step := 1
	if testing.Short() {
		step = 5
	}
	whole, absent := 0, 0
	for at, crashed := 1, true; crashed; at += step {
		d := simdisk.New(uint64(at), simdisk.Options{})
		if err := d.MkdirAll("/backup"); err != nil {
			t.Fatal(err)
		}
		on := *o
		enginetest.WithSeam(&on, seam.Options{FS: d})
		d.CrashAfter(at)
		_, err := engine.Install(t.Context(), "/backup/copy", &on, readers(full, more)...)
		if crashed = d.Crashed(); !crashed && err != nil {
			t.Fatal(err)
		}
		done := err == nil
		d = d.Crash(uint64(at))
		enginetest.WithSeam(&on, seam.Options{FS: d})
		names, err := d.ReadDir("/backup")
		if err != nil || done && !slices.Contains(names, "copy") {
			t.Fatalf("crash at operation %d: %v, %v after an Install that returned no error: %v", at, names, err, done)
		}
		if !slices.Contains(names, "copy") {
			absent++
			install(t, "/backup/copy", &on, full, more)
		} else {
			whole++
		}
		pc := enginetest.Open(t, "/backup/copy", &on)
		if got := enginetest.Contents(t, pc); got != contents {
			t.Fatalf("crash at operation %d: the copy differs", at)
		}
		enginetest.Close(t, pc)
		if names, err := d.ReadDir("/backup"); err != nil || !slices.Equal(names, []string{"copy"}) {
			t.Fatalf("crash at operation %d: left: %v, %v", at, names, err)
		}
	}
	if whole == 0 || absent == 0 {
		t.Errorf("%d crashes before the store had its name, %d after", absent, whole)
	}
}

// A disk that is full refuses an Install, and nothing stays of it. Proves Z3.
func TestInstallFullDisk(t *testing.T) {
	t.Parallel()
	_, o, full, more, contents := mixedStreams(t)
	for room := int64(0); ; room += 40_000 {
		d := simdisk.New(1, simdisk.Options{})
		d.SetCapacity(room + 1)
		on := *o
		enginetest.WithSeam(&on, seam.Options{FS: d})
		_, err := engine.Install(t.Context(), "/copy", &on, readers(full, more)...)
		if err == nil {
			d.SetCapacity(0)
			pc := enginetest.Open(t, "/copy", &on)
			if got := enginetest.Contents(t, pc); got != contents {
				t.Error("the copy differs")
			}
			return
		}
		if !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("%d bytes: %v", room, err)
		}
		if names, err := d.ReadDir("/"); err != nil || len(names) > 0 {
			t.Fatalf("%d bytes: left: %v, %v", room, names, err)
		}
	}
}

// A checkpoint is written while the disk of its store is full, and the store works again when there is room. Proves
// rule 19.
func TestCheckpointFullDisk(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 5, 500)
	enginetest.Flush(t, pc)
	contents := enginetest.Contents(t, pc)
	c := take(t, pc)
	d.SetCapacity(1)
	full := false
	for n := 0; !full && n < 10_000; n++ {
		tx := enginetest.Begin(t, pc)
		p, err := pc.Get(tx, pids[0])
		if err == nil {
			_, _, err = pc.Replace(tx, pids[0], p.Ptr, make([]byte, 3000))
		}
		tx.End()
		if full = errors.Is(err, engine.ErrNoSpace); err != nil && !full {
			t.Fatal(err)
		}
	}
	if !full {
		t.Fatal("the disk was never full")
	}
	b := streamOf(t, c, 0)
	d.SetCapacity(0)
	install(t, "/copy", o, b)
	cp := enginetest.Open(t, "/copy", o)
	if got := enginetest.Contents(t, cp); got != contents {
		t.Error("the copy differs")
	}
	c.Close()
	enginetest.Churn(t, pc, pids, 3)
}

// The power of the store's own disk fails while a checkpoint is open: nothing of it stays.
func TestCheckpointCrash(t *testing.T) {
	t.Parallel()
	for at := 1; at < 60; at += 3 {
		d := simdisk.New(uint64(at), simdisk.Options{})
		o := enginetest.SimOptions(d)
		pc := enginetest.Open(t, "/store", o)
		enginetest.NoCheck(t, pc)
		pids := enginetest.AllocateMany(t, pc, 5, 500)
		enginetest.Flush(t, pc)
		contents := enginetest.Contents(t, pc)
		c := take(t, pc)
		d.CrashAfter(at)
		var b bytes.Buffer
		_, err := c.WriteTo(&b)
		if err == nil {
			if info, err := engine.VerifyCheckpoint(t.Context(), &b); err != nil || info.LSN != c.LSN() {
				t.Fatal(info, err)
			}
		}
		next := d.Crash(1)
		c.Close()
		_ = pc.Close()
		pc = enginetest.OpenSim(t, next)
		if got := enginetest.Contents(t, pc); got != contents {
			t.Error("the store differs after a crash")
		}
		enginetest.Churn(t, pc, pids, 3)
		enginetest.Close(t, pc)
	}
}

// A store that is open read-only has checkpoints, also if it was not closed cleanly.
func TestCheckpointReadOnly(t *testing.T) {
	t.Parallel()
	d, pid := enginetest.DirtyStore(t, simdisk.New(1, simdisk.Options{}))
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	pc := enginetest.Open(t, "/store", o)
	c := take(t, pc)
	b := streamOf(t, c, 0)
	install(t, "/copy", enginetest.SimOptions(d), b)
	cp := enginetest.Open(t, "/copy", enginetest.SimOptions(d))
	if p := enginetest.Get(t, cp, pid); string(p.Value) != "durable" {
		t.Errorf("the page is %q", p.Value)
	}
}

// An empty store has a checkpoint.
func TestCheckpointOfNothing(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	install(t, "/copy", enginetest.SimOptions(d), streamOf(t, take(t, pc), 0))
	cp := enginetest.Open(t, "/copy", enginetest.SimOptions(d))
	if !cp.WasRecovered() {
		t.Error("the copy is a new store")
	}
	if pid, _ := enginetest.Allocate(t, cp, []byte("first")); pid != engine.FirstUserPage {
		t.Errorf("the first page is %d", pid)
	}
}

// slowWriter calls a function in the middle of a stream.
type slowWriter struct {
	n, at int
	close func()
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.n++; w.n == w.at {
		w.close()
	}
	return len(p), nil
}

// A Write ends with ErrClosed when the store or the checkpoint is closed, and neither waits for the other. Closing them
// in any order does no harm.
func TestCheckpointIsClosed(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"store", "checkpoint"} {
		d := simdisk.New(1, simdisk.Options{})
		pc := enginetest.OpenSim(t, d)
		enginetest.Churn(t, pc, enginetest.AllocateMany(t, pc, 5, 500), 5)
		c := take(t, pc)
		done := make(chan struct{})
		w := &slowWriter{at: 5, close: func() {
			if what == "store" {
				enginetest.Close(t, pc)
				close(done)
				return
			}
			go func() {
				c.Close()
				close(done)
			}()
			for { // until Close has begun: it waits for this call
				cp, err := engine.OpenCheckpoint(c, engine.Bytes{}, nil)
				if err == nil {
					err = cp.Close()
				}
				if errors.Is(err, engine.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}}
		if _, err := c.WriteTo(w); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("the %s was closed: %v", what, err)
		}
		<-done
		if _, err := c.WriteTo(io.Discard); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("after the %s was closed: %v", what, err)
		}
	}
}

// A Write gives up when its context ends, with the context's error.
func TestCheckpointContext(t *testing.T) {
	t.Parallel()
	pc := enginetest.OpenSim(t, simdisk.New(1, simdisk.Options{}))
	enginetest.Allocate(t, pc, []byte("page"))
	c := take(t, pc)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Write(ctx, io.Discard, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := pc.Checkpoint(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	w := &slowWriter{at: 1, close: func() { // in the middle of another Write
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := c.Write(ctx, io.Discard, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("while another stream is written: %v", err)
		}
	}}
	if _, err := c.WriteTo(w); err != nil {
		t.Error(err)
	}
	if _, err := c.Write(t.Context(), io.Discard, c.LSN()+1); !errors.Is(err, engine.ErrChain) {
		t.Errorf("a stream since an LSN above the checkpoint: %v", err)
	}
}

// A checkpoint of which a message is corrupt is not written: the error says where. The store goes on.
func TestCheckpointOfCorruption(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.NoCheck(t, pc)
	pids := enginetest.AllocateMany(t, pc, 5, 500)
	enginetest.Churn(t, pc, pids, 3)
	c := take(t, pc)
	f, err := d.Open("/store/log", vfs.FlagWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	_, err = c.WriteTo(io.Discard)
	var ce *engine.CorruptError
	if !errors.As(err, &ce) {
		t.Fatal(err)
	}
	if off, known := ce.Place.Offset(); !known || off > 5000 || off < 4096 {
		t.Errorf("at offset %v: %v", off, err)
	}
	enginetest.Churn(t, pc, pids, 1)
}
