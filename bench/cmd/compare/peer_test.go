//go:build !abtest

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pagecache/bench"
	"pagecache/internal/versus"
)

// peerRun runs the command compare peer with a load.
func peerRun(t *testing.T, l versus.Load) (o versus.Outcome, err error) {
	t.Helper()
	in, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := runPeer(t.Context(), nil, bytes.NewReader(in), &out); err != nil {
		return o, err
	}
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return o, nil
}

// Each other store does the load that pcbench asks for: its number of operations, mixes and waits, or its time.
func TestPeerLoads(t *testing.T) {
	draws := filepath.Join(t.TempDir(), "draws")
	var list []byte
	for i := range 1000 {
		list = binary.LittleEndian.AppendUint32(list, uint32(i*7%100))
	}
	if err := os.WriteFile(draws, list, 0o644); err != nil {
		t.Fatal(err)
	}
	base := versus.Load{Format: versus.Format, Pages: 100, PageSize: 512, Laid: true, Jobs: 2, Depth: 2, Draws: draws,
		Operations: 403, Cache: 1 << 20}
	for _, p := range bench.Peers() {
		for name, change := range map[string]func(l *versus.Load){
			"random reads": func(l *versus.Load) { l.ReadPercent = 100 },
			"reads by time": func(l *versus.Load) {
				l.ReadPercent, l.Operations, l.Runtime = 100, 0, 50*time.Millisecond
			},
			"ramp":         func(l *versus.Load) { l.ReadPercent, l.Ramp = 50, 20*time.Millisecond },
			"writes":       func(l *versus.Load) { l.Draws, l.Laid, l.Flush = "", false, true },
			"commits":      func(l *versus.Load) { l.SyncEvery, l.Operations = 1, 40 },
			"commits of 5": func(l *versus.Load) { l.SyncEvery, l.Operations = 5, 40 },
		} {
			l := base
			l.Store, l.Dir = strings.ToLower(p.Name), t.TempDir()
			change(&l)
			o, err := peerRun(t, l)
			if err != nil {
				t.Errorf("%s, %s: %v", p.Name, name, err)
				continue
			}
			n := o.Read.Operations + o.Write.Operations
			if l.Operations > 0 && n != l.Operations || n == 0 || o.Seconds <= 0 || o.Space <= 0 ||
				o.Read.Bytes+o.Write.Bytes != n*512 {
				t.Errorf("%s, %s: %+v", p.Name, name, o)
			}
			if l.ReadPercent == 100 != (o.Write.Operations == 0) || l.ReadPercent > 0 && o.Read.P50 <= 0 {
				t.Errorf("%s, %s: %+v", p.Name, name, o)
			}
			commits := int64(0)
			if l.SyncEvery > 0 {
				commits = l.Operations / int64(l.SyncEvery)
			}
			if o.Commit.Operations != commits || commits > 0 && o.Commit.P50 <= 0 || o.Format != versus.Format {
				t.Errorf("%s, %s: %d commits, want %d: %+v", p.Name, name, o.Commit.Operations, commits, o)
			}
		}
	}
}

// pcbench compares with all other stores through this program.
func TestPcbenchAgainstPeers(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "pcbench")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../../..", "-o", bin, "./cmd/pcbench")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.CommandContext(t.Context(), bin, "run", "--rw=randrw", "--size=1m", "--fdatasync=1", "--numjobs=2",
		"--random_distribution=zipf:1.1", "--against=pebble,badger,bbolt,sqlite", "--rounds=1", "--peers="+self,
		"--directory="+dir)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"1 of 1 rounds", "Pebble: ", "Badger: ", "bbolt: ", "SQLite: ", "commit 99 %"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// A load of another version, an unknown store and a wrong option are errors, and --list names all stores.
func TestPeerRefuses(t *testing.T) {
	for _, l := range []versus.Load{{}, {Format: versus.Format, Store: "none", Pages: 1, PageSize: 1, Jobs: 1, Depth: 1,
		Operations: 1}} {
		if o, err := peerRun(t, l); err == nil {
			t.Errorf("%+v: %+v", l, o)
		}
	}
	if err := runPeer(t.Context(), []string{"x"}, strings.NewReader(""), &bytes.Buffer{}); err == nil {
		t.Error("a wrong option is no error")
	}
	var out bytes.Buffer
	if err := runPeer(t.Context(), []string{"--list"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	var list versus.List
	if err := json.Unmarshal(out.Bytes(), &list); err != nil || len(list.Stores) != len(bench.Peers()) ||
		list.Format != versus.Format || list.Stores[0].Config == "" {
		t.Errorf("%v: %+v", err, list)
	}
}
