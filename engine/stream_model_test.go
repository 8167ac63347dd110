package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

var streamSeeds = flag.Int("stream.seeds", 0, "seeds of TestStreamModel; 0: a few")

var streamTrace = flag.Bool("stream.trace", false, "TestStreamModel logs its operations")

var streamSeed = flag.Int("stream.seed", -1, "the only seed of TestStreamModel")

// numbered is the records of a stream, and its notes.
type numbered struct {
	seqs   []engine.Seq
	values []string
	notes  map[string]string // never changed
}

func (n numbered) without(i, j int) numbered {
	return numbered{n.seqs[i:j:j], n.values[i:j:j], n.notes}
}

// noted returns n with a note that is set, or removed if its value is nil.
func (n numbered) noted(x engine.Note) numbered {
	n.notes = maps.Clone(n.notes)
	if n.notes == nil {
		n.notes = map[string]string{}
	}
	if n.notes[x.Name] = string(x.Value); x.Value == nil {
		delete(n.notes, x.Name)
	}
	return n
}

// streamModel does random operations on the streams of a log, and knows what must be there.
type streamModel struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	d    *simdisk.Disk
	o    *engine.Options
	l    *engine.Log
	now  map[engine.StreamID]numbered
	// past are the states after each operation since the last that is known to be stable, which is past[0].
	past                     []map[engine.StreamID]numbered
	ops                      int
	full                     int64 // capacity of the disk; 0: none
	depth                    int   // the most crashes in a row that were tried
	refused, crashes, cleans int   // counts
	carried                  int   // times that the idle stream was carried forward
	longs                    int   // records longer than a segment that were appended
	idle                     bool  // stream idleID is changed rarely, and the others are longer
	pin                      *engine.Pin
	pinned                   []pinnedView // what was read while pin is open
}

// pinnedView is the bytes of a record that were read beside a pin, and a copy of them.
type pinnedView struct {
	copied string
	view   []byte
}

// idleID is the stream that is idle in some runs.
const idleID = 2000

func (m *streamModel) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d, operation %d: %s", m.seed, m.ops, fmt.Sprintf(format, args...))
}

// done notes that an operation has succeeded, with the state that it has made, and that all of the log is stable.
func (m *streamModel) trace(format string, args ...any) {
	if *streamTrace {
		m.t.Logf("%d: %s", m.ops, fmt.Sprintf(format, args...))
	}
}

func (m *streamModel) done(id engine.StreamID, n numbered, stable bool) {
	m.now = maps.Clone(m.now)
	m.now[id] = n
	m.past = append(m.past, m.now)
	if stable {
		m.past = []map[engine.StreamID]numbered{m.now}
	}
}

// failed handles the error of an operation that would have made the state n. It returns false if the disk has crashed.
func (m *streamModel) failed(err error, id engine.StreamID, n numbered) bool {
	if errors.Is(err, engine.ErrNoSpace) && m.full > 0 && !m.d.Crashed() {
		m.refused++
		return true
	}
	if !m.d.Crashed() {
		m.fatalf("%v", err)
	}
	old := m.now
	m.done(id, n, false)
	m.now = old
	return false
}

func (m *streamModel) value(seq engine.Seq) []byte {
	n := m.rng.IntN(300)
	if m.rng.IntN(20) == 0 || m.idle && m.rng.IntN(4) == 0 {
		n = m.rng.IntN(5000)
	}
	return fmt.Appendf(enginetest.Random(n, m.rng.Uint64()), "%d", seq)
}

func (m *streamModel) stream(id engine.StreamID) *engine.Stream {
	s, err := m.l.Stream(id)
	if err != nil {
		m.fatalf("%v", err)
	}
	return s
}

