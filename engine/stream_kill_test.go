package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/osfs"
)

var (
	streamKills = flag.Int("streamkill.lives", 40, "the number of lives of TestStreamKill; with -short at most 8")
	streamCuts  = flag.Int("streamkill.cuts", 20, "the number of lives of TestStreamPowerCut on each file system")
	streamLife  = flag.Uint64("streamkill.seed", 1, "the seed of the load and the times of both")
)

// streamKillEnv holds the streamSpec of a child.
const streamKillEnv = "PAGECACHE_STREAM_CHILD"

// streamKillers is the number of goroutines of a child. Each has a stream, so that its changes have one order. The last
// stream is idle most of the time.
const streamKillers = 4

// streamSpec is the order that a child gets.
type streamSpec struct {
	Dir  string
	Life uint64 // from 1
	Seed uint64
	Lie  bool // a planted fault: the child only appends, and acknowledges what it has not made stable
	// LieOnce, if it is set, is a file: once it exists, each goroutine acknowledges a change that it does not make, and
	// then makes no more.
	LieOnce string
}

// streamOp is a change of a stream that a child begins.
type streamOp struct {
	ID   engine.StreamID
	Op   uint64 // its number; the values contain it
	Kind byte   // a append, s append and wait, n note, t truncate after, d drop below
	Seq  engine.Seq
	N    int  // of records; of a note the length of its value, -1 to remove it; of others 0: no change
	Both bool // an append sets a note, too
}

// value returns the bytes of a record of the operation.
func (o streamOp) value(seq engine.Seq) []byte {
	h := (uint64(seq)*31 + o.Op) * 0x9e3779b97f4a7c15 >> 32
	n := int(h % 400)
	if h%13 == 0 {
		n = int(h % 7000)
	}
	if h%29 == 0 && o.N == 1 { // longer than a segment
		n = 40_000 + int(h%100_000)
	}
	return fmt.Appendf(enginetest.Random(n, h), "%d %d %d", o.ID, seq, o.Op)
}

// note returns the note that the operation sets.
func (o streamOp) note() engine.Note {
	x := engine.Note{Name: fmt.Sprint("note ", o.Op%3)}
	if o.N >= 0 {
		x.Value = fmt.Appendf(enginetest.Random(o.N, o.Op), "%d", o.Op)
	}
	return x
}

// apply returns the state of the stream after the operation.
func (o streamOp) apply(n numbered) numbered {
	cutAt := func(q engine.Seq) int {
		i, _ := slices.BinarySearch(n.seqs, q)
		return i
	}
	switch o.Kind {
	case 'a', 's':
		next := numbered{slices.Clip(n.seqs), slices.Clip(n.values), n.notes}
		for q := o.Seq; q < o.Seq+engine.Seq(o.N); q++ {
			next.seqs, next.values = append(next.seqs, q), append(next.values, string(o.value(q)))
		}
		if o.Both {
			next = next.noted(o.note())
		}
		return next
	case 'n':
		return n.noted(o.note())
	case 't':
		return n.without(0, cutAt(o.Seq+1))
	}
	return n.without(cutAt(o.Seq), len(n.seqs))
}

// String describes the state of a stream.
func (n numbered) String() string {
	text := fmt.Sprintf("notes %.30q", n.notes)
	for i, q := range n.seqs {
		v := n.values[i]
		text += fmt.Sprintf(", %d: %d %q", q, len(v), v[max(0, len(v)-20):])
	}
	return text
}

// do does the operation, and reports whether it is stable.
func (o streamOp) do(s *engine.Stream) (bool, error) {
	ctx := context.Background()
	switch o.Kind {
	case 'a', 's':
		var records [][]byte
		for q := o.Seq; q < o.Seq+engine.Seq(o.N); q++ {
			records = append(records, o.value(q))
		}
		if o.Both {
			_, err := s.AppendNoted(o.Seq, records, o.note())
			return false, err
		}
		if o.Kind == 'a' {
			_, err := s.Append(o.Seq, records...)
			return false, err
		}
		return true, s.AppendStable(ctx, o.Seq, records...)
	case 'n':
		return true, s.SetNote(ctx, o.note().Name, o.note().Value)
	case 't':
		return o.N > 0, s.TruncateAfter(ctx, o.Seq) // else it has written nothing
	}
	return o.N > 0, s.DropBelow(ctx, o.Seq)
}

// nextStreamOp returns a random change of a stream with these bounds.
func nextStreamOp(rng *rand.Rand, id engine.StreamID, op uint64, first, last engine.Seq) streamOp {
	o := streamOp{ID: id, Op: op, Kind: 'a', Seq: last + 1, N: 1 + rng.IntN(4)}
	if last == 0 {
		o.Seq += engine.Seq(op)
	}
	k := rng.IntN(100)
	if id == streamKillers-1 {
		o.N, k = 1, k/4*5 // fewer changes that are not stable
	}
	switch {
	case k < 40:
		o.Both = rng.IntN(5) == 0
	case k < 70 || last == 0:
		o.Kind = 's'
	case k < 80:
		o.Kind, o.N = 'n', rng.IntN(120)-1
	case k < 88:
		o.Kind, o.Seq = 't', last-min(last-first, engine.Seq(rng.IntN(6)))
		o.N = int(last - o.Seq)
	default:
		o.Kind, o.Seq = 'd', last-min(last-first, engine.Seq(rng.IntN(60)))
		if id == streamKillers-1 {
			o.Seq = first
		}
		o.N = int(o.Seq - first)
	}
	return o
}

