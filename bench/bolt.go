//go:build !abtest

package bench

import (
	"fmt"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// Bolt is a Store on a B+ tree that copies pages on write. A page is a key of 8 bytes. Link reads the page and writes
// it anew, in one transaction.
type Bolt struct {
	DB    *bolt.DB
	batch bool // writes of several goroutines share transactions
}

var (
	_      Store = (*Bolt)(nil)
	bucket       = []byte("pages")
)

// OpenBolt opens the store in dir, or makes one.
func OpenBolt(dir string, o PeerOptions) (*Bolt, error) {
	db, err := bolt.Open(filepath.Join(dir, "pages.db"), 0o644, &bolt.Options{NoFreelistSync: true,
		FreelistType: bolt.FreelistMapType, NoSync: !o.Sync, InitialMmapSize: 4 << 30})
	if err != nil {
		return nil, err
	}
	s := &Bolt{DB: db, batch: o.Sync && o.Goroutines > 1}
	if s.batch {
		db.MaxBatchSize = o.Goroutines
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// update runs f in a transaction.
func (s *Bolt) update(f func(b *bolt.Bucket) error) error {
	run := s.DB.Update
	if s.batch {
		run = s.DB.Batch
	}
	return run(func(tx *bolt.Tx) error { return f(tx.Bucket(bucket)) })
}

// Replace implements Store.
func (s *Bolt) Replace(page int, value []byte) error {
	return s.update(func(b *bolt.Bucket) error { return b.Put(key(new([8]byte), page), value) })
}

// Link implements Store.
func (s *Bolt) Link(page int, delta []byte) error {
	return s.change(page, func(v []byte) []byte { return append(v[:len(v):len(v)], delta...) })
}

// change replaces a page by what f makes of its value, which f must not modify.
func (s *Bolt) change(page int, f func(value []byte) []byte) error {
	return s.update(func(b *bolt.Bucket) error {
		k := key(new([8]byte), page)
		v := b.Get(k)
		if v == nil {
			return fmt.Errorf("page %d does not exist", page)
		}
		return b.Put(k, f(v))
	})
}

// Commit implements Store.
func (s *Bolt) Commit(page int, delta []byte) error {
	if err := s.Link(page, delta); err != nil || !s.DB.NoSync {
		return err
	}
	return s.DB.Sync()
}

// Get implements Store.
func (s *Bolt) Get(page int) (n int, err error) {
	err = s.view(page, func(v []byte) error {
		n = look(v)
		return nil
	})
	return n, err
}

// view calls f with the value of a page, which f must not keep.
func (s *Bolt) view(page int, f func(value []byte) error) error {
	return s.DB.View(func(tx *bolt.Tx) error {
		var k [8]byte
		return f(tx.Bucket(bucket).Get(key(&k, page)))
	})
}

// loadMany writes pages in one transaction.
func (s *Bolt) loadMany(first int, values [][]byte) error {
	return s.DB.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		for i, v := range values {
			if err := b.Put(key(new([8]byte), first+i), v); err != nil {
				return err
			}
		}
		return nil
	})
}

// Flush implements Store.
func (s *Bolt) Flush() error { return s.DB.Sync() }

// Close implements Store.
func (s *Bolt) Close() error { return s.DB.Close() }

var _ Updater = (*Bolt)(nil)

// GetLink implements Updater.
func (s *Bolt) GetLink(page int, delta []byte) error {
	return s.change(page, func(v []byte) []byte {
		look(v)
		return append(v[:len(v):len(v)], delta...)
	})
}

// BlindLink implements Updater. bbolt cannot append without reading.
func (s *Bolt) BlindLink(page int, delta []byte) error { return s.Link(page, delta) }

// FragmentsLink implements Updater. A page of bbolt is in one piece.
func (s *Bolt) FragmentsLink(page int, delta []byte) error { return s.GetLink(page, delta) }

// GetReplace implements Updater.
func (s *Bolt) GetReplace(page int, value []byte) error {
	return s.change(page, func(v []byte) []byte {
		look(v)
		return value
	})
}

// GetMany implements Updater.
func (s *Bolt) GetMany(pages []int) error {
	return s.DB.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		var k [8]byte
		for _, i := range pages {
			first(b.Get(key(&k, i)))
		}
		return nil
	})
}
