package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// contextStore is a page store or a log.
type contextStore interface {
	enginetest.Store
	MakeStableContext(context.Context, engine.LSN) (int, error)
	FlushContext(context.Context) (int, error)
	CloseContext(context.Context) error
	StableLSN() engine.LSN
}

// contextStores open a store on d and write a message that is not stable yet. They return its LSN.
var contextStores = map[string]func(t *testing.T, d *simdisk.Disk) (contextStore, engine.LSN){
	"PageCache": func(t *testing.T, d *simdisk.Disk) (contextStore, engine.LSN) {
		pc := enginetest.OpenSim(t, d)
		_, lsn := enginetest.Allocate(t, pc, []byte("stable"))
		return pc, lsn
	},
	"Log": func(t *testing.T, d *simdisk.Disk) (contextStore, engine.LSN) {
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		lsn, _, err := l.Write([]byte("stable"))
		if err != nil {
			t.Fatal(err)
		}
		return l, lsn
	},
}

// contextCalls are the calls that take a context. Each needs the device to make the message at lsn stable.
var contextCalls = map[string]func(ctx context.Context, s contextStore, lsn engine.LSN) error{
	"MakeStableContext": func(ctx context.Context, s contextStore, lsn engine.LSN) error {
		_, err := s.MakeStableContext(ctx, lsn)
		return err
	},
	"FlushContext": func(ctx context.Context, s contextStore, _ engine.LSN) error {
		_, err := s.FlushContext(ctx)
		return err
	},
	"SnapshotContext": func(ctx context.Context, s contextStore, _ engine.LSN) error {
		return s.(*engine.PageCache[[]byte]).SnapshotContext(ctx)
	},
	"CloseContext": func(ctx context.Context, s contextStore, _ engine.LSN) error {
		return s.CloseContext(ctx)
	},
}

// eachContextCall runs a subtest for each call of each kind of store.
func eachContextCall(t *testing.T, test func(t *testing.T, store, call string)) {
	for store := range contextStores {
		for call := range contextCalls {
			if store == "PageCache" || call != "SnapshotContext" {
				t.Run(store+"/"+call, func(t *testing.T) { test(t, store, call) })
			}
		}
	}
}

// While the device hangs, a call with a context ends when the context does, with the context's error: on a deadline, on
// a cancellation, and if the context has ended before the call.
func TestContextEndsCallsOnHangingDevice(t *testing.T) {
	t.Parallel()
	const wait = 20 * time.Millisecond // less than any other limit on a wait
	contexts := map[string]struct {
		make func() (context.Context, context.CancelFunc)
		want error
	}{
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), wait)
		}, context.DeadlineExceeded},
		"cancellation": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(wait, cancel)
			return ctx, cancel
		}, context.Canceled},
		"ended before": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel
		}, context.Canceled},
	}
	eachContextCall(t, func(t *testing.T, store, call string) {
		for how, c := range contexts {
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				d := simdisk.New(1, simdisk.Options{})
				s, lsn := contextStores[store](t, d)
				d.Hang(true)
				defer d.Hang(false)
				ctx, cancel := c.make()
				defer cancel()
				enginetest.Soon(t, call, func() {
					if err := contextCalls[call](ctx, s, lsn); !errors.Is(err, c.want) {
						t.Errorf("error %v, want %v", err, c.want)
					}
				})
				if stable := s.StableLSN(); stable >= lsn {
					t.Errorf("stable LSN %d, although the device completed no write", stable)
				}
				if call == "CloseContext" {
					enginetest.NoCheck(t, s) // the lock stays, because the device was busy
					return
				}
				d.Hang(false)
				enginetest.Close(t, s)
			})
		}
	})
}

// If the device works, a call with a context that does not end does the same as the call without one.
func TestContextCallsWork(t *testing.T) {
	eachContextCall(t, func(t *testing.T, store, call string) {
		d := simdisk.New(1, simdisk.Options{})
		s, lsn := contextStores[store](t, d)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := contextCalls[call](ctx, s, lsn); err != nil {
			t.Fatal(err)
		}
		if stable := s.StableLSN(); stable < lsn {
			t.Errorf("stable LSN %d, want at least %d", stable, lsn)
		}
		written := store == "PageCache" && (call == "SnapshotContext" || call == "CloseContext")
		if n := s.Stats().Snapshots; (n > 0) != written {
			t.Errorf("%d snapshots were written", n)
		}
		d = d.Crash(1)
		if store == "Log" {
			l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
			if _, got := enginetest.Records(t, l, 0); len(got) != 1 || got[0] != "stable" {
				t.Errorf("records %q, want \"stable\"", got)
			}
			return
		}
		pc := enginetest.OpenSim(t, d)
		if p := enginetest.Get(t, pc, engine.FirstUserPage); string(p.Value) != "stable" {
			t.Errorf("page holds %q, want \"stable\"", p.Value)
		}
	})
}