// step does one operation. It returns false if the disk has crashed.
func (m *streamModel) step() bool {
	m.ops++
	ctx := context.Background()
	id := engine.StreamID(m.rng.IntN(3)) * 1000
	if m.rng.IntN(3) == 0 {
		id = 0
	}
	if m.idle && id == idleID && m.rng.IntN(10) > 0 {
		id = 0
	}
	n, s := m.now[id], m.stream(id)
	last := engine.Seq(0)
	if len(n.seqs) > 0 {
		last = n.seqs[len(n.seqs)-1]
	}
	switch p := m.rng.IntN(100); {
	case p < 50:
		count := 1
		if m.rng.IntN(3) == 0 {
			count += m.rng.IntN(15)
		}
		seq := last + 1
		if m.rng.IntN(12) == 0 || last == 0 {
			seq += engine.Seq(m.rng.IntN(5))
		}
		var records [][]byte
		size := 0
		next := numbered{slices.Clip(n.seqs), slices.Clip(n.values), n.notes}
		for i := range count {
			b := m.value(seq + engine.Seq(i))
			if m.idle && id == idleID {
				b = b[:min(len(b), 100)]
			} else if i == 0 && m.rng.IntN(25) == 0 { // longer than a segment
				b = enginetest.Random(16<<10+m.rng.IntN(30<<10), m.rng.Uint64())
			}
			if size += len(b) + 40; size > 10000 && i > 0 {
				break
			}
			records = append(records, b)
			next.seqs, next.values = append(next.seqs, seq+engine.Seq(i)), append(next.values, string(b))
		}
		stable := m.rng.IntN(3) == 0
		var err error
		if m.rng.IntN(6) == 0 {
			stable = false
			notes := []engine.Note{m.note(), m.note()}[:1+m.rng.IntN(2)]
			for _, x := range notes {
				next = next.noted(x)
			}
			_, err = s.AppendNoted(seq, records, notes...)
		} else if stable {
			err = s.AppendStable(ctx, seq, records...)
		} else {
			_, err = s.Append(seq, records...)
		}
		m.trace("append %d to stream %d at %d, stable %v: %v", len(records), id, seq, stable, err)
		if err != nil {
			return m.failed(err, id, next)
		}
		if size > 16<<10 {
			m.longs++
		}
		m.done(id, next, stable)
	case p < 60 && last > 0:
		at := m.rng.IntN(len(n.seqs) + 1)
		after := engine.Seq(0)
		if at > 0 {
			after = n.seqs[at-1] + engine.Seq(m.rng.IntN(2))
			for at < len(n.seqs) && n.seqs[at] <= after {
				at++
			}
		}
		next := n.without(0, at)
		err := s.TruncateAfter(ctx, after)
		m.trace("truncate stream %d after %d: %v", id, after, err)
		if err != nil {
			return m.failed(err, id, next)
		}
		m.done(id, next, at < len(n.seqs)) // else it has written nothing
	case p < 72 && last > 0:
		at := m.rng.IntN(len(n.seqs) + 1)
		below := last + 1
		if at < len(n.seqs) {
			below = n.seqs[at]
		}
		next := n.without(at, len(n.seqs))
		place := m.placeOfIdle(id)
		err := s.DropBelow(ctx, below)
		if now := m.placeOfIdle(id); err == nil && now != place {
			m.carried++
		}
		m.trace("drop stream %d below %d: %v", id, below, err)
		if err != nil && !m.d.Crashed() && m.full > 0 && errors.Is(err, engine.ErrNoSpace) {
			first, _ := s.Bounds() // the records may be dropped and the space not freed
			if len(next.seqs) > 0 && first == next.seqs[0] || len(next.seqs) == 0 && first == 0 {
				m.done(id, next, false)
			}
			return true
		}
		if err != nil {
			return m.failed(err, id, next)
		}
		m.done(id, next, at > 0)
	case p < 75:
		x := m.note()
		err := s.SetNote(ctx, x.Name, x.Value)
		m.trace("set note %q of stream %d to %d bytes: %v", x.Name, id, len(x.Value), err)
		if err != nil {
			return m.failed(err, id, n.noted(x))
		}
		m.done(id, n.noted(x), true)
	case p < 79:
		if _, _, err := m.l.Write(m.value(0)); err != nil {
			return m.failed(err, id, n)
		}
	case p < 81:
		if _, err := m.l.WriteBatch([][]byte{m.value(0), m.value(0)}); err != nil {
			return m.failed(err, id, n)
		}
	case p < 84:
		if _, err := m.l.Flush(); err != nil {
			return m.failed(err, id, n)
		}
		m.done(id, n, true)
	case p < 86:
		m.endPin()
		if m.rng.IntN(3) > 0 {
			m.beginPin(id)
		}
	case p < 89:
		m.endPin()
		if err := m.l.Close(); err != nil {
			return m.failed(err, id, n)
		}
		m.cleans++
		m.done(id, n, true)
		return m.open()
	default:
		m.look(id)
	}
	return true
}

