package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/invariants"
)

// txCalls calls every method of a transaction that can fail, and returns the errors by name.
func txCalls(tx *engine.Tx[[]byte], pid engine.PageID) map[string]error {
	_, get := tx.Get(pid)
	_, allocate := tx.Allocate([]byte("x"))
	link, replace, free := tx.Link(pid, nil), tx.Replace(pid, nil), tx.Free(pid)
	_, commit := tx.Commit()
	return map[string]error{"Get": get, "Allocate": allocate, "Link": link, "Replace": replace, "Free": free,
		"Commit": commit}
}

// wantErrors fails the test unless all errors wrap one, and name their call and the reason.
func wantErrors(t *testing.T, errs map[string]error, wanted error, reason string) {
	t.Helper()
	for name, err := range errs {
		if !errors.Is(err, wanted) {
			t.Errorf("%s: %v, want %v", name, err, wanted)
		} else if text := err.Error(); !strings.HasPrefix(text, strings.ToLower(name)) ||
			!strings.Contains(text, reason) {
			t.Errorf("%s: %q does not say which call failed, and that %q", name, text, reason)
		}
	}
}

// A Tx cannot be used after its end, also if the store has given its memory to another caller since then, which only
// builds with the invariants tag can tell.
func TestTxIsNotUsedAfterItsEnd(t *testing.T) {
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, pc)
	pid, _ := enginetest.Allocate(t, pc, []byte("a"))
	ends := map[string]func(tx *engine.Tx[[]byte]){
		"at once":  func(tx *engine.Tx[[]byte]) { tx.End() },
		"rollback": func(tx *engine.Tx[[]byte]) { _ = tx.Link(pid, []byte("b")); tx.End() },
		"commit": func(tx *engine.Tx[[]byte]) {
			_, _ = tx.Get(pid)
			if _, err := tx.Commit(); err != nil {
				t.Error(err)
			}
			tx.End()
		},
	}
	for name, end := range ends {
		tx := enginetest.Begin(t, pc)
		end(tx)
		if invariants.Enabled {
			other := enginetest.Begin(t, pc)
			defer other.End()
		}
		errs := txCalls(tx, pid)
		_, errs["Get"] = pc.Get(tx, pid)
		if t.Run(name, func(t *testing.T) { wantErrors(t, errs, engine.ErrTxEnded, "ended") }); t.Failed() {
			return
		}
	}
	// Not even in Update, which begins and ends the Tx itself.
	var kept *engine.Tx[[]byte]
	update(t, pc, func(tx *engine.Tx[[]byte]) error {
		kept = tx
		return tx.Link(pid, []byte("c"))
	})
	wantErrors(t, txCalls(kept, pid), engine.ErrTxEnded, "ended")
	want(t, pc, map[engine.PageID]string{pid: "ac"})
}

// A store takes no Tx of another one, and copies values of another one.
func TestTxOfAnotherStore(t *testing.T) {
	t.Parallel()
	a := enginetest.Open(t, t.TempDir(), nil)
	defer enginetest.Close(t, a)
	dir := t.TempDir()
	b := enginetest.Open(t, dir, nil)
	pidA, _ := enginetest.Allocate(t, a, []byte("of a"))
	ptrA := enginetest.Get(t, a, pidA).Ptr
	pidB, _ := enginetest.Allocate(t, b, []byte("of b"))
	tx := enginetest.Begin(t, b)
	_, get := a.Get(tx, pidA)
	_, _, allocate := a.Allocate(tx, nil)
	_, _, link := a.Link(tx, pidA, ptrA, nil)
	_, _, replace := a.Replace(tx, pidA, ptrA, nil)
	_, _, free := a.Free(tx, pidA, ptrA)
	wantErrors(t, map[string]error{"Get": get, "Allocate": allocate, "Link": link, "Replace": replace, "Free": free},
		engine.ErrTxEnded, "another store")
	tx.End()
	enginetest.Close(t, b)

	b = enginetest.Open(t, dir, nil) // so that the value is a view of the file
	tx = enginetest.Begin(t, b)
	p, err := tx.Get(pidB)
	if err != nil {
		t.Fatal(err)
	}
	into := enginetest.Begin(t, a)
	if err := into.Replace(pidA, p.Value); err != nil {
		t.Fatal(err)
	}
	tx.End()
	enginetest.Close(t, b)
	if _, err := into.Commit(); err != nil {
		t.Fatal(err)
	}
	into.End()
	want(t, a, map[engine.PageID]string{pidA: "of b"})
}

// A transaction that is open while the store is closed cannot go on, and changes nothing.
func TestTransactionEndsWithTheStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	pid, _ := enginetest.Allocate(t, pc, []byte("a"))
	tx := enginetest.Begin(t, pc)
	if err := tx.Link(pid, []byte("b")); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- pc.Close() }()
	for {
		if _, err := tx.Get(pid); err != nil {
			break
		}
	}
	wantErrors(t, txCalls(tx, pid), engine.ErrClosed, "closed")
	tx.End()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := pc.Update(context.Background(), nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Update after Close: %v", err)
	}
	pc = enginetest.Open(t, dir, nil)
	want(t, pc, map[engine.PageID]string{pid: "a"})
	enginetest.Close(t, pc)
}
