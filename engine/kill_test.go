package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
)

var (
	killRounds = flag.Int("kill.rounds", 8, "how many rounds of killing TestKill goes through; with -short at most 3")
	killSeed   = flag.Uint64("kill.seed", 1, "what decides the options, the load and when each child of TestKill is killed")
	killDir    = flag.String("kill.dir", "", "where TestKill puts its stores [a temporary directory]")
)

// killStore is a store on a real file system and what is known of it. Its children come one after another.
type killStore struct {
	dir    string
	size   int // of its segments
	owners [killWorkers]killOwner
	ids    int64 // the highest that was handed out
	end    LSN   // of the log, when it was last looked at
	gen    int64 // of the last opening
	life   uint64
	exists bool
	opened time.Duration // how long the last opening took
	// cut cuts the power just before a child is killed, and restore gives it back; nil: only the child is killed.
	cut, restore func() error
}

// killOwner is what a goroutine's changes come to.
type killOwner struct {
	pages map[PageID][]byte // 0: a page whose id is not known
	root  PageID
}

func (o *killOwner) apply(g int, op killOp) {
	frag := killRecord(op.pid, g, op.seq, op.size)
	switch op.kind {
	case killAllocate:
		o.pages[op.pid] = killRecord(0, g, op.seq, op.size)
	case killLink:
		o.pages[op.pid] = slices.Concat(o.pages[op.pid], frag)
	case killReplace:
		o.pages[op.pid] = frag
	case killFree:
		delete(o.pages, op.pid)
	case killRoot:
		o.root = PageID(op.seq)
	}
}

// is reports whether o is what was found. A page whose id was not known gets it.
func (o *killOwner) is(found killOwner) error {
	if o.root != found.root {
		return violated("the root is %v, want %v", found.root, o.root)
	}
	if v, ok := o.pages[0]; ok {
		for pid, f := range found.pages {
			if _, known := o.pages[pid]; !known && bytes.Equal(v, f) {
				o.pages[pid] = v
				delete(o.pages, 0)
				break
			}
		}
	}
	for pid, v := range o.pages {
		if f, ok := found.pages[pid]; !ok || !bytes.Equal(v, f) {
			return violated("page %d, there %v, is %s, want %s", pid, ok, killBrief(f), killBrief(v))
		}
	}
	for pid, f := range found.pages {
		if _, ok := o.pages[pid]; !ok {
			return violated("page %d is %s, want none", pid, killBrief(f))
		}
	}
	return nil
}

func killBrief(v []byte) string {
	if len(v) == 0 {
		return "nothing"
	}
	_, seq, err := killParse(0, v)
	return fmt.Sprintf("%s (last record %d, %v)", brief(v), seq, err)
}

// cut asks whether the log may end at end (O1, O2), and how many of each goroutine's changes are there then: from, to.
func (l *killLife) cut(end LSN) (from, to [killWorkers]int, err error) {
	if end <= l.stable {
		return from, to, violated("the log ends at LSN %d, and all to %d was stable", end, l.stable)
	}
	for g, ops := range l.ops {
		for from[g] < len(ops) && ops[from[g]].hi < end {
			from[g]++
		}
		for to[g] = from[g]; to[g] < len(ops) && ops[to[g]].lo < end; to[g]++ {
		}
		if to[g] < l.acked[g] {
			return from, to, violated("the log ends at LSN %d, after %d changes of goroutine %d; %d were acknowledged", end, to[g], g, l.acked[g])
		}
		from[g] = max(from[g], l.acked[g])
		for _, b := range l.batches[g] {
			if b.begin < end && (!b.sealing || b.end >= end) {
				return from, to, violated("the log ends at LSN %d, in the batch %+v", end, b)
			}
		}
	}
	return from, to, nil
}

// cuts reports whether a batch of goroutine g is cut in two if n of its changes are there.
func (l *killLife) cuts(g, n int) bool {
	for _, b := range l.batches[g] {
		if last := b.last; n > b.first && (!b.sealing || n < last) {
			return true
		}
	}
	return false
}