// placeOfIdle returns the LSN of the first record of the idle stream, unless that is the stream id or it is empty.
func (m *streamModel) placeOfIdle(id engine.StreamID) engine.LSN {
	if first, _ := m.stream(idleID).Bounds(); m.idle && id != idleID && first != 0 {
		if r, err := m.stream(idleID).Get(first); err == nil {
			return r.LSN
		}
	}
	return 0
}

// beginPin begins a pin and reads records of a stream, whose bytes must stay as they are.
func (m *streamModel) beginPin(id engine.StreamID) {
	pin, err := m.l.Pin()
	if err != nil {
		if !m.d.Crashed() {
			m.fatalf("%v", err)
		}
		return
	}
	m.pin, m.pinned = pin, nil
	for _, q := range m.now[id].seqs {
		if r, err := m.stream(id).Get(q); err == nil && len(m.pinned) < 20 {
			m.pinned = append(m.pinned, pinnedView{string(r.Bytes), r.Bytes})
		}
	}
}

// endPin compares what was read while the pin was open, and ends it.
func (m *streamModel) endPin() {
	if m.pin == nil {
		return
	}
	for _, v := range m.pinned {
		if v.copied != string(v.view) {
			m.fatalf("a record of %d bytes has changed beside a pin", len(v.view))
		}
	}
	m.pin.End()
	m.pin = nil
}

// note returns a note to set or remove.
func (m *streamModel) note() engine.Note {
	x := engine.Note{Name: strings.Repeat("n", 1+m.rng.IntN(4))}
	if m.rng.IntN(4) > 0 {
		x.Value = enginetest.Random(m.rng.IntN(150), m.rng.Uint64())
	}
	return x
}

// notesOf returns the notes of a stream.
func (m *streamModel) notesOf(s *engine.Stream) map[string]string {
	all := map[string]string{}
	for _, name := range s.Notes() {
		v, found := s.Note(name)
		if !found {
			m.fatalf("note %q is listed and has no value", name)
		}
		all[name] = string(v)
	}
	return all
}

// look compares a few records of a stream, and its notes.
func (m *streamModel) look(id engine.StreamID) {
	n, s := m.now[id], m.stream(id)
	if got := m.notesOf(s); !maps.Equal(got, n.notes) {
		m.fatalf("stream %d: notes %q, want %q", id, got, n.notes)
	}
	first, last := s.Bounds()
	if len(n.seqs) == 0 {
		if first != 0 || last != 0 {
			m.fatalf("stream %d: %d to %d, want none", id, first, last)
		}
		return
	}
	if first != n.seqs[0] || last != n.seqs[len(n.seqs)-1] {
		m.fatalf("stream %d: %d to %d, want %d to %d", id, first, last, n.seqs[0], n.seqs[len(n.seqs)-1])
	}
	for range 4 {
		q := first + engine.Seq(m.rng.Uint64N(uint64(last-first+3)))
		b, err := s.AppendTo([]byte("x"), q)
		i, found := slices.BinarySearch(n.seqs, q)
		switch {
		case m.d.Crashed():
		case found && (err != nil || string(b) != "x"+n.values[i]):
			m.fatalf("stream %d, record %d: %d bytes, want %d: %v", id, q, len(b)-1, len(n.values[i]), err)
		case !found && (!errors.Is(err, engine.ErrNoRecord) || string(b) != "x"):
			m.fatalf("stream %d, record %d: %v", id, q, err)
		}
	}
}

// contents returns what the streams of the log hold.
func (m *streamModel) contents() map[engine.StreamID]numbered {
	all := map[engine.StreamID]numbered{}
	for _, id := range m.l.Streams() {
		var n numbered
		for r, err := range m.stream(id).Records(0) {
			if err != nil {
				m.fatalf("%v", err)
			}
			n.seqs, n.values = append(n.seqs, r.Seq), append(n.values, string(r.Bytes))
		}
		n.notes = m.notesOf(m.stream(id))
		all[id] = n
	}
	return all
}

func sameStreams(a, b map[engine.StreamID]numbered) bool {
	for id := range 3 {
		x, y := a[engine.StreamID(id)*1000], b[engine.StreamID(id)*1000]
		if !slices.Equal(x.seqs, y.seqs) || !slices.Equal(x.values, y.values) ||
			!maps.Equal(x.notes, y.notes) {
			return false
		}
	}
	return true
}

