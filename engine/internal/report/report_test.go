package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// heard collects events.
type heard struct {
	mu  sync.Mutex
	all []Event
}

func (h *heard) hear(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, e)
}

// names returns the types of the events so far, without "Info", and forgets them.
func (h *heard) names() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.all {
		names = append(names, strings.TrimSuffix(reflect.TypeOf(e).Name(), "Info"))
	}
	h.all = nil
	return names
}

func (h *heard) want(t *testing.T, names ...string) {
	t.Helper()
	if got := h.names(); !slices.Equal(got, names) {
		t.Errorf("events %q, want %q", got, names)
	}
}

// everything reports one event of each kind.
func everything(r *Reporter) {
	err := fmt.Errorf("cause: %w", syscall.EIO)
	r.LogFailed(err)
	r.DiskFull("log", syscall.ENOSPC)
	r.Room("log")
	r.CleaningStopped(err)
	r.CleaningGoesOn()
	r.SnapshotsStopped("/store", err)
	r.SnapshotWritten()
	r.SnapshotRebuilt(SnapshotRebuiltInfo{File: "/store/snapshot", Blocks: 2, LostPages: 1, Took: time.Second})
	_ = r.Corrupt(&recovery.CorruptError{File: "/store/log", Place: recovery.Place{}.WithPage(7), Reason: "reason"})
	r.TailDropped(4096, "why")
	r.SlowWrite(SlowWriteInfo{Offset: 4096, Bytes: 512, Took: time.Second})
	r.Degraded("log device", "system calls", "reason")
	r.BatchOpen(4100, time.Second)
	r.TxOpen(3, time.Minute)
	r.Panic(PanicInfo{Doing: "moving", Page: 7, Value: "value", Stack: []byte("stack")})
	r.Background("blob not removed", "/store/blobs/1", err)
}

// Each kind of event reaches its callback, and the Logger gets a line with its level, its title and its fields. So does
// every event of All. An event has a text.
func TestEveryEventIsAnnouncedInBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		var logs bytes.Buffer
		r := New(Config{Logger: slog.New(slog.NewTextHandler(&logs, nil)), Events: All(h.hear)})
		r.SetDir("/store")
		everything(r)
		time.Sleep(2 * settle)
		synctest.Wait()
		lines := strings.Split(strings.TrimSpace(logs.String()), "\n")
		fields := reflect.TypeFor[Events]()
		if len(h.all) != fields.NumField() || len(lines) != len(h.all) {
			t.Fatalf("%d events, %d lines, want %d:\n%s", len(h.all), len(lines), fields.NumField(), &logs)
		}
		for i, e := range h.all {
			want := fmt.Sprintf("level=%v msg=%q dir=/store", e.Level(), e.title())
			if !strings.Contains(lines[i], want) {
				t.Errorf("%T: line %q lacks %q", e, lines[i], want)
			}
			for _, a := range e.LogValue().Group() {
				if strings.Count(lines[i], " "+a.Key+"=") != 1 || a.Value.String() == "" {
					t.Errorf("%T: line %q lacks %q, or has it twice", e, lines[i], a.Key)
				}
			}
			if text := e.String(); text == "" || strings.Contains(text, "%!") || strings.Contains(text, "\n") {
				t.Errorf("%T: text %q", e, text)
			}
		}
		var want []string
		for i := range fields.NumField() {
			want = append(want, fields.Field(i).Name)
		}
		got := h.names()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

// A Reporter that is nil, or to which nobody listens, does nothing and starts nothing.
func TestNobodyListens(t *testing.T) {
	everything(nil)
	var none *Reporter
	none.SetDir("")
	none.Flush()
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		everything(r)
		synctest.Wait()
		if r.delivering || len(r.queue) > 0 || r.idle != nil {
			t.Error("events are queued")
		}
	})
}

// A callback that panics, or ends its goroutine, and a Logger that panics, harm only themselves. Later events are
// announced, in order, and the panic of a callback is logged.
func TestCallbackThatFails(t *testing.T) {
	for i, fail := range []func(){func() { panic("bad callback") }, runtime.Goexit} {
		var h heard
		var logs bytes.Buffer
		events := All(h.hear)
		events.TxOpen = func(TxOpenInfo) { fail() }
		r := New(Config{Logger: slog.New(slog.NewTextHandler(&logs, nil)), Events: events})
		for range 3 {
			r.TxOpen(1, 0)
			r.BatchOpen(1, 0)
		}
		r.Flush()
		h.want(t, "BatchOpen", "BatchOpen", "BatchOpen")
		if n, want := strings.Count(logs.String(), "bad callback"), 3-3*i; n != want {
			t.Errorf("logged %d times, want %d:\n%s", n, want, &logs)
		}
	}
	var h heard
	r := New(Config{Logger: slog.New(badHandler{slog.DiscardHandler}), Events: All(h.hear)})
	r.TxOpen(1, 0)
	r.TxOpen(2, 0)
	r.Flush()
	h.want(t, "TxOpen", "TxOpen")
}

type badHandler struct{ slog.Handler }

func (badHandler) Enabled(context.Context, slog.Level) bool { panic("bad handler") }

