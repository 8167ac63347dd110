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
	opts := badger.DefaultOptions(dir).WithLogger(nil).WithMetricsEnabled(false).WithSyncWrites(o.Sync).
		WithBlockCacheSize(o.cache()).WithCompression(options.None).WithNumCompactors(2)
	if o.Buffer > 0 { // memory is short
		const cacheShare, memtables = 2, 2 // Badger needs memory besides its cache
		opts = opts.WithMemTableSize(o.Buffer).WithNumMemtables(memtables).WithBlockCacheSize(o.cache() / cacheShare).
			WithValueLogFileSize(2 * o.Buffer)
	}
	db, err := badger.Open(opts)
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
	return s.update(page, func(v []byte) []byte { return append(v, delta...) })
}

// update replaces a page by what change makes of its value, which change may modify and keep.
func (s *Badger) update(page int, change func(value []byte) []byte) error {
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
		return txn.Set(k[:], change(v))
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

var _ Updater = (*Badger)(nil)

// GetLink implements Updater.
func (s *Badger) GetLink(page int, delta []byte) error {
	return s.update(page, func(v []byte) []byte {
		look(v)
		return append(v, delta...)
	})
}

// BlindLink implements Updater. Badger cannot append without reading.
func (s *Badger) BlindLink(page int, delta []byte) error { return s.Link(page, delta) }

// FragmentsLink implements Updater. A page of Badger is in one piece.
func (s *Badger) FragmentsLink(page int, delta []byte) error { return s.GetLink(page, delta) }

// GetReplace implements Updater.
func (s *Badger) GetReplace(page int, value []byte) error {
	var k [8]byte
	return s.retry(func(txn *badger.Txn) error {
		item, err := txn.Get(key(&k, page))
		if err != nil {
			return err
		}
		if err := item.Value(func(v []byte) error { look(v); return nil }); err != nil {
			return err
		}
		return txn.Set(k[:], value)
	})
}

// GetMany implements Updater.
func (s *Badger) GetMany(pages []int) error {
	return s.DB.View(func(txn *badger.Txn) error {
		var k [8]byte
		for _, i := range pages {
			item, err := txn.Get(key(&k, i))
			if err != nil {
				return err
			}
			if err := item.Value(func(v []byte) error { first(v); return nil }); err != nil {
				return err
			}
		}
		return nil
	})
}
