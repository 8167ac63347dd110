package engine_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// misnamed returns changes that put parts of another store under names and into slots where they do not belong: its
// snapshots and blobs under the names of this store's, and its slots into the next ones.
func misnamed(im enginetest.Image, others []enginetest.Image, names []string) (all []enginetest.Change) {
	seen := map[enginetest.Change]bool{}
	add := func(c enginetest.Change, from string) {
		if !seen[c] {
			seen[c] = true
			c.From = from
			all = append(all, c)
		}
	}
	for i, o := range others {
		for _, p := range im.Places(crashSegment) {
			if p.File == enginetest.LogName && p.Len > 0 {
				from := p
				from.Off += p.Len
				add(enginetest.Change{Place: p, Part: o.Part(from)}, names[i]+", the next slot")
			}
			for name := range o {
				kind := "snapshot."
				if strings.HasPrefix(name, enginetest.BlobDir) {
					kind = enginetest.BlobDir
				}
				if strings.HasPrefix(name, kind) && strings.HasPrefix(p.File, kind) && name != p.File {
					part := o.Part(enginetest.Place{File: name})
					add(enginetest.Change{Place: p, Part: part}, names[i]+", "+name)
				}
			}
		}
	}
	return all
}

// Each part is replaced by that of another store with the same options, at any moment of its life, alone and in pairs,
// also under the names of this store's files and in other slots. Proves rule 14; trap 27.
func TestPartsOfOtherStore(t *testing.T) {
	t.Parallel()
	sweepStores(t, func(t *testing.T, seed uint64, isLog bool) {
		s, other := newPast(seed, isLog), newPast(seed+1000, isLog)
		for _, s := range []*pastStore{s, other} {
			if err := s.grow(2, 6); err != nil {
				t.Fatal(err)
			}
		}
		for name, im := range map[string]enginetest.Image{"closed": s.closed, "killed": s.killed} {
			t.Run(name, func(t *testing.T) {
				j := newJudge(t, s, im)
				j.other = other.past
				changes := append(im.Changes(other.images, other.names, crashSegment),
					misnamed(im, other.images[len(other.images)-4:], other.names[len(other.images)-4:])...)
				j.all(t, singlesAndPairs(changes, *putbackPairs, seed))
			})
		}
	})
}

// branchOff returns a copy of the closed store, which goes on by itself.
func (s *pastStore) branchOff(seed uint64) *pastStore {
	c := newPast(seed, s.isLog)
	c.past = s.past.Clone()
	c.h = &enginetest.History{Base: s.h.Base.Clone(), Now: s.h.Now.Clone(), Acked: s.h.Acked, NextID: s.h.NextID}
	c.first, c.lives = s.first, s.lives
	c.disk = simdisk.New(seed, simdisk.Options{})
	s.closed.Put(c.disk, "/store")
	return c
}

// A closed store is copied, and both go on. Then each part of one is replaced by that of the other, at any moment
// since, alone and in pairs. Proves rule 14.
func TestPartsOfCopy(t *testing.T) {
	t.Parallel()
	sweepStores(t, func(t *testing.T, seed uint64, isLog bool) {
		s := newPast(seed, isLog)
		if err := s.grow(2, 6); err != nil {
			t.Fatal(err)
		}
		branch, _, err := enginetest.LogEnd(s.disk, "/store")
		if err != nil {
			t.Fatal(err)
		}
		other := s.branchOff(seed + 2000)
		for _, s := range []*pastStore{s, other} {
			if err := s.grow(1+int(seed%2), 5); err != nil {
				t.Fatal(err)
			}
		}
		for name, im := range map[string]enginetest.Image{"closed": s.closed, "killed": s.killed} {
			t.Run(name, func(t *testing.T) {
				j := newJudge(t, s, im)
				j.other, j.branch = other.past, branch
				j.all(t, singlesAndPairs(im.Changes(other.images, other.names, crashSegment), *putbackPairs, seed))
			})
		}
	})
}

// sharer is a store that shares its SnapshotDir with another.
type sharer struct {
	dir string
	h   *enginetest.History
	pc  *engine.PageCache[[]byte] // nil: not open
	d   *enginetest.Driver
}

// open opens the store and compares its contents.
func (s *sharer) open(d *simdisk.Disk, rng *rand.Rand) error {
	end, _, err := enginetest.LogEnd(d, s.dir)
	if err == nil {
		err = s.h.Cut(end)
	}
	if err != nil {
		return err
	}
	o := engine.Options{SegmentSize: crashSegment, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		IDPersistInterval: 10, SnapshotDir: "/snapshots"}
	enginetest.WithSeam(&o, seam.Options{FS: d, Eager: true})
	if s.pc, err = engine.Open(s.dir, engine.Bytes{}, &o); err != nil {
		return err
	}
	if err := s.h.Check(s.pc); err != nil {
		return err
	}
	s.d, err = enginetest.NewDriver(s.pc, rng, s.h)
	s.d.Eager, s.d.Patience, s.d.Max = true, 4, 5000
	return err
}

// close makes everything durable and closes the store.
func (s *sharer) close() error {
	if err := s.d.SealAll(); err != nil {
		return err
	}
	s.d.End()
	if err := s.pc.Close(); err != nil {
		return err
	}
	s.h.AckClosed()
	s.pc = nil
	return nil
}

// A store and a copy of it share their SnapshotDir, and are opened and closed in any order, also at the same time. Each
// shows its own contents, since snapshots of the other one do not count. Proves rule 14.
func TestCopiesShareSnapshotDir(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 5))
		d := simdisk.New(seed, simdisk.Options{})
		stores := []*sharer{{dir: "/store", h: enginetest.NewHistory()}}
		if err := d.MkdirAll("/snapshots"); err != nil {
			t.Fatal(err)
		}
		for turn := range 30 {
			s := stores[rng.IntN(len(stores))]
			var err error
			switch {
			case s.pc == nil:
				err = s.open(d, rng)
			case rng.IntN(3) == 0:
				err = s.close()
				if len(stores) == 1 && err == nil {
					stores = append(stores, copyOf(t, d, s))
				}
			case rng.IntN(3) == 0:
				if err = s.d.SealAll(); err == nil {
					err = s.pc.Snapshot()
				}
			default:
				err = s.d.Work(20)
			}
			if err != nil {
				t.Fatalf("seed %d, turn %d, %s: %v", seed, turn, s.dir, err)
			}
		}
		for _, s := range stores {
			if s.pc != nil {
				s.d.End()
				_ = s.pc.Close()
			}
		}
	}
}

// copyOf copies a closed store to a directory beside it.
func copyOf(t *testing.T, d *simdisk.Disk, s *sharer) *sharer {
	t.Helper()
	end, _, err := enginetest.LogEnd(d, s.dir)
	if err == nil {
		err = s.h.Cut(end)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &sharer{dir: fmt.Sprint(s.dir, " copy"), h: &enginetest.History{Base: s.h.Base.Clone(), Now: s.h.Now.Clone(),
		Acked: s.h.Acked, NextID: s.h.NextID}}
	enginetest.TakeImage(d, s.dir).Put(d, c.dir)
	return c
}