// A callback that blocks delays only events. Those that find no room are counted, Flush gives up, and nothing else
// waits.
func TestCallbackThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		free := make(chan bool)
		events := All(h.hear)
		events.LogFailed = func(LogFailedInfo) { <-free }
		r := New(Config{Events: events})
		r.LogFailed(nil)
		synctest.Wait()
		for i := range mostQueued + 5 {
			r.TxOpen(uint64(i), 0)
		}
		start := time.Now()
		if r.Flush(); time.Since(start) != flushLimit {
			t.Errorf("Flush returned after %v", time.Since(start))
		}
		close(free)
		synctest.Wait() // all are announced
		r.BatchOpen(1, 0)
		start = time.Now()
		if r.Flush(); time.Since(start) != 0 {
			t.Errorf("Flush waited for %v after the last event", time.Since(start))
		}
		h.all = h.all[:len(h.all)-1]
		if n := len(h.all); n != mostQueued+1 {
			t.Fatalf("%d events, want %d", n, mostQueued+1)
		}
		last, _ := h.all[mostQueued].(BackgroundErrorInfo)
		if last.Err == nil || !strings.HasPrefix(last.Err.Error(), "5 events") {
			t.Errorf("the last event is %v", h.all[mostQueued])
		}
		for i, e := range h.all[:mostQueued] {
			if e.(TxOpenInfo).TS != uint64(i) {
				t.Fatalf("event %d is %v", i, e)
			}
		}
	})
}

// The beginning of a condition is announced at once, its end after it has been over for a while: a condition that ends
// and begins again at once, as a full disk that is cleaned, is announced once.
func TestConditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		r := New(Config{Events: All(h.hear)})
		r.Room("log") // it was never full
		for range 10 {
			r.DiskFull("log", syscall.ENOSPC)
			time.Sleep(settle / 3)
			r.Room("log")
			r.Room("log")
			time.Sleep(settle / 2)
		}
		r.DiskFull("blobs", syscall.ENOSPC)
		synctest.Wait()
		h.want(t, "DiskFull", "DiskFull")
		time.Sleep(settle)
		synctest.Wait()
		if got := h.all[0].(SpaceAgainInfo); got.What != "log" || got.After < 8*settle || got.After > 12*settle {
			t.Errorf("%+v", got)
		}
		h.want(t, "SpaceAgain")
		r.DiskFull("log", syscall.ENOSPC) // again
		r.Room("blobs")
		time.Sleep(2 * settle)
		synctest.Wait()
		h.want(t, "DiskFull", "SpaceAgain")
		r.Room("log") // as each step does that makes progress
		for range 20 {
			r.Room("log")
			time.Sleep(settle / 4)
		}
		synctest.Wait()
		h.want(t, "SpaceAgain")
		r.DiskFull("log", syscall.ENOSPC)
		r.Room("log")
		time.Sleep(settle / 2)
		r.DiskFull("log", syscall.ENOSPC) // and stays so
		time.Sleep(time.Minute)
		synctest.Wait()
		h.want(t, "DiskFull")
	})
}

// A Reporter remembers a limited number of places, and then announces them again.
func TestRememberedPlacesAreLimited(t *testing.T) {
	r := New(Config{Events: All(func(Event) {})})
	for i := range 3 * mostSaid {
		r.Panic(PanicInfo{Page: format.PageID(i)})
		if len(r.said) > mostSaid {
			t.Fatalf("%d places are remembered", len(r.said))
		}
	}
	if !r.once("panic 0") || r.once("panic 0") {
		t.Error("a place that was forgotten is not announced again, or twice")
	}
	r.Flush()
}

// A line in JSON has the text of an error, and the place of corruption only once.
func TestErrorsInJSON(t *testing.T) {
	var logs bytes.Buffer
	r := New(Config{Logger: slog.New(slog.NewJSONHandler(&logs, nil))})
	r.LogFailed(fmt.Errorf("cause: %w", syscall.EIO))
	_ = r.Corrupt(&recovery.CorruptError{File: "/store/log", Place: recovery.Place{}.WithPage(7), Reason: "reason"})
	r.Flush()
	lines := strings.Split(logs.String(), "\n")
	if !strings.Contains(lines[0], `"cause: input/output error"`) {
		t.Errorf("%s lacks the error", lines[0])
	}
	if strings.Count(lines[1], "/store/log") != 1 || strings.Contains(lines[1], `"file"`) {
		t.Errorf("%s has the file twice", lines[1])
	}
}

// Corruption of one place, a panic on one page, and the same error in the background are announced once. An error whose
// cause was announced is not, and an error that is not one of corruption is no Corruption. The event keeps the place
// that was known when it was reported.
func TestOnce(t *testing.T) {
	var h heard
	known := errors.New("known")
	r := New(Config{Events: All(h.hear), Announced: func(err error) bool { return errors.Is(err, known) }})
	corrupt := func(pid format.PageID) error {
		return &recovery.CorruptError{File: "log", Place: recovery.Place{}.WithPage(pid)}
	}
	for range 3 {
		for pid := range format.PageID(2) {
			err := corrupt(pid)
			if got := r.Corrupt(err); got != err {
				t.Errorf("Corrupt returned %v", got)
			}
			err.(*recovery.CorruptError).Place = recovery.Place{} // the caller's
			r.Panic(PanicInfo{Page: pid})
			r.Background("what", "", corrupt(pid))
		}
		r.Background("what", "file", syscall.EIO)
		r.Background("what", "", known)
		r.Background("what", "", nil)
		_ = r.Corrupt(known)
		_ = r.Corrupt(fmt.Errorf("read: %w", syscall.EIO)) // unreadable
		_ = r.Corrupt(nil)
		r.Corruption("snapshot skipped", syscall.EACCES)
		r.Degraded("reader", "", "reason")
		r.Degraded("device", "", "")
	}
	r.Flush()
	want := recovery.Place{}.WithPage(1)
	i := h.all[2].(CorruptionInfo)
	if i.File != "log" || i.Place != want || i.Err.(*recovery.CorruptError).Place != want {
		t.Errorf("%+v", i)
	}
	h.want(t, "Corruption", "Panic", "Corruption", "Panic", "BackgroundError", "Corruption", "BackgroundError",
		"Degraded")
}
