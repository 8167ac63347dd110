package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pagecache/cmd/pcbench/internal/load"
	"pagecache/engine"
)

// call runs a command line and returns its output and exit status.
func call(args ...string) (string, int) {
	var o, e bytes.Buffer
	status := command(context.Background(), args, &o, &e, nil)
	return o.String() + e.String(), status
}

// Check accepts a good store. It lists the problems of a corrupt store and returns the status 1; salvage copies the
// readable pages.
func TestCheckAndSalvage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, _, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := pc.Allocate(tx, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	tx.End()
	if text, status := call("check", dir); status != exitFailed || !strings.Contains(text, "store is in use: lock") {
		t.Errorf("an open store: %d, %s", status, text)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	text, status := call("check", dir)
	for _, want := range []string{"is good", "101 pages", "1 blobs", "snapshot.", "agrees"} {
		if status != 0 || !strings.Contains(text, want) {
			t.Errorf("%d, no %q: %s", status, want, text)
		}
	}
	log := filepath.Join(dir, "log")
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	b[30_000] ^= 1
	if err := os.WriteFile(log, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if text, status := call("check", dir); status != exitFailed || !strings.Contains(text, "corrupt") {
		t.Errorf("a corrupt store: %d, %s", status, text)
	}
	out := filepath.Join(t.TempDir(), "saved")
	text, status = call("salvage", dir, out)
	if status != 0 || !strings.Contains(text, "saved 100 pages") || !strings.Contains(text, "lost: ") {
		t.Errorf("%d, %s", status, text)
	}
	if text, status := call("check", out); status != 0 || !strings.Contains(text, "100 pages") {
		t.Errorf("%d, %s", status, text)
	}
	for _, args := range [][]string{
		{"check"}, {"check", "a", "b"}, {"check", "--nonsense", "a"}, {"salvage", "a"}, {"salvage", "--x", "a", "b"},
	} {
		if text, status := call(args...); status != exitUsage {
			t.Errorf("%v: %d, %s", args, status, text)
		}
	}
	missing := filepath.Join(dir, "none")
	empty := t.TempDir()
	for _, args := range [][]string{
		{"check", missing}, {"salvage", missing, out + "2"}, {"dump", missing}, {"check", empty}, {"dump", empty},
		{"salvage", empty, out + "3"},
	} {
		if text, status := call(args...); status != exitNoStore || !strings.Contains(text, "no store here") {
			t.Errorf("%v: %d, %s", args, status, text)
		}
	}
	if text, status := call("salvage", dir, out); status != exitFailed {
		t.Errorf("%d, %s", status, text)
	}
	for _, name := range []string{"check", "salvage"} {
		if text, status := call(name, "--help"); status != 0 || !strings.Contains(text, "pcbench "+name) {
			t.Errorf("%d, %s", status, text)
		}
	}
}

// Dump shows only the messages that its filters choose.
func TestDumpFilters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pid, ptr, err := pc.Allocate(tx, []byte("whole"))
		if err == nil {
			_, _, err = pc.Link(tx, pid, ptr, []byte("delta"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	count := func(args ...string) int {
		text, status := call(append(append([]string{"dump"}, args...), dir)...)
		if status != 0 {
			t.Errorf("%v: %d, %s", args, status, text)
		}
		return strings.Count(text, " word ")
	}
	for args, want := range map[string]int{"--page=3": 2, "--page=3,4 --kind=append": 2, "--kind=compact": 3,
		"--headers": 0, "--lsn=4096..4127": 1, "--lsn=..4128": 2, "--lsn=1000000..": 0,
		"--kind=append --lsn=0x1020..": 3} {
		if n := count(strings.Fields(args)...); n != want {
			t.Errorf("%s: %d messages, want %d", args, n, want)
		}
	}
	for _, arg := range []string{"--kind=nonsense", "--lsn=5", "--lsn=9..5", "--lsn=a..b", "--page=-1", "--body=-1"} {
		if text, status := call("dump", arg, dir); status != exitUsage {
			t.Errorf("%s: %d, %s", arg, status, text)
		}
	}
}

// Check, salvage and dump stop at once when they are interrupted, and say what was not done.
func TestInterruptedCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var o, e bytes.Buffer
	if status := command(ctx, []string{"dump", dir}, &o, &e, nil); status != exitInterrupted ||
		!strings.Contains(e.String(), "not shown") {
		t.Errorf("dump: %d, %s", status, &e)
	}
	hang := make(chan struct{})
	finished, err := interruptible(ctx, nil, "x", nil, func() error { <-hang; return nil })
	close(hang)
	if finished || err != nil {
		t.Errorf("finished %t, %v", finished, err)
	}
	var out bytes.Buffer
	l := &lister{out: &out}
	l.add("a")
	if n := l.end(); n != 1 {
		t.Errorf("%d lines", n)
	}
	if l.add("b"); out.String() != "a\n" {
		t.Errorf("the list goes on after its end: %s", &out)
	}
}

// On a terminal, check, salvage and dump show how much they have read, and what they have found.
func TestProgressOfCommands(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pr := &load.Progress{Out: f, Terminal: true, Every: time.Millisecond}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log"), make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	shown := ""
	finished, err := interruptible(context.Background(), pr, "checking x", reading(dir), func() error {
		for end := time.Now().Add(10 * time.Second); shown == "" && time.Now().Before(end); {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				return err
			}
			shown = string(b)
		}
		return nil
	})
	if !finished || err != nil || !strings.Contains(shown, "B read, log of 8192B, 0s: checking x") {
		t.Errorf("%t, %v, shown: %q", finished, err, shown)
	}
}

// Trap: check of the directory that pcbench run leaves did not say where the store is.
func TestCheckSaysWhereTheStoreIs(t *testing.T) {
	dir := t.TempDir()
	if _, errOut, status := pcbenchIn(t, dir, "run --name=a --rw=write --size=64k --unlink=0"); status != 0 {
		t.Fatalf("%d, %s", status, errOut)
	}
	place := filepath.Join(dir, "a.pcbench")
	if text, status := call("check", place); status != exitNoStore || !strings.Contains(text, "it is in "+
		filepath.Join(place, "store")) {
		t.Errorf("%d, %s", status, text)
	}
}
