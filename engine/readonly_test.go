package engine

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"pagecache/internal/simdisk"
)

// contents returns the contents of every file of a store.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		m[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A store that is opened for reading shows everything stable, refuses every change, can be opened for reading several
// times at once, keeps writers out, and writes nothing, whether it was closed cleanly or not. O8. Proves trap 24.
func TestReadOnly(t *testing.T) {
	for _, clean := range []bool{true, false} {
		dir := t.TempDir()
		o := &Options{SegmentSize: 64 << 10}
		pc, err := Open(dir, Bytes{}, o)
		if err != nil {
			t.Fatal(err)
		}
		tx := begin(t, pc)
		want := map[PageID]string{}
		for i := range 100 {
			pid, ptr, err := pc.Allocate(tx, []byte{byte(i)})
			if err != nil {
				t.Fatal(err)
			}
			for range i % 15 {
				ptr = must(t)(pc.Link(tx, pid, ptr, make([]byte, 100)))
			}
			want[pid] = string(append([]byte{byte(i)}, make([]byte, i%15*100)...))
		}
		if _, _, err := pc.CASRoot(tx, "root", 0, 7); err != nil {
			t.Fatal(err)
		}
		if _, err := pc.Flush(); err != nil {
			t.Fatal(err)
		}
		tx.End()
		ro := &Options{ReadOnly: true}
		if _, err := Open(dir, Bytes{}, ro); !errors.Is(err, ErrLocked) {
			t.Fatalf("beside a writer: %v", err)
		}
		if clean {
			closeTest(t, pc)
		} else { // as after a kill
			copied := t.TempDir()
			for name, b := range contents(t, dir) {
				if err := os.WriteFile(filepath.Join(copied, filepath.Base(name)), []byte(b), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			closeTest(t, pc)
			dir = copied
		}
		before := contents(t, dir)
		var open [2]*PageCache[[]byte]
		for i := range open {
			if open[i], err = Open(dir, Bytes{}, ro); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(dir, Bytes{}, o); !errors.Is(err, ErrLocked) {
			t.Fatalf("a writer beside readers: %v", err)
		}
		for _, pc := range open {
			tx := begin(t, pc)
			for pid, v := range want {
				p, err := pc.Get(tx, pid)
				if err != nil || string(p.Value) != v {
					t.Fatalf("page %d: %d bytes, %v", pid, len(p.Value), err)
				}
			}
			if pid, err := pc.Root(tx, "root"); err != nil || pid != 7 {
				t.Errorf("root: %d, %v", pid, err)
			}
			p, err := pc.Get(tx, 5)
			if err != nil {
				t.Fatal(err)
			}
			errs := map[string]error{}
			_, _, errs["Allocate"] = pc.Allocate(tx, nil)
			_, _, errs["Link"] = pc.Link(tx, 5, p.Ptr, nil)
			_, _, errs["Replace"] = pc.Replace(tx, 5, p.Ptr, nil)
			_, _, errs["Free"] = pc.Free(tx, 5, p.Ptr)
			_, _, errs["CASRoot"] = pc.CASRoot(tx, "root", 7, 0)
			_, errs["PinLog"] = pc.PinLog()
			_, errs["AttemptGC"] = pc.AttemptGC()
			_, errs["GenerateID"] = pc.GenerateID()
			for call, err := range errs {
				if !errors.Is(err, ErrReadOnly) {
					t.Errorf("%s: %v", call, err)
				}
			}
			if n, err := pc.Flush(); n != 0 || err != nil {
				t.Errorf("Flush: %d, %v", n, err)
			}
			if n, err := pc.MakeStable(1 << 40); n != 0 || err != nil {
				t.Errorf("MakeStable: %d, %v", n, err)
			}
			if !pc.WasRecovered() || pc.StableLSN() < 1 || pc.Stats().Pages.InUse != 100 {
				t.Errorf("%+v", pc.Stats())
			}
			tx.End()
			closeTest(t, pc)
		}
		after := contents(t, dir)
		if len(after) != len(before) {
			t.Errorf("%d files before, %d after", len(before), len(after))
		}
		for name, b := range before {
			if after[name] != b {
				t.Errorf("%s was changed", name)
			}
		}
		if pc, err = Open(dir, Bytes{}, nil); err != nil {
			t.Fatal(err)
		}
		closeTest(t, pc)
	}
}

// There is nothing to read where there is no store, and nothing is made. Logs can be read too.
func TestReadOnlyLog(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := Open(name, Bytes{}, &Options{ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("no store: %v", err)
		}
	}
	if e, err := os.ReadDir(dir); err != nil || len(e) > 0 {
		t.Errorf("%v, %v", e, err)
	}
	d := simdisk.New(1, simdisk.Options{})
	l := openSimLog(t, d)
	if _, err := l.WriteBatch([][]byte{[]byte("a"), []byte("b")}); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	o := simOptions(d)
	o.ReadOnly = true
	l, err := OpenLog("/store", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, got := records(t, l, 0); len(got) != 2 || got[1] != "b" {
		t.Errorf("%q", got)
	}
	if _, _, err := l.Write([]byte("c")); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	if _, err := l.Reserve(1); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	closeTest(t, l)
}

// Records that a crash cut off, in a torn tail or a batch without an end, cannot be read from a log that is opened for
// reading, although they are on the disk.
func TestReadOnlyLogEnds(t *testing.T) {
	for _, batch := range []bool{false, true} {
		hidden := 0
		for seed := range uint64(20) {
			d := simdisk.New(seed, simdisk.Options{})
			l := openSimLog(t, d)
			type record struct {
				lsn LSN
				ptr DiskPtr
			}
			var all []record
			write := func(n int) {
				for range n {
					lsn, ptr, err := l.Write(make([]byte, 700))
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, record{lsn, ptr})
				}
			}
			write(5)
			if _, err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if batch {
				open, err := l.PinLog()
				if err != nil {
					t.Fatal(err)
				}
				defer runtime.KeepAlive(open)
				write(10)
				if err := l.core.store.Log.MakeDurable(all[len(all)-1].lsn); err != nil {
					t.Fatal(err)
				}
			} else {
				write(10)
				d.CrashAfter(1)
				_, _ = l.Flush() // torn
			}
			next := d.Crash(seed)
			_ = l.Close()
			o := simOptions(next)
			o.ReadOnly = true
			l, err := OpenLog("/store", o)
			if err != nil {
				t.Fatal(err)
			}
			end := l.StableLSN() + 1
			for i, r := range all {
				b, err := l.Read(r.lsn, r.ptr)
				if r.lsn < end && (err != nil || len(b) != 700) || r.lsn >= end && (err == nil || i < 5) {
					t.Errorf("seed %d: LSN %d of a log that ends at %d: %d bytes, %v", seed, r.lsn, end, len(b), err)
				}
				if _, err := l.core.store.Read(r.lsn, r.ptr); r.lsn >= end && err == nil {
					hidden++
				}
			}
			closeTest(t, l)
		}
		if hidden == 0 {
			t.Errorf("batch %v: nothing beyond the end was on the disk", batch)
		}
	}
}

// A store on a medium that cannot be written opens for reading. O1, O8.
func TestReadOnlyMedium(t *testing.T) {
	m := newLoopMount(t, "ext4", 32)
	dir := filepath.Join(m.dir, "store")
	pc := openTest(t, dir, &Options{SegmentSize: 64 << 10})
	busy(t, pc, 300, 1)
	want := contentsOf(t, pc)
	closeTest(t, pc)
	if out, err := exec.Command("mount", "-o", "remount,ro", m.dir).CombinedOutput(); err != nil {
		t.Skipf("remount: %v: %s", err, out)
	}
	if _, err := Open(dir, Bytes{}, nil); err == nil {
		t.Error("opened for writing")
	}
	pc = openTest(t, dir, &Options{ReadOnly: true})
	if contentsOf(t, pc) != want {
		t.Error("the contents differ")
	}
	closeTest(t, pc)
}
