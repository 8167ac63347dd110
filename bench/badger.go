//go:build !abtest

package bench

import (
	"errors"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger is a Store on Dgraph's LSM tree. A page is a key of 8 bytes. Link reads the page and writes it anew, in one
// transaction.
type Badger struct {
	DB   *badger.DB
	sync bool
}

var _ Store = (*Badger)(nil)

// OpenBadger opens the store in dir, or makes one.
func OpenBadger(dir string, o PeerOptions) (*Badger, error) {
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil).WithMetricsEnabled(false).
		WithSyncWrites(o.Sync).WithBlockCacheSize(o.cache()).WithCompression(options.None).WithNumCompactors(2))
	if err != nil {
		return nil, err
	}
	return &Badger{db, o.Sync}, nil
}

// Replace implements Store.
func (s *Badger) Replace(page int, value []byte) error {
	var k [8]byte
	return s.retry(func(txn *badger.Txn) error { return txn.Set(key(&k, page), value) })
}

// Link implements Store.
func (s *Badger) Link(page int, delta []byte) error {
	var k [8]byte
	return s.retry(func(txn *badger.Txn) error {
		item, err := txn.Get(key(&k, page))
		if err != nil {
			return err
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		return txn.Set(k[:], append(v, delta...))
	})
}

// retry runs f in transactions until one does not conflict. It ends because a conflict means that another transaction
// has succeeded.
func (s *Badger) retry(f func(txn *badger.Txn) error) error {
	for {
		if err := s.DB.Update(f); !errors.Is(err, badger.ErrConflict) {
			return err
		}
	}
}

// Commit implements Store.
func (s *Badger) Commit(page int, delta []byte) error {
	if err := s.Link(page, delta); err != nil || s.sync {
		return err
	}
	return s.DB.Sync()
}

// Get implements Store.
func (s *Badger) Get(page int) (n int, err error) {
	var k [8]byte
	err = s.DB.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key(&k, page))
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			n = look(v)
			return nil
		})
	})
	return n, err
}

// loadMany writes pages in one batch.
func (s *Badger) loadMany(first int, values [][]byte) error {
	b := s.DB.NewWriteBatch()
	defer b.Cancel()
	for i, v := range values {
		if err := b.Set(key(new([8]byte), first+i), v); err != nil {
			return err
		}
	}
	return b.Flush()
}

// Flush implements Store.
func (s *Badger) Flush() error { return s.DB.Sync() }

// Close implements Store.
func (s *Badger) Close() error { return s.DB.Close() }
