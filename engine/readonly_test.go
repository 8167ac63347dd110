package engine_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// A ReadOnly store shows everything stable, refuses every change, can be opened ReadOnly several times at once, keeps
// writers out, and writes nothing, whether it was closed cleanly or not. O8. Proves trap 24.
func TestReadOnlyStoreRefusesChanges(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		dir := t.TempDir()
		o := &engine.Options{SegmentSize: 64 << 10}
		pc := enginetest.Open(t, dir, o)
		tx := enginetest.Begin(t, pc)
		want := map[engine.PageID]string{}
		for i := range 100 {
			pid, ptr, err := pc.Allocate(tx, []byte{byte(i)})
			if err != nil {
				t.Fatal(err)
			}
			for range i % 15 {
				ptr = enginetest.Must(t)(pc.Link(tx, pid, ptr, make([]byte, 100)))
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
		ro := &engine.Options{ReadOnly: true}
		if _, err := engine.Open(dir, engine.Bytes{}, ro); !errors.Is(err, engine.ErrLocked) {
			t.Fatalf("ReadOnly opening beside a writer: error %v, want ErrLocked", err)
		}
		if clean {
			enginetest.Close(t, pc)
		} else { // a copy of the open store, as a killed process would leave it
			copied := t.TempDir()
			for name, b := range enginetest.TreeFiles(t, dir) {
				if err := os.WriteFile(filepath.Join(copied, filepath.Base(name)), []byte(b), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			enginetest.Close(t, pc)
			dir = copied
		}
		before := enginetest.TreeFiles(t, dir)
		var open [2]*engine.PageCache[[]byte]
		for i := range open {
			open[i] = enginetest.Open(t, dir, ro)
		}
		if _, err := engine.Open(dir, engine.Bytes{}, o); !errors.Is(err, engine.ErrLocked) {
			t.Fatalf("opening for writing beside ReadOnly ones: error %v, want ErrLocked", err)
		}
		for _, pc := range open {
			tx := enginetest.Begin(t, pc)
			for pid, v := range want {
				p, err := pc.Get(tx, pid)
				if err != nil || string(p.Value) != v {
					t.Fatalf("page %d holds %d bytes, want %d, error %v", pid, len(p.Value), len(v), err)
				}
			}
			if pid, err := pc.Root(tx, "root"); err != nil || pid != 7 {
				t.Errorf("root is page %d, want 7, error %v", pid, err)
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
				if !errors.Is(err, engine.ErrReadOnly) {
					t.Errorf("%s: error %v, want ErrReadOnly", call, err)
				}
			}
			if n, err := pc.Flush(); n != 0 || err != nil {
				t.Errorf("Flush: %d bytes, error %v", n, err)
			}
			if n, err := pc.MakeStable(1 << 40); n != 0 || err != nil {
				t.Errorf("MakeStable: %d bytes, error %v", n, err)
			}
			if !pc.WasRecovered() || pc.StableLSN() < 1 || pc.Stats().Pages.InUse != 100 {
				t.Errorf("WasRecovered %v, stable LSN %d, %+v", pc.WasRecovered(), pc.StableLSN(), pc.Stats())
			}
			tx.End()
			enginetest.Close(t, pc)
		}
		after := enginetest.TreeFiles(t, dir)
		if len(after) != len(before) {
			t.Errorf("%d files before, %d after", len(before), len(after))
		}
		for name, b := range before {
			if after[name] != b {
				t.Errorf("%s was changed", name)
			}
		}
		enginetest.Close(t, enginetest.Open(t, dir, nil))
	}
}

// A ReadOnly opening of a directory without a store fails and creates nothing. A ReadOnly log shows its records and
// refuses new ones.
func TestReadOnlyLog(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{dir, filepath.Join(dir, "none")} {
		_, err := engine.Open(name, engine.Bytes{}, &engine.Options{ReadOnly: true})
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("ReadOnly opening of no store: error %v, want ErrNotExist", err)
		}
	}
	if e, err := os.ReadDir(dir); err != nil || len(e) > 0 {
		t.Errorf("the failed openings created %v, error %v", e, err)
	}
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	if _, err := l.WriteBatch([][]byte{[]byte("a"), []byte("b")}); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, l)
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	l = enginetest.OpenLog(t, "/store", o)
	if _, got := enginetest.Records(t, l, 0); len(got) != 2 || got[1] != "b" {
		t.Errorf("records %q, want a and b", got)
	}
	if _, _, err := l.Write([]byte("c")); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("Write: error %v, want ErrReadOnly", err)
	}
	if _, err := l.Reserve(1); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("Reserve: error %v, want ErrReadOnly", err)
	}
	enginetest.Close(t, l)
}

// A store on a medium that cannot be written opens for reading. O1, O8.
func TestReadOnlyMedium(t *testing.T) {
	m := newLoopMount(t, "ext4", 32)
	dir := filepath.Join(m.dir, "store")
	pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 64 << 10})
	enginetest.Busy(t, pc, 300, 1)
	want := enginetest.Contents(t, pc)
	enginetest.Close(t, pc)
	remount := func() ([]byte, error) { return exec.Command("mount", "-o", "remount,ro", m.dir).CombinedOutput() }
	out, err := remount()
	for range 100 { // the kernel may not have released the ring's files yet
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
		out, err = remount()
	}
	if err != nil {
		t.Skipf("remount: %v: %s", err, out)
	}
	if _, err := engine.Open(dir, engine.Bytes{}, nil); err == nil {
		t.Error("opened for writing on a medium that is read-only")
	}
	pc = enginetest.Open(t, dir, &engine.Options{ReadOnly: true})
	if enginetest.Contents(t, pc) != want {
		t.Error("the contents differ from those before the remount")
	}
	enginetest.Close(t, pc)
}
