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

// Backup writes a store to a file or to standard output, verify accepts it and refuses a corrupt one, and restore makes
// a store of it, with what a second backup adds.
func TestBackupAndRestore(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "store")
	grow := func(n int) {
		t.Helper()
		pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		tx, err := pc.Begin()
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, _, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, 2000)); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := pc.Allocate(tx, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		tx.End()
		if err := pc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(status int, part string, args ...string) string {
		t.Helper()
		text, got := call(args...)
		if got != status || !strings.Contains(text, part) {
			t.Errorf("%v: %d, %s", args, got, text)
		}
		return text
	}
	grow(99)
	full, more := filepath.Join(base, "full"), filepath.Join(base, "more")
	text := want(0, "it ends at LSN", "backup", dir, full)
	want(exitFailed, "exists already", "backup", dir, full)
	_, lsn, _ := strings.Cut(strings.TrimSpace(text), "LSN ")
	want(0, "the backup is good: complete", "verify", full)
	grow(100)
	want(0, "it ends at LSN", "backup", "--since="+lsn, dir, more)
	want(0, "newer than LSN "+lsn, "verify", more)
	want(0, "complete", "verify", full, more)
	copied := filepath.Join(base, "copy")
	want(0, "2 blobs", "restore", copied, full, more)
	want(0, "201 pages", "check", copied)
	want(exitFailed, "file already exists", "restore", copied, full)
	want(exitFailed, "does not continue", "restore", copied+"2", more)

	var out, errOut bytes.Buffer
	if status := command(context.Background(), []string{"backup", dir, "-"}, &out, &errOut, nil); status != 0 {
		t.Errorf("%d, %s", status, &errOut)
	}
	file := filepath.Join(base, "piped")
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	want(0, "complete", "verify", file)
	out.Bytes()[out.Len()/2] ^= 1
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	want(exitFailed, "store is corrupt: "+file, "verify", file)
	want(exitFailed, "store is corrupt: "+file, "restore", copied+"2", file)
	if entries, err := os.ReadDir(base); err != nil || len(entries) != 5 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, args := range [][]string{{"backup", dir}, {"restore", dir}, {"verify"}, {"backup", "--x", dir, "a"}} {
		if text, status := call(args...); status != exitUsage {
			t.Errorf("%v: %d, %s", args, status, text)
		}
	}
	want(exitNoStore, "no store", "backup", filepath.Join(base, "none"), "a")
}
