package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	want(0, "2 blobs", "backup", "--directory", dir, copied+"3")
	want(0, "201 pages", "check", copied+"3")
	want(exitFailed, "file already exists", "backup", "--directory", dir, copied+"3")
	want(exitUsage, "without --since", "backup", "--directory", "--since="+lsn, dir, copied+"4")

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
	if entries, err := os.ReadDir(base); err != nil || len(entries) != 6 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, args := range [][]string{{"backup", dir}, {"restore", dir}, {"verify"}, {"backup", "--x", dir, "a"}} {
		if text, status := call(args...); status != exitUsage {
			t.Errorf("%v: %d, %s", args, status, text)
		}
	}
	want(exitNoStore, "no store", "backup", filepath.Join(base, "none"), "a")
}

// A backup that was killed is in nobody's way, and one that is being written is not touched; nor is a finished backup
// that still has the name of an unfinished one as well, or another file with such a name.
func TestBackupUnfinished(t *testing.T) {
	name := filepath.Join(t.TempDir(), "backup")
	tmp := name + ".unfinished"
	write := func(text string) error {
		_, _, err := toNewFile(name, func(w io.Writer) (engine.LSN, int64, error) {
			_, err := io.WriteString(w, text)
			return 0, 0, err
		})
		return err
	}
	want := func(name, text string) {
		t.Helper()
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, left := range []string{"", "PCKP of a backup that was killed"} {
		if err := os.WriteFile(tmp, []byte(left), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := write("PCKP one"); err != nil {
			t.Fatal(err)
		}
		want(name, "PCKP one")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	old := name + ".old"
	if err := errors.Join(write("PCKP one"), os.Link(name, tmp), os.Rename(name, old), write("PCKP two")); err != nil {
		t.Fatal(err)
	}
	want(old, "PCKP one")
	want(name, "PCKP two")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tmp, []byte("notes"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write("PCKP"); err == nil || !strings.Contains(err.Error(), "is no unfinished backup") {
		t.Error(err)
	}
	want(tmp, "notes")
	if err := os.Remove(tmp); err != nil {
		t.Fatal(err)
	}
	_, _, err := toNewFile(name, func(w io.Writer) (engine.LSN, int64, error) {
		if err := write("PCKP"); err == nil || !strings.Contains(err.Error(), "another backup is writing") {
			t.Error(err)
		}
		return 0, 0, errors.New("the disk is full")
	})
	if err == nil {
		t.Error("an error of writing was lost")
	}
	if names, err := os.ReadDir(filepath.Dir(name)); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

// Trap: an error of writing that looked like that of a file system without links had the file renamed, as if it were
// whole.
func TestBackupFailedIsNotPublished(t *testing.T) {
	dir := t.TempDir()
	for _, fault := range []error{fs.ErrPermission, errors.ErrUnsupported, syscall.EPERM, syscall.EOPNOTSUPP} {
		_, _, err := toNewFile(filepath.Join(dir, "backup"), func(w io.Writer) (engine.LSN, int64, error) {
			_, err := io.WriteString(w, "PCKP")
			return 0, 4, errors.Join(err, fault)
		})
		if !errors.Is(err, fault) {
			t.Errorf("%v after %v", err, fault)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("after %v: %v, %v", fault, left, err)
		}
	}
}