// check asks the oracles about a store that was opened after its log was found to end at end, and takes over what it holds.
func (s *killStore) check(pc *PageCache[[]byte], l *killLife, end LSN) error {
	from, to, err := l.cut(end)
	if err != nil {
		return err
	}
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	ts := int64(tx.TS())
	if err := l.id(s, ts); err != nil {
		return err
	}
	if delete(l.ids, ts); pc.core.store.Dir == s.dir { // else it was handed out in a copy
		l.ids[ts] = true
	}
	found, err := killFind(pc, tx)
	if err != nil {
		return err
	}
	for g := range s.owners {
		o := killOwner{maps.Clone(s.owners[g].pages), s.owners[g].root}
		var errs []error
		n := 0
		for ; n <= to[g]; n++ {
			if n > 0 {
				o.apply(g, l.ops[g][n-1])
			}
			if n < from[g] {
				continue
			}
			err := o.is(found[g])
			if err == nil && l.cuts(g, n) {
				err = violated("a batch is there by half")
			}
			if err == nil {
				break
			}
			errs = append(errs, fmt.Errorf("after %d changes of goroutine %d: %w", n, g, err))
		}
		if n > to[g] {
			return fmt.Errorf("goroutine %d: of %d changes %d were acknowledged, the log holds %d to %d: %w", g, len(l.ops[g]), l.acked[g],
				from[g], to[g], errors.Join(errs...))
		}
		s.owners[g] = o
	}
	s.end = end
	for id := range l.ids {
		s.ids = max(s.ids, id)
	}
	return nil
}

// killFind reads all that is in a store.
func killFind(pc *PageCache[[]byte], tx *Tx) (found [killWorkers]killOwner, err error) {
	roots, err := pc.Meta(tx)
	if err != nil {
		return found, err
	}
	for g := range found {
		found[g].pages = map[PageID][]byte{}
		found[g].root = roots[killName(g)]
	}
	for pid := FirstUserPage; pid < pc.pages.IDs.Next()+3; pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return found, err
		}
		if p.Kind == KindMaterialized {
			g, _, err := killParse(pid, p.Value)
			if err != nil {
				return found, err
			}
			found[g].pages[pid] = p.Value
		}
	}
	return found, nil
}

// child runs a child and kills it a while after it was opened, or after it has begun to open.
func (s *killStore) child(spec killSpec, opening bool, after time.Duration, procs int) (*killLife, error) {
	env, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), killEnv+"="+string(env), fmt.Sprintf("GOMAXPROCS=%d", procs))
	var said bytes.Buffer
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{w}, &said, &said
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	l := &killLife{ids: map[int64]bool{}, stable: -1}
	marks, eof := make(chan byte, 8), make(chan struct{})
	go func() {
		defer close(eof)
		for in := bufio.NewReaderSize(r, 64<<10); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return // the last line is a whole one: a write of this size to a pipe is
			}
			l.lines = append(l.lines, line[:len(line)-1])
			l.heard.Add(1)
			if line[0] == 's' || line[0] == 'o' {
				marks <- line[0]
			}
		}
	}()
	mark, late := map[bool]byte{true: 's', false: 'o'}[opening], time.After(30*time.Second)
wait:
	for {
		select {
		case m := <-marks:
			if m == mark {
				time.Sleep(after)
				break wait
			}
		case <-eof:
			break wait
		case <-late:
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
			<-eof
			err = errors.New("opening hangs")
			break wait
		}
	}
	l.sure = math.MaxInt
	if s.cut != nil {
		l.sure = int(l.heard.Load())
		err = errors.Join(err, s.cut())
	}
	_ = cmd.Process.Kill()
	<-eof
	_ = cmd.Wait()
	if s.restore != nil {
		err = errors.Join(err, s.restore())
	}
	if st := cmd.ProcessState.Sys().(syscall.WaitStatus); err == nil && s.cut == nil && st.Signal() != syscall.SIGKILL && st.ExitStatus() != 0 ||
		bytes.Contains(said.Bytes(), []byte("DATA RACE")) {
		err = fmt.Errorf("the child was not killed, it ended: %v", cmd.ProcessState)
	}
	if err != nil {
		err = fmt.Errorf("%w\nthe child said:\n%s", err, said.Bytes())
	}
	return l, err
}

// await waits until nothing of a killed process holds the store any more: trap 19.
func (s *killStore) await() error {
	f, err := osfs.OS.Open(filepath.Join(s.dir, logstore.LogName), vfs.FlagWrite)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(logstore.LockPatience); ; time.Sleep(time.Millisecond) {
		if err = f.Lock(vfs.LockExclusive); !errors.Is(err, vfs.ErrLocked) || time.Now().After(deadline) {
			return err
		}
	}
}

