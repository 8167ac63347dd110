package raftpages_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftpages"
)

// Batches with entries that are rejected, that fail, or that are together too long for a transaction are applied up to
// the first one that fails, each entry once and in order. Each is tried a few times at most.
func TestSplit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		n := 1 + rng.IntN(12)
		kinds := make([]int, n) // 0: rejected; -1: fails; more: its size
		firstBad := n
		for i := range kinds {
			if kinds[i] = 1 + rng.IntN(5); rng.IntN(4) == 0 {
				kinds[i] = 0
			}
			if rng.IntN(40) == 0 {
				if kinds[i] = -1; rng.IntN(2) == 0 {
					kinds[i] = 11
				}
				firstBad = min(firstBad, i)
			}
		}
		const most = 10 // the size of a transaction
		var applied []int
		tries, full := 0, rng.IntN(3)
		room := func() bool { full--; return true }
		done, err := raftpages.Split(n, room, func(from, n int, rejected bool) (int, error) {
			if tries++; tries > 100 {
				t.Fatalf("%v: no end", kinds)
			}
			if full > 0 {
				return -1, engine.ErrNoSpace
			}
			size := 0
			for i := range n {
				switch kind := kinds[from+i]; {
				case rejected && i == n-1:
					if kind != 0 {
						t.Fatalf("%v: entry %d counts as rejected", kinds, from+i)
					}
				case kind == 0:
					return i, raftpages.Reject(errRefused)
				case kind < 0:
					return i, errRefused
				default:
					size += kind
				}
			}
			if size > most {
				return -1, engine.ErrTooLarge
			}
			for i := range n {
				applied = append(applied, from+i)
			}
			return -1, nil
		})
		if done != firstBad || len(applied) != done || (err == nil) != (done == n) || !slices.IsSorted(applied) {
			t.Fatalf("%v: %d entries are applied: %v, %v", kinds, done, applied, err)
		}
	}
}

func isError(response any) bool {
	_, is := response.(error)
	return is
}

// While the disk is full, Apply waits. With room it goes on; without, the FSM stops, and a start with room applies the
// entry.
func TestFullDisk(t *testing.T) {
	disk := newDisk(1)
	failed := make(chan error, 1)
	openFor := func(wait time.Duration) *bytesFSM {
		o := on(disk, func(err error) { failed <- err })
		raftpages.WaitForRoom(o, wait)
		f, err := raftpages.Open(simDir, engine.Bytes{}, apply, o)
		must(t, err)
		return f
	}
	used := func() (size int64) {
		for _, s := range disk.Sizes() {
			size += s
		}
		return size
	}
	f := openFor(time.Minute)
	f.ApplyBatch([]*raft.Log{confEntry(1, 3)})
	index := uint64(2)
	grow := func() any {
		value := fmt.Sprint(make([]byte, 3000))
		response := f.Apply(entry(index, command{Op: "set", Key: key(int(index) % keys), Value: value, Pages: 3}))
		index++
		return response
	}
	full := used() + 100_000
	disk.SetCapacity(full)
	time.AfterFunc(300*time.Millisecond, func() { disk.SetCapacity(full + 100_000) })
	for used() <= full {
		if response := grow(); isError(response) {
			t.Fatalf("with room soon: %.100v", response)
		}
	}
	must(t, f.Close())
	f = openFor(200 * time.Millisecond)
	var response any
	for range 1000 {
		if response = grow(); isError(response) {
			break
		}
	}
	stopped, _ := response.(error)
	if !errors.Is(stopped, raftpages.ErrStopped) || !errors.Is(stopped, engine.ErrNoSpace) {
		t.Fatalf("response %.100v", response)
	}
	if err := <-failed; !errors.Is(err, engine.ErrNoSpace) {
		t.Errorf("stopped with %v", err)
	}
	m, at := contents(t, f)
	if at != index-2 {
		t.Errorf("the store ends with entry %d, entry %d was not applied", at, index-1)
	}
	disk.SetCapacity(0)
	must(t, f.Close())
	f = open(t, disk)
	want(t, f, m, at)
	index--
	if response := grow(); response != m[key(int(index-1)%keys)] {
		t.Errorf("with room: response %.100v", response)
	}
}