// This is the child process of TestStreamKill and TestStreamPowerCut.
func TestStreamKillChild(t *testing.T) {
	env := os.Getenv(streamKillEnv)
	if env == "" {
		t.Skip("only TestStreamKill starts it")
	}
	out := os.NewFile(3, "parent")
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		// One write, so that a killed child never leaves part of a line.
		if _, err := out.Write(fmt.Appendf(nil, format+"\n", args...)); err != nil {
			os.Exit(1) // the parent is gone
		}
	}
	var spec streamSpec
	if err := json.Unmarshal([]byte(env), &spec); err != nil {
		t.Fatal(err)
	}
	l, err := engine.OpenLog(spec.Dir, spec.options())
	if err != nil {
		say("x %q", err)
		t.Fatal(err)
	}
	say("o")
	var wg sync.WaitGroup
	for id := range engine.StreamID(streamKillers) {
		wg.Go(func() {
			s, err := l.Stream(id)
			rng := rand.New(rand.NewPCG(spec.Seed, spec.Life<<8|uint64(id)))
			for op := spec.Life << 20; err == nil; op++ {
				first, last := s.Bounds()
				o := nextStreamOp(rng, id, op, first, last)
				if spec.Lie {
					o = streamOp{ID: id, Op: op, Kind: 'a', Seq: last + 1, N: 1}
				}
				line, _ := json.Marshal(o)
				say("b%s", line)
				var stable bool
				if spec.LieOnce != "" {
					if _, missing := os.Stat(spec.LieOnce); missing == nil {
						say("a %d %d", id, op)
						select {}
					}
				}
				if stable, err = o.do(s); err == nil && (stable || spec.Lie) {
					say("a %d %d", id, op)
				}
				if id == streamKillers-1 {
					time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
				}
			}
			say("x %q", err)
		})
	}
	wg.Wait()
}

func (s streamSpec) options() *engine.Options {
	o := &engine.Options{SegmentSize: 32 << 10, IOBuffers: 3, FlushEvery: 5 * time.Millisecond}
	if s.Lie {
		o.FlushEvery, o.SegmentSize = -1, 0 // appends become durable only if a call makes them so
	}
	return o
}

// streamLives is a log on a real file system whose processes are killed one after another, and what its streams may
// hold.
type streamLives struct {
	t    *testing.T
	spec streamSpec
	rng  *rand.Rand
	now  [streamKillers]numbered
	// cut cuts the power just before a child is killed, and restore turns it on again. If nil, only the child is
	// killed.
	cut, restore func() error
	ops, acks    int // counts
	late         int // acknowledgments that came after the power was cut
	lost         int // times that a stream did not have all of those
}

// life runs a child until it is killed, and compares the streams afterwards.
func (x *streamLives) life() error {
	x.spec.Life++
	env, err := json.Marshal(x.spec)
	if err != nil {
		return err
	}
	c := enginetest.Child{
		Test: "TestStreamKillChild", Env: []string{streamKillEnv + "=" + string(env)},
		After: time.Duration(x.rng.IntN(150)) * time.Millisecond, Cut: x.cut, Restore: x.restore,
	}
	if x.rng.IntN(4) > 0 { // else while it opens the log, perhaps
		c.Ready = func(line string) bool { return line == "o" }
	}
	lines, sure, err := c.Live()
	if err != nil {
		return err
	}
	return x.compare(lines, sure)
}

