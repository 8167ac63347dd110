//go:build !abtest

package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	bolt "go.etcd.io/bbolt"

	"pagecache/engine"
)

// Transactor is a Store with transactions of several pages: they take effect in one step, and only if no page that they
// have read has changed. All calls are safe for concurrent use.
type Transactor interface {
	Store
	// Transact makes a transaction. After a conflict with another one it begins anew. It returns the number of
	// conflicts.
	Transact(t *Transaction) (conflicts int, err error)
}

// A Transaction reads pages and looks at them, and appends a delta to some of them.
type Transaction struct {
	Pages   []int // to read, each once; they exist
	Links   int   // the number of Pages, the first ones, to which Delta is appended
	Delta   []byte
	Durable bool // Transact returns once the changes are durable
}

var (
	_ Transactor = (*Pagecache)(nil)
	_ Transactor = (*Badger)(nil)
	_ Transactor = (*Bolt)(nil)
)

// Transact implements Transactor.
func (s *Pagecache) Transact(t *Transaction) (conflicts int, err error) {
	attempts := 0
	lsn, err := s.PC.Update(context.Background(), func(tx *engine.Tx[[]byte]) error {
		attempts++
		for _, i := range t.Pages {
			p, err := tx.Get(s.PageID(i))
			if err != nil {
				return err
			}
			look(p.Value)
		}
		for _, i := range t.Pages[:t.Links] {
			if err := tx.Link(s.PageID(i), t.Delta); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && t.Durable {
		_, err = s.PC.MakeStable(lsn)
	}
	return attempts - 1, err
}

// View reads pages as of one moment, in a transaction that writes nothing, and the first byte of each.
func (s *Pagecache) View(pages []int) error {
	return s.PC.View(context.Background(), func(tx *engine.Tx[[]byte]) error {
		for _, i := range pages {
			p, err := tx.Get(s.PageID(i))
			if err != nil {
				return err
			}
			first(p.Value)
		}
		return nil
	})
}

// Transact implements Transactor. The loop ends because a conflict means that another transaction has succeeded.
func (s *Badger) Transact(t *Transaction) (conflicts int, err error) {
	for {
		err = s.DB.Update(func(txn *badger.Txn) error { return linkInBadger(txn, t) })
		if !errors.Is(err, badger.ErrConflict) {
			break
		}
		conflicts++
	}
	if err == nil && t.Durable && !s.sync {
		err = s.DB.Sync()
	}
	return conflicts, err
}

func linkInBadger(txn *badger.Txn, t *Transaction) error {
	values := make([][]byte, t.Links)
	for n, i := range t.Pages {
		var k [8]byte
		item, err := txn.Get(key(&k, i))
		if err != nil {
			return err
		}
		if n >= t.Links {
			if err := item.Value(func(v []byte) error { look(v); return nil }); err != nil {
				return err
			}
			continue
		}
		if values[n], err = item.ValueCopy(make([]byte, 0, int(item.ValueSize())+len(t.Delta))); err != nil {
			return err
		}
		look(values[n])
	}
	for n, v := range values {
		if err := txn.Set(key(new([8]byte), t.Pages[n]), append(v, t.Delta...)); err != nil { // it keeps the key
			return err
		}
	}
	return nil
}

// Transact implements Transactor. bbolt has one writer at a time, so there are no conflicts.
func (s *Bolt) Transact(t *Transaction) (conflicts int, err error) {
	err = s.update(func(b *bolt.Bucket) error {
		values := make([][]byte, len(t.Pages))
		for n, i := range t.Pages {
			if values[n] = b.Get(key(new([8]byte), i)); values[n] == nil {
				return fmt.Errorf("page %d does not exist", i)
			}
			look(values[n])
		}
		for n, v := range values[:t.Links] {
			if err := b.Put(key(new([8]byte), t.Pages[n]), append(v[:len(v):len(v)], t.Delta...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && t.Durable && s.DB.NoSync {
		err = s.DB.Sync()
	}
	return 0, err
}
