package osfs

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/internal/vfs"
	"pagecache/iouring"
)

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// A Reader has no descriptor before its first read and after Close. If it insists on a ring that does not work, it
// reads by system calls.
func TestReaderDescriptors(t *testing.T) {
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []vfs.Pattern{vfs.PatternSequential, vfs.PatternRandom} {
		if err := f.Advise(p); err != nil {
			t.Error(err)
		}
	}
	before := descriptors(t)
	for _, broken := range []bool{false, true} {
		r := OS.OpenReader(vfs.ModeOn)
		fetches, took := 0, time.Duration(0)
		r.(*osReader).OnFetch(func(d time.Duration) { fetches, took = fetches+1, took+d })
		var reasons []string
		r.(*osReader).OnDegraded(func(reason string) { reasons = append(reasons, reason) })
		if broken {
			r.(*osReader).open = func(o iouring.ReaderOptions) (*iouring.Reader, error) {
				if o.Ring == iouring.ModeOn {
					return nil, unix.ENOSYS
				}
				return iouring.OpenReader(o)
			}
		}
		m, err := f.OpenMap(vfs.PatternRandom, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.View(0, 100); err != nil {
			t.Fatal(err)
		}
		if n := descriptors(t); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if rep, c := r.Report(); rep != (vfs.ReaderReport{}) || c != (vfs.ReaderCounts{}) {
			t.Errorf("%+v, %+v", rep, c)
		}
		if err := errors.Join(m.Drop(0, 1<<20), f.DropCache(0, 1<<20)); err != nil {
			t.Fatal(err)
		}
		cold, err := m.Warm([]vfs.Range{{Off: 0, Len: 5000}, {Off: 1 << 19, Len: 1}})
		if err != nil {
			t.Fatal(err)
		}
		rep, c := r.Report()
		if broken && cold > 0 && (rep.Ring || !strings.Contains(rep.Reason, unix.ENOSYS.Error()) || c.Calls == 0) {
			t.Errorf("%+v, %+v", rep, c)
		}
		if broken && cold > 0 && (len(reasons) != 1 || reasons[0] != rep.Reason) {
			t.Errorf("reasons %q, want %q", reasons, rep.Reason)
		}
		if fetches > 1 || (fetches == 1) != (cold > 0) || took < 0 || took > time.Minute {
			t.Errorf("%d ranges were cold: OnFetch was called %d times, with %v", cold, fetches, took)
		}
		if mc := m.Counts(); int(mc.Cold) != cold || mc.Fetched > 3*4096 {
			t.Errorf("%d cold, %+v", cold, mc)
		}
		if err := errors.Join(m.Close(), r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if n := descriptors(t); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if err := r.(*osReader).Fetch(0, []vfs.Range{{Len: 1}}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if fetches > 1 {
			t.Error("OnFetch was called for a fetch that failed")
		}
	}
	unused := OS.OpenReader(vfs.ModeAuto)
	if err := unused.Close(); err != nil {
		t.Error(err)
	}
	if err := unused.(*osReader).Fetch(0, []vfs.Range{{Len: 1}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed unused: %v", err)
	}
}

// A caller that finds all lanes submitting opens another one, if it can. The counts are the sums of all lanes, Settle
// waits for all, and Close leaves no descriptor open.
func TestReaderLanes(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const size = 1 << 20
	f := mustOpen(t, filepath.Join(t.TempDir(), "file"), writable)
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	raw := int(f.(*osFile).Fd())
	before := descriptors(t)
	for _, refused := range []bool{false, true} {
		o := OS.OpenReader(vfs.ModeAuto).(*osReader)
		var opened, tried atomic.Int64
		o.open = func(opts iouring.ReaderOptions) (*iouring.Reader, error) {
			opened.Add(1)
			if opts.Park && tried.Add(1) > 0 && refused {
				return nil, unix.ENOMEM
			}
			return iouring.OpenReader(opts)
		}
		if err := o.Fetch(raw, []vfs.Range{{Len: 1}}); err != nil {
			t.Fatal(err)
		}
		if rep, _ := o.Report(); !rep.Ring {
			t.Skipf("one ring at least is needed: %s", rep.Reason)
		}
		var fetched atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(10 * time.Second)
		for range 16 {
			wg.Go(func() {
				for n := 0; n < 100 || tried.Load() == 0 && time.Now().Before(end); n++ {
					if err := o.Fetch(raw, []vfs.Range{{Off: int64(n*4096) % size, Len: 4096}}); err != nil {
						t.Error(err)
						return
					}
					fetched.Add(1)
				}
				o.ReadAhead(raw, []vfs.Range{{Off: 0, Len: 4096}})
			})
		}
		wg.Wait()
		if err := o.Settle(10 * time.Second); err != nil {
			t.Error(err)
		}
		_, c := o.Report()
		want := 2
		if refused {
			want = 1
		}
		n, reads := len(o.opened()), fetched.Load()+1+c.Started
		if n != want || opened.Load() != 2 || c.Reads != reads || c.Calls != 0 {
			t.Errorf("refused %v: %d lanes, opened %d times, want %d reads, %+v", refused, n, opened.Load(), reads, c)
		}
		if err := errors.Join(o.Close(), o.Close()); err != nil {
			t.Error(err)
		}
		if n := descriptors(t); n != before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if err := o.Fetch(raw, []vfs.Range{{Len: 1}}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	runtime.GOMAXPROCS(1)
	if o := OS.OpenReader(vfs.ModeAuto).(*osReader); o.usable.Load() != 1 {
		t.Errorf("one processor: %d lanes", o.usable.Load())
	}
}