// killRun is all that TestKill does with a seed.
type killRun struct {
	rng    *rand.Rand
	base   string // where stores are made
	copies string // where they are copied to
	s      *killStore
	stores int
	lie    bool
	last   Options // of the last child
	full   int64   // bytes of log from which on a new store is begun
	// see killStore
	cut, restore func() error
	lines        []string // of the last child
	kept         string   // a copy of the store before anybody opened it after that
	// Counts.
	ops, acks, batches, ids, unopened, closed int
}

// options are of one life; only the size of segments stays.
func (r *killRun) options() Options {
	rng := r.rng
	o := Options{SegmentSize: r.s.size, IOBuffers: 2 + rng.IntN(3), ConsolidateAfter: []int{1, 3, 10, 100}[rng.IntN(4)],
		FlushEvery:        []time.Duration{-1, time.Microsecond, time.Millisecond, 20 * time.Millisecond, 0}[rng.IntN(5)],
		IDPersistInterval: []uint64{1, 10, 1000, 0}[rng.IntN(4)], IO: []IO{IOAuto, IOSyscall}[rng.IntN(2)],
		Direct: []Direct{DirectAuto, DirectOff}[rng.IntN(2)], CacheCapacity: []int64{1, 8 << 10, 64 << 10, 0}[rng.IntN(4)],
		CopyOnRead: rng.IntN(4) == 0}
	if r.lie {
		o.SegmentSize, o.FlushEvery, o.IDPersistInterval = 0, -1, 0 // else what is full, or comes before a note of ids, is written without being asked for
	}
	return o
}

// fresh begins with a new store. The removal of the one before is durable: else a cut of the power brings it back, for good, and after some of them the disk is full.
func (r *killRun) fresh() error {
	there, err := filepath.Glob(filepath.Join(r.base, "store*"))
	if err == nil && r.s != nil {
		there = slices.DeleteFunc(there, func(dir string) bool { return dir == r.s.dir })
		err = errors.Join(os.RemoveAll(r.s.dir), osfs.OS.SyncDir(r.base))
	}
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("stores that were removed are back: %v", there)
	}
	r.s = &killStore{dir: filepath.Join(r.base, fmt.Sprintf("store%d", r.stores)), ids: -1, cut: r.cut, restore: r.restore}
	r.s.size = []int{64 << 10, 16 << 10, 0, 64 << 10}[r.stores%4]
	for g := range r.s.owners {
		r.s.owners[g].pages = map[PageID][]byte{}
	}
	r.stores++
	return nil
}

// round is one child, killed, and a look at what it left; or, while it is opening, several.
func (r *killRun) round(i int) error {
	if st, err := os.Stat(filepath.Join(r.base, fmt.Sprintf("store%d", r.stores-1), logstore.LogName)); r.s == nil || err == nil && st.Size() > r.full ||
		r.rng.IntN(6) == 0 {
		if err := r.fresh(); err != nil {
			return err
		}
	}
	opening, n := i%3 == 2, 1
	if opening {
		n += r.rng.IntN(3)
	}
	for ; n > 0; n-- {
		r.s.life++
		spec := killSpec{Dir: r.s.dir, Options: r.options(), Seed: r.rng.Uint64(), Life: r.s.life, Lie: r.lie}
		r.last = spec.Options
		after := time.Duration(3000+r.rng.IntN(147_000)) * time.Microsecond
		switch {
		case opening:
			after = time.Duration(r.rng.Int64N(int64(r.s.opened+r.s.opened/4) + int64(time.Millisecond)))
		case r.rng.IntN(4) == 0:
			// It is closed at about the time at which it is killed.
			spec.Close, spec.Calm = max(after-time.Duration(r.rng.IntN(10))*time.Millisecond, 1), r.rng.IntN(2) == 0
		}
		r.kept = r.s.dir
		l, err := r.s.child(spec, opening, after, 1+r.rng.IntN(4))
		if l == nil {
			return err
		}
		if r.lines = l.lines; err == nil {
			err = r.s.await()
		}
		if r.kept = filepath.Join(r.copies, "kept"); err == nil {
			if err = os.CopyFS(r.kept, os.DirFS(r.s.dir)); errors.Is(err, fs.ErrNotExist) {
				err = nil // killed before it made the directory
			}
		}
		for i, line := range l.lines {
			l.unsure = i >= l.sure
			if r.cut != nil && line[0] == 'x' && noticed(line) {
				continue
			}
			if err == nil {
				if err = l.read(r.s, line); err != nil && l.unsure {
					err = fmt.Errorf("%w\nas the power was cut", err)
				}
			}
		}
		if r.count(l); err != nil {
			return err
		}
		// Half of the time, and before an opening is killed, the store stays as it is: the look is at the copy.
		look, other := r.s.dir, r.kept
		if i%3 == 1 || n > 1 || r.rng.IntN(2) == 0 {
			look, other = other, look
		}
		r.kept = other
		if err := r.look(look, l); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(r.copies, "kept")); err != nil {
			return err
		}
	}
	return nil
}

