package raftlog_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/raft/raftlog"
)

var killLives = flag.Int("kill.lives", 30, "the number of lives of TestKill; with -short at most 6")

// killEnv holds the killSpec of a child.
const killEnv = "PAGECACHE_RAFTLOG_CHILD"

// killGroups is the number of groups of a child. A goroutine changes each, so that its changes have one order.
const killGroups = 3

// killSpec is the order that a child gets.
type killSpec struct {
	Dir  string
	Life uint64
}

// changes returns the random numbers from which the changes of a group in a life follow.
func (k killSpec) changes(id raftlog.GroupID) *rand.Rand {
	return rand.New(rand.NewPCG(k.Life, uint64(id)))
}

func killOptions() *raftlog.Options {
	return &raftlog.Options{Log: &engine.Options{SegmentSize: 32 << 10, FlushEvery: 5 * time.Millisecond}}
}

// This is the child process of TestKill.
func TestKillChild(t *testing.T) {
	env := os.Getenv(killEnv)
	if env == "" {
		t.Skip("only TestKill starts it")
	}
	var k killSpec
	must(t, json.Unmarshal([]byte(env), &k))
	out := os.NewFile(3, "parent")
	m, err := raftlog.OpenMulti(k.Dir, killOptions())
	must(t, err)
	var wg sync.WaitGroup
	for id := range raftlog.GroupID(killGroups) {
		s := group(t, m, id)
		first, last := bounds(t, s)
		now := model{first: first} // nextOp looks at the bounds alone
		if last > 0 {
			now.terms = make([]uint64, last-first+1)
		}
		rng := k.changes(id)
		wg.Go(func() {
			for {
				o := nextOp(rng, now)
				if err := o.do(s); err != nil {
					t.Errorf("group %d: %v", id, err)
					return
				}
				now = o.apply(now)
				// One write, so that a killed child never leaves part of a line.
				if _, err := out.Write(fmt.Appendf(nil, "%d\n", id)); err != nil {
					os.Exit(1) // the parent is gone
				}
			}
		})
	}
	wg.Wait()
}

// run runs a child until it is killed after a time, and returns the number of changes of each group that it has
// acknowledged.
func (k killSpec) run(after time.Duration) (acks [killGroups]int, err error) {
	env, err := json.Marshal(k)
	if err != nil {
		return acks, err
	}
	exe, err := os.Executable()
	if err != nil {
		return acks, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return acks, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), killEnv+"="+string(env))
	cmd.ExtraFiles, cmd.Stdout = []*os.File{w}, os.Stderr
	err = cmd.Start()
	w.Close()
	if err != nil {
		return acks, err
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for in := bufio.NewScanner(r); in.Scan(); {
		var id int
		if _, err := fmt.Sscan(in.Text(), &id); err != nil || id < 0 || id >= killGroups {
			return acks, fmt.Errorf("the child wrote %q", in.Text())
		}
		acks[id]++
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		return acks, fmt.Errorf("the child has ended by itself: %v", err)
	}
	return acks, nil
}

// After a SIGKILL, each group has all entries, votes and terms that were acknowledged, and the change that was under
// way as a whole or not at all. Proves rule 1.
func TestKill(t *testing.T) {
	lives := *killLives
	if testing.Short() {
		lives = min(lives, 6)
	}
	k := killSpec{Dir: t.TempDir() + "/raft"}
	var now [killGroups]model
	total := 0
	rng := rand.New(rand.NewPCG(1, 1))
	few := func() bool { return total < 10*lives }
	for k.Life < uint64(lives) || few() && k.Life < 20*uint64(lives) { // on a busy machine, children do little
		k.Life++
		acks, err := k.run(time.Duration(20+rng.IntN(200)) * time.Millisecond)
		if err != nil {
			t.Fatalf("life %d: %v", k.Life, err)
		}
		m, err := raftlog.OpenMulti(k.Dir, killOptions())
		if err != nil {
			t.Fatalf("life %d: %v", k.Life, err)
		}
		for id := range now {
			changes := k.changes(raftlog.GroupID(id))
			is := now[id].reopened()
			for range acks[id] {
				is = nextOp(changes, is).apply(is)
			}
			next := nextOp(changes, is).apply(is).reopened()
			is = is.reopened()
			s := group(t, m, raftlog.GroupID(id))
			if was := is.difference(s); was != nil {
				if err := next.difference(s); err != nil {
					t.Fatalf("life %d, group %d, %d changes: the group is neither as after them: %v, nor as after one "+
						"more: %v", k.Life, id, acks[id], was, err)
				}
				is = next
			}
			now[id] = is
			total += acks[id]
		}
		must(t, m.Close())
	}
	t.Logf("%d changes in %d lives", total, k.Life)
	if few() {
		t.Errorf("only %d changes were made in %d lives", total, k.Life)
	}
}