// compare finds for each stream the operation after which the log shows it: the last that was acknowledged, or a later
// one. It believes the acknowledgments in the first sure lines.
func (x *streamLives) compare(lines []string, sure int) error {
	var past [streamKillers][]numbered
	var ops [streamKillers][]uint64
	var late [streamKillers]uint64 // the last change that was acknowledged as the power was cut
	for id, n := range x.now {
		past[id], ops[id] = []numbered{n}, []uint64{0}
	}
	for i, line := range lines {
		switch line[0] {
		case 'b':
			var o streamOp
			if err := json.Unmarshal([]byte(line[1:]), &o); err != nil {
				return err
			}
			x.ops++
			last := past[o.ID][len(past[o.ID])-1]
			past[o.ID], ops[o.ID] = append(past[o.ID], o.apply(last)), append(ops[o.ID], o.Op)
		case 'a':
			var id int
			var op uint64
			if _, err := fmt.Sscanf(line, "a %d %d", &id, &op); err != nil {
				return err
			}
			if i >= sure {
				x.late, late[id] = x.late+1, op
				continue
			}
			x.acks++
			for len(ops[id]) > 0 && ops[id][0] < op {
				past[id], ops[id] = past[id][1:], ops[id][1:]
			}
		case 'x':
			if x.cut == nil { // else the child may have noticed
				return errors.New(line)
			}
		}
	}
	o := x.spec.options()
	o.ReadOnly = x.rng.IntN(2) == 0 && x.spec.Life > 1
	l, err := engine.OpenLog(x.spec.Dir, o)
	if err != nil {
		return err
	}
	for id := range past {
		s, err := l.Stream(engine.StreamID(id))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		got := numbered{notes: map[string]string{}}
		for r, err := range s.Records(0) {
			if err != nil {
				return errors.Join(err, l.Close())
			}
			got.seqs, got.values = append(got.seqs, r.Seq), append(got.values, string(r.Bytes))
		}
		for _, name := range s.Notes() {
			v, _ := s.Note(name)
			got.notes[name] = string(v)
		}
		same := func(n numbered) bool {
			return slices.Equal(n.seqs, got.seqs) && slices.Equal(n.values, got.values) &&
				maps.Equal(n.notes, got.notes)
		}
		i := slices.IndexFunc(past[id], same)
		if i < 0 {
			var may []string
			for i, n := range past[id] {
				may = append(may, fmt.Sprintf("after %d: %s", ops[id][i], n))
			}
			return errors.Join(enginetest.Violated("read only %v, stream %d: %s\nwant one of\n%s", o.ReadOnly, id, got,
				strings.Join(may, "\n")), l.Close())
		}
		x.now[id] = past[id][i]
		all := late[id] == 0
		for i, n := range past[id] {
			all = all || ops[id][i] >= late[id] && same(n)
		}
		if !all {
			x.lost++
		}
	}
	return l.Close()
}

func newStreamLives(t *testing.T, dir string) *streamLives {
	x := &streamLives{t: t, rng: rand.New(rand.NewPCG(*streamLife, 5))}
	x.spec = streamSpec{Dir: filepath.Join(dir, "log"), Seed: *streamLife}
	for id := range x.now {
		x.now[id].notes = map[string]string{}
	}
	return x
}

func (x *streamLives) run(lives int) {
	x.t.Helper()
	for i := range lives {
		if err := x.life(); err != nil {
			x.t.Fatalf("seed %d, life %d: %v", *streamLife, i+1, err)
		}
	}
	x.t.Logf("%d lives: %d changes, %d acknowledged, and %d as the power was cut, which a stream did not have %d times",
		lives, x.ops, x.acks, x.late, x.lost)
	if x.acks == 0 {
		x.t.Error("nothing was acknowledged")
	}
}

// A process is killed while it appends to streams, sets notes, truncates, drops, and carries an idle stream forward on
// a real file system, or while it recovers the log. Each stream is then as after one of its changes: the last that was
// acknowledged, or a later one. Proves S1 to S3, S6 and S7.
func TestStreamKill(t *testing.T) {
	t.Parallel()
	lives := *streamKills
	if testing.Short() {
		lives = min(lives, 8)
	}
	newStreamLives(t, t.TempDir()).run(lives)
}

// The harness of TestStreamKill finds a child that acknowledges changes that it has not made stable, if the power is
// cut or the child is killed.
func TestStreamKillFindsLies(t *testing.T) {
	t.Parallel()
	x := newStreamLives(t, t.TempDir())
	x.spec.Lie = true
	for range 20 { // in case children are killed before they do anything
		err := x.life()
		if v := enginetest.Violation(""); errors.As(err, &v) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("no false acknowledgment was found")
}

// The harness does not believe acknowledgments that a child gives once the power is cut: a file system that is being
// shut down may report writes as durable that are not. When a real machine loses power, there are none.
func TestStreamKillDoubtsLateAcks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := newStreamLives(t, dir)
	x.spec.LieOnce = filepath.Join(dir, "cut")
	x.cut = func() error {
		err := os.WriteFile(x.spec.LieOnce, nil, 0o600)
		time.Sleep(100 * time.Millisecond)
		return err
	}
	x.restore = func() error { return os.Remove(x.spec.LieOnce) }
	for x.spec.Life < 4 || x.lost == 0 && x.spec.Life < 50 {
		if err := x.life(); err != nil {
			t.Fatal(err)
		}
	}
	if x.lost == 0 {
		t.Error("no change was acknowledged after the cut and lost")
	}
}

// The same as TestStreamKill, with the power of the file system cut.
func TestStreamPowerCut(t *testing.T) {
	t.Parallel()
	for kind, mib := range powercutMiB {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes seconds")
			}
			m := newLoopMount(t, kind, mib)
			base := filepath.Join(m.dir, "base")
			if err := errors.Join(os.Mkdir(base, 0o755), enginetest.SyncDir(osfs.OS, m.dir)); err != nil {
				t.Fatal(err)
			}
			x := newStreamLives(t, base)
			x.cut, x.restore = m.cut, m.restore
			x.run(*streamCuts)
		})
	}
}
