package bench

import (
	"encoding/binary"
	"log"

	"github.com/cockroachdb/pebble/v2"
)

// PeerOptions are the settings of another store that depend on the work.
type PeerOptions struct {
	Cache      int64 // bytes of its own cache; 0: 512 MiB
	Sync       bool  // all writes are durable commits. Stores that need another setting for this use it
	Goroutines int   // that write at the same time
}

// defaultCache is the default of PeerOptions.Cache.
const defaultCache = 512 << 20

func (o PeerOptions) cache() int64 {
	if o.Cache > 0 {
		return o.Cache
	}
	return defaultCache
}

// Pebble is a Store on CockroachDB's LSM tree. A page is a key of 8 bytes. Link is a Merge with the default merger,
// which concatenates as engine.Bytes does.
type Pebble struct {
	DB    *pebble.DB
	cache *pebble.Cache
}

var _ Store = (*Pebble)(nil)

// quiet discards the messages that Pebble logs, except fatal ones.
type quiet struct{}

// Infof discards a message.
func (quiet) Infof(string, ...any) {}

// Errorf discards a message; the call that failed returns the error too.
func (quiet) Errorf(string, ...any) {}

// Fatalf ends the program, as Pebble expects.
func (quiet) Fatalf(form string, args ...any) { log.Fatalf(form, args...) }

// OpenPebble opens the store in dir, or makes one, with options that suit the comparison: large memtables, a large
// cache, and the write-ahead log.
func OpenPebble(dir string, o PeerOptions) (*Pebble, error) {
	s := &Pebble{cache: pebble.NewCache(o.cache())}
	db, err := pebble.Open(dir, &pebble.Options{
		Cache:                       s.cache,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                1000,
		FormatMajorVersion:          pebble.FormatNewest,
		Merger:                      pebble.DefaultMerger,
		CompactionConcurrencyRange:  func() (lower, upper int) { return 1, 2 },
		Logger:                      quiet{},
	})
	if err != nil {
		s.cache.Unref()
		return nil, err
	}
	s.DB = db
	return s, nil
}

func key(buf *[8]byte, page int) []byte {
	binary.BigEndian.PutUint64(buf[:], uint64(page))
	return buf[:]
}

// Replace implements Store.
func (s *Pebble) Replace(page int, value []byte) error {
	var k [8]byte
	return s.DB.Set(key(&k, page), value, pebble.NoSync)
}

// ReplaceSync is Replace, and returns once the write is durable.
func (s *Pebble) ReplaceSync(page int, value []byte) error {
	var k [8]byte
	return s.DB.Set(key(&k, page), value, pebble.Sync)
}

// Link implements Store.
func (s *Pebble) Link(page int, delta []byte) error {
	var k [8]byte
	return s.DB.Merge(key(&k, page), delta, pebble.NoSync)
}

// Commit implements Store.
func (s *Pebble) Commit(page int, delta []byte) error {
	var k [8]byte
	return s.DB.Merge(key(&k, page), delta, pebble.Sync)
}

// Get implements Store.
func (s *Pebble) Get(page int) (int, error) {
	var k [8]byte
	v, closer, err := s.DB.Get(key(&k, page))
	if err != nil {
		return 0, err
	}
	return look(v), closer.Close()
}

// Flush implements Store.
func (s *Pebble) Flush() error { return s.DB.LogData(nil, pebble.Sync) }

// Close implements Store.
func (s *Pebble) Close() error {
	defer s.cache.Unref()
	return s.DB.Close()
}