// open opens the log, and finds out which of the states it shows. It returns false if the disk has crashed.
func (m *streamModel) open() bool {
	l, err := engine.OpenLog("/store", m.o)
	if err != nil {
		if !m.d.Crashed() {
			m.fatalf("%v", err)
		}
		return false
	}
	m.l = l
	got := m.contents()
	if m.d.Crashed() {
		return false
	}
	for _, old := range slices.Backward(m.past) {
		if sameStreams(got, old) {
			m.now, m.past = old, []map[engine.StreamID]numbered{old}
			return true
		}
	}
	var b strings.Builder
	for i, old := range append(slices.Clone(m.past), got) {
		for id := range 3 {
			n := old[engine.StreamID(id)*1000]
			fmt.Fprintf(&b, "\n%d: stream %d: notes %.5q, records %d", i, id*1000, n.notes, len(n.seqs))
			if len(n.seqs) > 0 {
				fmt.Fprintf(&b, ", %d to %d", n.seqs[0], n.seqs[len(n.seqs)-1])
			}
		}
	}
	m.fatalf("the log shows none of the states that it may show:%s", b.String())
	return false
}

// crash ends the opening with a crash, or with one in the next, and so on.
func (m *streamModel) crash() {
	for depth := 1; ; depth++ {
		m.depth = max(m.depth, depth)
		m.crashes++
		m.trace("crash")
		m.endPin()
		next := m.d.Crash(m.rng.Uint64())
		if m.l != nil {
			_ = m.l.Close()
			m.l = nil
		}
		m.d = next
		m.d.SetCapacity(m.full)
		m.o = m.options()
		if depth < 3 && m.rng.IntN(2) == 0 {
			m.d.CrashAfter(1 + m.rng.IntN(12))
		}
		if m.open() {
			return
		}
	}
}

func (m *streamModel) options() *engine.Options {
	o := enginetest.SimOptions(m.d)
	o.SegmentSize = 16 << 10
	o.IOBuffers = 2 + int(m.seed%3)
	return o
}

func (m *streamModel) run(ops int) {
	m.o = m.options()
	m.past = []map[engine.StreamID]numbered{{}}
	m.now = m.past[0]
	if !m.open() {
		m.crash()
	}
	until := m.rng.IntN(60)
	for range ops {
		if until--; until == 0 {
			m.d.CrashAfter(1 + m.rng.IntN(40))
		}
		if !m.step() || m.d.Crashed() || until < -30 {
			m.crash()
			until = m.rng.IntN(80)
		}
	}
	for id := range 3 {
		m.look(engine.StreamID(id) * 1000)
	}
	m.endPin()
	if err := m.l.Close(); err != nil && m.full == 0 && !m.d.Crashed() {
		m.fatalf("close: %v", err)
	}
}

// Whatever is done with the streams of a log, and wherever it crashes, an opening finds the state after one of the
// operations: after the last that was stable, or a later one. Up to three crashes follow each other, the later ones
// while the log is opened. Proves S1, S2 and S3.
func TestStreamModel(t *testing.T) {
	t.Parallel()
	seeds := 60
	if *streamSeeds > 0 {
		seeds = *streamSeeds
	} else if testing.Short() {
		seeds = 12
	}
	crashes, cleans, depth, refused, carried, longs := 0, 0, 0, 0, 0, 0
	for seed := range uint64(seeds) {
		if *streamSeed >= 0 && seed != uint64(*streamSeed) {
			continue
		}
		m := &streamModel{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 77)), idle: seed%2 == 1}
		m.d = simdisk.New(seed, simdisk.Options{Garbage: seed%4 == 1})
		if seed%3 == 2 {
			m.full = 16 << 10 * (6 + int64(seed%9))
			m.full += 64 << 10
		}
		m.d.SetCapacity(m.full)
		m.run(400)
		crashes, cleans, depth, refused = crashes+m.crashes, cleans+m.cleans, max(depth, m.depth), refused+m.refused
		carried, longs = carried+m.carried, longs+m.longs
	}
	t.Logf("%d crashes, up to %d in a row, %d clean closes, %d calls without space, %d times carried forward, "+
		"%d long records", crashes, depth, cleans, refused, carried, longs)
	if depth < 3 || refused == 0 || cleans == 0 || carried == 0 || longs == 0 {
		t.Errorf("%d crashes in a row, %d calls without space, %d clean closes, %d times carried forward, "+
			"%d long records", depth, refused, cleans, carried, longs)
	}
}
