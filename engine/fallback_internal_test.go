package engine

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/engine/internal/txn"
)

// While a transaction holds the token, every call that changes what it has read waits, until the token is lost at the
// latest, and no other call waits. Proves Q7.
func TestCallsWaitForTheToken(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		pc := openTest(t, dir, &Options{ConsolidateAfter: 2, seam: seam.Options{Foreground: true}})
		defer closeTest(t, pc)
		read, _ := allocate(t, pc, nil)
		other, _ := allocate(t, pc, nil)
		third, _ := allocate(t, pc, nil)
		waits := func(what string, want time.Duration, f func(tx *Tx[[]byte]) error) {
			t.Helper()
			holder := begin(t, pc)
			defer holder.End()
			token := pc.fallback.Take(t.Context())
			defer token.End()
			holder.t.token = token
			if _, err := holder.Get(read); err != nil {
				t.Fatal(err)
			}
			_, root := holder.Root("read")
			_, missing := holder.Root("missing")
			if root != nil && !errors.Is(root, ErrRootNotFound) || !errors.Is(missing, ErrRootNotFound) {
				t.Fatal(root, missing)
			}
			start, done := time.Now(), make(chan error)
			go func() {
				tx, err := pc.Begin()
				if err == nil {
					err = f(tx)
					tx.End()
				}
				done <- err
			}()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("%s takes %v, want %v", what, took, want)
			}
		}
		single := func(pid PageID, f func(tx *Tx[[]byte], p PagePtr[[]byte]) (PagePtr[[]byte], bool, error)) func(
			*Tx[[]byte]) error {
			return func(tx *Tx[[]byte]) error {
				p, err := pc.Get(tx, pid)
				if err == nil {
					var won bool
					if _, won, err = f(tx, p.Ptr); !won && err == nil {
						err = errors.New("it lost")
					}
				}
				return err
			}
		}
		link := func(pid PageID) func(*Tx[[]byte]) error {
			return single(pid, func(tx *Tx[[]byte], p PagePtr[[]byte]) (PagePtr[[]byte], bool, error) {
				return pc.Link(tx, pid, p, []byte("x"))
			})
		}
		cas := func(name string, old, to PageID) func(*Tx[[]byte]) error {
			return func(tx *Tx[[]byte]) error {
				_, _, err := pc.CASRoot(tx, name, old, to)
				return err
			}
		}
		commit := func(pids ...PageID) func(*Tx[[]byte]) error {
			return func(tx *Tx[[]byte]) error {
				for _, pid := range pids {
					if err := tx.Link(pid, []byte("y")); err != nil {
						return err
					}
				}
				_, err := tx.Commit()
				return err
			}
		}
		const all = txn.TokenTime
		waits("Link", all, link(read))
		waits("Link of another page", 0, link(other))
		waits("Replace", all, single(read, func(tx *Tx[[]byte], p PagePtr[[]byte]) (PagePtr[[]byte], bool, error) {
			return pc.Replace(tx, read, p, nil)
		}))
		waits("CASRoot of a root that was missing", all, cas("read", 0, 5))
		waits("CASRoot", all, cas("read", 5, 6))
		waits("a commit of one page", all, commit(read))
		waits("a commit of two pages", all, commit(other, read))
		waits("a commit of other pages", 0, commit(other, third))
		waits("a commit of a root", all, func(tx *Tx[[]byte]) error {
			if err := tx.SetRoot("read", 7); err != nil {
				return err
			}
			_, err := tx.Commit()
			return err
		})
		waits("reading", 0, func(tx *Tx[[]byte]) error {
			_, err := tx.Get(read)
			_, root := tx.Root("read")
			_, commit := tx.Commit()
			_, get := pc.Get(tx, read)
			return errors.Join(err, root, commit, get)
		})
		waits("housekeeping", 0, func(tx *Tx[[]byte]) error {
			pc.mem.evict(tx.base(), read, true)
			s := pc.pages.Table.Get(read)
			_, err := pc.consolidate(tx.base(), read, s, pc.pages.Clock.Load(s))
			return err
		})
		waits("the next commit of the same goroutine", 2*all, func(tx *Tx[[]byte]) error {
			err := link(read)(tx)
			next := pc.fallback.Take(t.Context())
			next.Add(read)
			err = errors.Join(err, link(read)(tx))
			next.End()
			return err
		})
		waits("Free", all, single(read, func(tx *Tx[[]byte], p PagePtr[[]byte]) (PagePtr[[]byte], bool, error) {
			return pc.Free(tx, read, p)
		}))
	})
}
