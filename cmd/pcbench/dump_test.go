package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pagecache/engine"
)

// Dump shows the superblock and the chosen slots, and rejects wrong options.
func TestDump(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pc.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, _, err := pc.Allocate(tx, bytes.Repeat([]byte("page"), 4096)); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	show := func(args ...string) (string, int) {
		var o, e bytes.Buffer
		status := command(context.Background(), append([]string{"dump"}, args...), &o, &e, nil)
		return o.String() + e.String(), status
	}
	all, status := show(dir)
	for _, want := range []string{"superblock", "magic", "segment size", "slot s0", "slot s1", "70 61 67 65"} {
		if status != 0 || !strings.Contains(all, want) {
			t.Errorf("status %d, no %q in\n%.2000s", status, want, all)
		}
	}
	one, status := show("--slot=1", "--body=0", dir)
	if status != 0 || strings.Contains(one, "slot s0") || !strings.Contains(one, "slot s1") {
		t.Errorf("status %d:\n%.2000s", status, one)
	}
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{nil, exitUsage, "name one directory"}, {[]string{dir, dir}, exitUsage, "name one directory"},
		{[]string{"--body=-1", dir}, exitUsage, "--body=-1"},
		{[]string{"--slots=1", dir}, exitUsage, "did you mean --slot"},
		{[]string{"--slot=999", dir}, exitFailed, "ends before"},
		{[]string{t.TempDir()}, exitNoStore, "no store here"}, {[]string{"--help"}, 0, "--body"},
	} {
		if text, status := show(c.args...); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%v: status %d, %s", c.args, status, text)
		}
	}
	super, err := os.ReadFile(filepath.Join(dir, "superblock"))
	if err != nil {
		t.Fatal(err)
	}
	clear(super[:512])
	if err := os.WriteFile(filepath.Join(dir, "superblock"), super, 0o644); err != nil {
		t.Fatal(err)
	}
	half, status := show(dir)
	for _, want := range []string{"copy 0: lost", "copy 1: current", "slot s0"} { // one copy is enough
		if status != 0 || !strings.Contains(half, want) {
			t.Errorf("status %d, no %q in\n%.2000s", status, want, half)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "superblock"), []byte("rubbish"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, status := show(dir); status != exitFailed {
		t.Errorf("status %d, %s", status, text)
	}
}