// look opens what a child left in dir, asks the oracles and closes it.
func (r *killRun) look(dir string, l *killLife) error {
	end, found, err := scanEnd(osfs.OS, dir)
	if err != nil {
		return err
	}
	if !found && r.s.exists {
		return violated("the store is gone")
	}
	o := r.options()
	pc, err := Open(dir, Bytes{}, &o)
	if err != nil {
		return err
	}
	if err := r.s.check(pc, l, end); err != nil {
		return errors.Join(err, pc.Close())
	}
	r.s.exists = r.s.exists || dir == r.s.dir
	return pc.Close()
}

// noticed reports whether a child's line tells of the cut. Who was writing when ext4 gave up its journal is told that it is read-only.
func noticed(line string) bool {
	for _, err := range []error{syscall.EIO, syscall.EROFS, vfs.ErrFault} {
		if strings.Contains(line, err.Error()) {
			return true
		}
	}
	return false
}

// count notes what a child did.
func (r *killRun) count(l *killLife) {
	r.ids += len(l.ids)
	for g := range l.ops {
		r.ops, r.acks, r.batches = r.ops+len(l.ops[g]), r.acks+l.acked[g], r.batches+len(l.batches[g])
	}
	if !l.opened {
		r.unopened++
	}
	if l.closed {
		r.closed++
	}
}

// save keeps what is needed to look into a failure and says where.
func (r *killRun) save() string {
	dir, err := os.MkdirTemp("", "pagecache-kill.")
	if err == nil {
		_ = os.CopyFS(filepath.Join(dir, "store"), os.DirFS(r.kept)) // if there is one
		err = os.WriteFile(filepath.Join(dir, "lines"), []byte(strings.Join(r.lines, "\n")), 0o666)
	}
	if err != nil {
		return err.Error()
	}
	return dir
}

func newKillRun(t *testing.T, seed uint64) *killRun {
	base := t.TempDir()
	if *killDir != "" {
		var err error
		if base, err = os.MkdirTemp(*killDir, "kill."); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(base) })
	}
	return &killRun{rng: rand.New(rand.NewPCG(seed, 13)), base: base, copies: base, full: 48 << 20}
}

// A process that works on a store is killed, at work, while it closes the store or while it recovers it, many times over. Nothing that it
// acknowledged is lost, what it did is there up to some point and not beyond, batches are whole or absent, and no id comes again. Proves
// rule 5; traps 1, 7 and 11.
func TestKill(t *testing.T) {
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 3)
	}
	r := newKillRun(t, *killSeed)
	for i := range rounds {
		if err := r.round(i); err != nil {
			t.Logf("replay: go test ./engine -run 'TestKill$' -args -kill.seed=%d -kill.rounds=%d", *killSeed, i+1)
			t.Fatalf("seed %d, round %d, store %d, life %d: %v\nkept in %s", *killSeed, i, r.stores, r.s.life, err, r.save())
		}
	}
	t.Logf("%d rounds on %d stores: %d changes, %d acknowledged, %d batches, %d ids", rounds, r.stores, r.ops, r.acks, r.batches, r.ids)
	t.Logf("killed %d times before the store was open; closed %d times", r.unopened, r.closed)
}

// A child that acknowledges what it has not made stable is caught.
func TestKillFindsLies(t *testing.T) {
	r := newKillRun(t, 1)
	r.lie = true
	for i := range 2 {
		err := r.round(i)
		if v := violation(""); errors.As(err, &v) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("acknowledgments that nothing stands behind were not found out")
}
