package pagetest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"pagecache/engine"
	"pagecache/engine/pagetest"
)

// entries are names with numbers: the page of a book, or a delta of it.
type entries map[string]int

// bookPages is the Materializer of entries.
type bookPages struct{}

func (bookPages) Merge(frags []entries) entries {
	merged := entries{}
	for _, f := range frags {
		maps.Copy(merged, f)
	}
	return merged
}

func (bookPages) Size(f entries) int {
	n := 48
	for name := range f {
		n += 64 + len(name)
	}
	return n
}

func (bookPages) Append(dst []byte, f entries) []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // no entries cause one
	}
	return append(dst, b...)
}

func (bookPages) Decode(src []byte) (f entries, err error) { return f, json.Unmarshal(src, &f) }

// book is a database of names with numbers, in one page of a store.
type book struct {
	*engine.PageCache[entries]
	page engine.PageID
}

// openBook opens the book in dir. A crash between Allocate and CASRoot leaves an empty page that nothing names.
func openBook(dir string, o *engine.Options) (*book, error) {
	pc, err := engine.Open(dir, bookPages{}, o)
	if err != nil {
		return nil, err
	}
	b := &book{PageCache: pc}
	err = b.do(func(tx *engine.Tx[entries]) error {
		if b.page, err = pc.Root(tx, "book"); !errors.Is(err, engine.ErrRootNotFound) {
			return err
		}
		if b.page, _, err = pc.Allocate(tx, entries{}); err == nil {
			_, _, err = pc.CASRoot(tx, "book", 0, b.page)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	return b, nil
}

// do calls f with a Tx.
func (b *book) do(f func(tx *engine.Tx[entries]) error) error {
	tx, err := b.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	return f(tx)
}

// put sets the number of a name. It returns when that is durable.
func (b *book) put(name string, number int) error {
	return b.do(func(tx *engine.Tx[entries]) error {
		page, err := b.Get(tx, b.page)
		for ptr, won := page.Ptr, false; err == nil; {
			if ptr, won, err = b.Link(tx, b.page, ptr, entries{name: number}); won {
				_, err = b.MakeStable(ptr.LastLSN())
				return err
			}
			if err == nil && ptr.IsZero() {
				return errors.New("the page is gone")
			}
		}
		return err
	})
}

// all returns a copy of all entries.
func (b *book) all() (all entries, err error) {
	err = b.do(func(tx *engine.Tx[entries]) error {
		page, err := b.Get(tx, b.page)
		all = maps.Clone(page.Value)
		return err
	})
	return all, err
}

// The page type keeps the contract of a Materializer.
func TestBookPages(t *testing.T) {
	pagetest.Materializer(t, bookPages{}, func(r *rand.Rand, _ bool) entries {
		f := entries{}
		for range r.IntN(5) {
			f[fmt.Sprint("name ", r.IntN(10))] = r.IntN(1000)
		}
		return f
	})
}

// The power fails at each operation of the disk in turn. Whatever put has acknowledged is in the book afterwards, and
// beside it at most the one entry that was under way. A closed book leaves nothing behind, and Check finds it whole.
func TestBookSurvivesCrashes(t *testing.T) {
	pagetest.CheckLeaks(t)
	for n := 1; ; n++ {
		disk := pagetest.NewDisk(uint64(n)) // the seed decides what each crash leaves of unfinished writes
		disk.CrashAfter(n)
		o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, ConsolidateAfter: 4, FlushEvery: -1}

		acked := entries{}
		b, err := openBook("/book", disk.Options(o))
		for i := 0; err == nil && i < 10; i++ {
			name := fmt.Sprint("name ", i)
			if err = b.put(name, i); err == nil {
				acked[name] = i
			}
		}
		if err == nil {
			err = b.Close()
		} else if b != nil {
			_ = b.Close() // it cannot be clean any more
		}
		if err != nil && !errors.Is(err, pagetest.ErrCrashed) {
			t.Fatalf("crash at operation %d: %v", n, err)
		}

		done := !disk.Crashed() // the run needs fewer than n operations: all were tried
		after := disk.Crash()
		if b, err = openBook("/book", after.Options(o)); err != nil {
			t.Fatalf("crash at operation %d: %v", n, err)
		}
		all, err := b.all()
		if err != nil {
			t.Fatalf("crash at operation %d: %v", n, err)
		}
		for name, number := range acked {
			if all[name] != number {
				t.Errorf("crash at operation %d: %s is %d, acknowledged was %d", n, name, all[name], number)
			}
		}
		if len(all) > len(acked)+1 {
			t.Errorf("crash at operation %d: %d entries, only %d were acknowledged", n, len(all), len(acked))
		}
		pagetest.Close(t, b, after.Options(o))
		if done {
			return
		}
	}
}
