package raftlog_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"pagecache/engine/pagetest"
	"pagecache/raft/raftlog"
)

// model is what a store has. It is never changed.
type model struct {
	first  uint64
	terms  []uint64 // of the entries from first on; the contents of an entry follow from its index and term
	keys   map[string]string
	staged uint64 // of this opening
	commit uint64
}

func (m model) last() uint64 {
	if len(m.terms) == 0 {
		return 0
	}
	return m.first + uint64(len(m.terms)) - 1
}

// entry returns the i-th entry.
func (m model) entry(i int) *raft.Log { return entryOf(m.first+uint64(i), m.terms[i]) }

// reopened returns the model without what an opening forgets.
func (m model) reopened() model {
	m.staged = 0
	return m
}

// difference returns an error if the store is not as the model.
func (m model) difference(s *raftlog.Store) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	if want := m.last(); last != want || want > 0 && first != m.first || want == 0 && first != 0 {
		return fmt.Errorf("entries %d to %d, want %d to %d", first, last, m.first, want)
	}
	for i := range m.terms {
		var got raft.Log
		if err := s.GetLog(m.first+uint64(i), &got); err != nil {
			return err
		}
		if err := sameEntry(&got, m.entry(i)); err != nil {
			return err
		}
	}
	if commit, err := s.GetCommitIndex(); err != nil || commit != min(m.commit, m.last()) {
		return fmt.Errorf("commit index %d, %v, want %d", commit, err, min(m.commit, m.last()))
	}
	for _, key := range modelKeys {
		got, err := s.Get([]byte(key))
		want, found := m.keys[key]
		if found != (err == nil) || err != nil && !errors.Is(err, raftlog.ErrKeyNotFound) || string(got) != want {
			return fmt.Errorf("key %s: %q, %v, want %q, %v", key, got, err, want, found)
		}
	}
	return nil
}

var modelKeys = []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}

// op is a change of a store.
type op struct {
	kind       opKind
	first, n   uint64 // of the entries to store; the range to delete, n being its end
	term       uint64
	key, value string
}

type opKind int

const (
	opStore opKind = iota
	opStage
	opDelete
	opSet
)

// nextOp returns a random change.
func nextOp(rng *rand.Rand, m model) op {
	switch k := rng.IntN(100); {
	case k < 55 || len(m.terms) == 0:
		o := op{kind: opStore, first: m.last() + 1, n: 1 + rng.Uint64N(4), term: rng.Uint64N(1000)}
		if isLong(o.term) {
			o.n = 1
		}
		if len(m.terms) == 0 {
			o.first = 1 + rng.Uint64N(1000)
		}
		return o
	case k < 65:
		return op{kind: opStage, n: m.first + rng.Uint64N(uint64(len(m.terms))+5)}
	case k < 85:
		value := fmt.Sprintf("%d %0*d", rng.Uint64(), rng.IntN(50), 0)
		return op{kind: opSet, key: modelKeys[rng.IntN(len(modelKeys))], value: value}
	case k < 92:
		return op{kind: opDelete, first: m.last() - min(rng.Uint64N(8), m.last()-m.first), n: m.last()}
	case k < 99:
		return op{kind: opDelete, first: m.first, n: m.last() - min(rng.Uint64N(60), m.last()-m.first)}
	}
	return op{kind: opDelete, first: m.first, n: m.last()}
}

// apply returns the model after the change.
func (o op) apply(m model) model {
	switch o.kind {
	case opStore:
		if len(m.terms) == 0 {
			m.first = o.first
		}
		m.terms = slices.Clip(m.terms)
		for range o.n {
			m.terms = append(m.terms, o.term)
		}
		if m.commit = min(m.commit, o.first-1); m.staged > 0 {
			m.commit = min(m.staged, m.last())
		}
		m.staged = 0
	case opStage:
		m.staged = o.n
	case opDelete:
		if o.first <= m.first {
			n := min(o.n+1-m.first, uint64(len(m.terms)))
			m.first, m.terms = m.first+n, m.terms[n:]
		} else {
			m.terms = m.terms[:o.first-m.first]
		}
	case opSet:
		m.keys = maps.Clone(m.keys)
		if m.keys == nil {
			m.keys = map[string]string{}
		}
		m.keys[o.key] = o.value
	}
	return m
}

// do changes a store.
func (o op) do(s *raftlog.Store) error {
	switch o.kind {
	case opStore:
		return s.StoreLogs(entries(o.first, int(o.n), o.term))
	case opStage:
		return s.StageCommitIndex(o.n)
	case opDelete:
		return s.DeleteRange(o.first, o.n)
	}
	return s.Set([]byte(o.key), []byte(o.value))
}

// After a crash at any operation of the disk, up to three times in a row, a store has all changes that were
// acknowledged, and the one that was under way as a whole or not at all. Proves rules 1 and 11.
func TestCrashes(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := pagetest.NewDisk(seed)
		var m model
		ops := 0
		for crash := range 4 {
			s, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())})
			if err != nil {
				t.Fatalf("seed %d, crash %d, after %d operations: %v", seed, crash, ops, err)
			}
			m = m.reopened()
			if err := m.difference(s); err != nil {
				t.Fatalf("seed %d, crash %d, after %d operations: %v", seed, crash, ops, err)
			}
			d.CrashAfter(1 + rng.IntN(150))
			next := m
			for err == nil {
				m = next
				o := nextOp(rng, m)
				next = o.apply(m)
				err = o.do(s)
				ops++
			}
			if !d.Crashed() {
				t.Fatalf("seed %d, crash %d, after %d operations: %v", seed, crash, ops, err)
			}
			_ = s.Close() // its disk has crashed
			d = d.Crash()
			if rng.IntN(2) == 0 { // also while it is opened
				d.CrashAfter(1 + rng.IntN(10))
				if s, err := raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())}); err == nil {
					_ = s.Close()
				}
				d = d.Crash()
			}
			s, err = raftlog.Open(simDir, &raftlog.Options{Log: d.Options(small())})
			if err != nil {
				t.Fatalf("seed %d, crash %d, after %d operations: %v", seed, crash, ops, err)
			}
			m, next = m.reopened(), next.reopened()
			if was := m.difference(s); was != nil {
				if is := next.difference(s); is != nil {
					t.Fatalf("seed %d, crash %d, after %d operations: the store is neither as before the last: %v, "+
						"nor as after it: %v", seed, crash, ops, was, is)
				}
				m = next
			}
			must(t, s.Close())
		}
	}
}

// The model notices what a store has lost.
func TestModelNotices(t *testing.T) {
	s := openSim(t, pagetest.NewDisk(1))
	closed(t, s)
	var m model
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		o := nextOp(rng, m)
		m = o.apply(m)
		must(t, o.do(s))
	}
	must(t, m.difference(s))
	for i, o := range []op{
		{kind: opStore, first: m.last() + 1, n: 1, term: 5}, {kind: opDelete, first: m.last(), n: m.last()},
		{kind: opDelete, first: m.first, n: m.first}, {kind: opSet, key: modelKeys[1], value: "other"},
	} {
		if o.apply(m).difference(s) == nil {
			t.Errorf("change %d is not noticed", i)
		}
	}
	m.terms = slices.Clone(m.terms)
	m.terms[0]++
	if m.difference(s) == nil {
		t.Error("another entry is not noticed")
	}
}
