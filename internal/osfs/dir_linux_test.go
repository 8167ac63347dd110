package osfs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
)

// A directory is opened through a symbolic link only by its path, never as an entry of another. Nothing but a directory
// is opened as one, and no opening waits. Proves rule 15.
func TestOpenDirRefusesOtherKinds(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Mkdir(at("dir"), 0o700),
		os.Symlink("dir", at("link")),
		os.Symlink("nothing", at("dangling")),
		os.WriteFile(at("file"), nil, 0o600),
		unix.Mkfifo(at("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := OS.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	opened := func(sub vfs.Dir, err error) bool {
		if err != nil {
			return false
		}
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
		return true
	}
	for name, want := range map[string]struct{ byPath, asEntry bool }{"dir": {true, true}, "link": {true, false},
		"dangling": {}, "file": {}, "fifo": {}} {
		within(t, name, func() {
			if got := opened(OS.OpenDir(at(name))); got != want.byPath {
				t.Errorf("%s was opened by its path: %v", name, got)
			}
			if got := opened(d.OpenDir(name)); got != want.asEntry {
				t.Errorf("%s was opened as an entry: %v", name, got)
			}
		})
	}
	if _, err := os.Lstat(at("nothing")); err == nil {
		t.Error("a link's target was made")
	}
}

// A path that is a symbolic link to a directory, and was changed to another one since, is not removed by Unlink, nor is
// the directory. Proves rule 15.
func TestUnlinkLeavesLinks(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{os.Mkdir(at("dir"), 0o700), os.Symlink("dir", at("link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := OS.OpenDir(at("link"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Unlink(); err == nil {
		t.Error("removed a directory by a symbolic link to it")
	}
	for _, name := range []string{"dir", "link"} {
		if _, err := os.Lstat(at(name)); err != nil {
			t.Error(err)
		}
	}
}
