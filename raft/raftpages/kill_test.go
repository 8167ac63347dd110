package raftpages_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"

	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pagecache/engine"
	"pagecache/raft/raftpages"
)

var killLives = flag.Int("kill.lives", 20, "the number of lives of TestKill; with -short at most 4")

// killEnv holds the killSpec of a child.
const killEnv = "PAGECACHE_RAFTPAGES_CHILD"

// killSpec is the order that a child gets.
type killSpec struct{ Dir, Snapshots string }

func killOptions() *raftpages.Options {
	return &raftpages.Options{Store: &engine.Options{SegmentSize: 16 << 10, FlushEvery: 5 * time.Millisecond}}
}

// killCommand is the command of an entry.
func killCommand(index uint64) command {
	rng := rand.New(rand.NewPCG(index, 7))
	return command{Op: "set", Key: key(rng.IntN(keys)), Value: fmt.Sprint(index)}
}

// killModel returns the contents after an entry.
func killModel(index uint64) model {
	m := model{}
	for i := uint64(2); i <= index; i++ {
		m.add(killCommand(i))
	}
	return m
}

// This is the child process of TestKill. It applies entries, takes snapshots of them, and installs snapshots of a node
// that is ahead.
func TestKillChild(t *testing.T) {
	env := os.Getenv(killEnv)
	if env == "" {
		t.Skip("only TestKill starts it")
	}
	var k killSpec
	must(t, json.Unmarshal([]byte(env), &k))
	out := os.NewFile(3, "parent")
	ahead, err := raftpages.Open(k.Snapshots, engine.Bytes{}, apply, killOptions())
	must(t, err)
	f, err := raftpages.Open(k.Dir, engine.Bytes{}, apply, killOptions())
	must(t, err)
	say := func(index uint64) { // which is durable
		if _, err := fmt.Fprintln(out, index); err != nil {
			os.Exit(1) // the parent is gone
		}
	}
	was, _ := f.Applied()
	say(was)
	for rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1)); ; {
		index, _ := f.Applied()
		to := index + 1 + rng.Uint64N(10)
		target := f
		install := rng.IntN(2) == 0
		if install {
			target = ahead
		}
		at, _ := target.Applied()
		for i := at + 1; i <= to; i++ {
			if i == 1 {
				target.ApplyBatch([]*raft.Log{confEntry(1, 3)})
			} else {
				target.Apply(entry(i, killCommand(i)))
			}
		}
		must(t, take(target, max(at, to)))
		if install {
			must(t, send(ahead, f, nil))
			to = max(at, to)
		}
		say(to)
	}
}

// run runs a child, kills it some time after it has begun, and returns the last index that it has acknowledged.
func (k killSpec) run(after time.Duration) (acked uint64, err error) {
	env, err := json.Marshal(k)
	if err != nil {
		return 0, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), killEnv+"="+string(env))
	var text bytes.Buffer
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{w}, &text, &text
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	var kill *time.Timer
	for in := bufio.NewScanner(r); in.Scan(); {
		if kill == nil { // it has opened its stores
			kill = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
		}
		if _, err := fmt.Sscan(in.Text(), &acked); err != nil {
			return 0, fmt.Errorf("the child wrote %q", in.Text())
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		return 0, fmt.Errorf("the child has ended by itself: %v: %.2000s", err, text.Bytes())
	}
	return acked, nil
}

// After a SIGKILL, which may come between any two steps of an installation, the node has a state that it had, not below
// the newest snapshot.
func TestKill(t *testing.T) {
	lives := *killLives
	if testing.Short() {
		lives = min(lives, 4)
	}
	k := killSpec{Dir: t.TempDir() + "/fsm", Snapshots: t.TempDir() + "/ahead"}
	rng := rand.New(rand.NewPCG(1, 1))
	acked, installed := uint64(0), map[string]bool{}
	for life := range lives {
		now, err := k.run(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		acked = max(acked, now)
		f, err := raftpages.Open(k.Dir, engine.Bytes{}, apply, killOptions())
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		got, index := contents(t, f)
		if want := killModel(index); index < acked || !maps.Equal(got, want) {
			t.Fatalf("life %d: after entry %d, of which %d were acknowledged, there is %v, want %v", life, index, acked,
				got, want)
		}
		if list, err := f.Snapshots().List(); err != nil || len(list) == 0 && index > 0 {
			t.Fatalf("life %d: snapshots %v, %v", life, list, err)
		}
		must(t, f.Close())
		current, err := os.ReadFile(k.Dir + "/CURRENT")
		must(t, err)
		installed[string(current)] = true
		acked = index
	}
	t.Logf("%d entries, %d of %d lives ended with another store", acked, len(installed), lives)
	if acked < uint64(lives) {
		t.Errorf("only %d entries were applied in %d lives", acked, lives)
	}
}
