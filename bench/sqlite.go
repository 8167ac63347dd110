//go:build !abtest

package bench

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// SQLite is a Store on SQLite, translated to Go. A page is a row with an integer key. One connection writes; the writes
// that wait for it become one transaction.
type SQLite struct {
	read, write *sql.DB
	conn        *sql.Conn // the only one of write
	put, add    *sql.Stmt // of conn
	get         *sql.Stmt

	mu    sync.Mutex
	queue []*request
	lead  sync.Mutex // held by the goroutine that runs transactions
}

// request is a write that waits. The goroutine that holds lead sets err.
type request struct {
	stmt  *sql.Stmt
	page  int
	value []byte
	err   error
}

var _ Store = (*SQLite)(nil)

// OpenSQLite opens the store in dir, or makes one.
func OpenSQLite(dir string, o PeerOptions) (s *SQLite, err error) {
	sync := "NORMAL"
	if o.Sync {
		sync = "FULL"
	}
	pragma := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(" + sync + ")", "busy_timeout(10000)",
		fmt.Sprintf("cache_size(-%d)", o.cache()>>10), "mmap_size(4294967296)", "temp_store(MEMORY)"}}
	source := "file:" + filepath.Join(dir, "pages.sqlite") + "?" + pragma.Encode()
	s = &SQLite{}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.write, err = sql.Open("sqlite", source); err != nil {
		return s, err
	}
	if s.read, err = sql.Open("sqlite", source); err != nil {
		return s, err
	}
	s.write.SetMaxOpenConns(1)
	readers := 2 * runtime.GOMAXPROCS(0)
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	ctx := context.Background()
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return s, err
	}
	const table = "CREATE TABLE IF NOT EXISTS pages (id INTEGER PRIMARY KEY, v BLOB NOT NULL)"
	if _, err = s.conn.ExecContext(ctx, table); err != nil {
		return s, err
	}
	const put = "INSERT INTO pages (id, v) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET v = ?2"
	if s.put, err = s.conn.PrepareContext(ctx, put); err != nil {
		return s, err
	}
	const add = "UPDATE pages SET v = CAST(v || ?2 AS BLOB) WHERE id = ?1"
	if s.add, err = s.conn.PrepareContext(ctx, add); err != nil {
		return s, err
	}
	s.get, err = s.read.Prepare("SELECT v FROM pages WHERE id = ?")
	return s, err
}

// change executes a statement, in one transaction with the others that wait. A request that is no longer in the queue
// was run by the goroutine that held lead before.
func (s *SQLite) change(stmt *sql.Stmt, page int, value []byte) error {
	r := &request{stmt: stmt, page: page, value: value}
	s.mu.Lock()
	s.queue = append(s.queue, r)
	s.mu.Unlock()
	s.lead.Lock()
	defer s.lead.Unlock()
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	if len(batch) > 0 {
		s.transaction(batch)
	}
	return r.err
}

// transaction runs all requests of a batch.
func (s *SQLite) transaction(batch []*request) {
	ctx := context.Background()
	var err error
	if len(batch) > 1 {
		_, err = s.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	}
	for _, r := range batch {
		if err == nil {
			_, err = r.stmt.Exec(r.page, r.value)
		}
	}
	if len(batch) > 1 {
		end := "COMMIT"
		if err != nil {
			end = "ROLLBACK"
		}
		if _, eerr := s.conn.ExecContext(ctx, end); err == nil {
			err = eerr
		}
	}
	for _, r := range batch {
		r.err = err
	}
}

// Replace implements Store.
func (s *SQLite) Replace(page int, value []byte) error { return s.change(s.put, page, value) }

// Link implements Store.
func (s *SQLite) Link(page int, delta []byte) error { return s.change(s.add, page, delta) }

// Commit implements Store. The write is durable if the store was opened for commits.
func (s *SQLite) Commit(page int, delta []byte) error { return s.change(s.add, page, delta) }

// Get implements Store.
func (s *SQLite) Get(page int) (int, error) {
	var v []byte
	err := s.get.QueryRow(page).Scan(&v)
	return look(v), err
}

// loadMany writes pages in one transaction.
func (s *SQLite) loadMany(first int, values [][]byte) error {
	batch := make([]*request, len(values))
	for i, v := range values {
		batch[i] = &request{stmt: s.put, page: first + i, value: v}
	}
	s.lead.Lock()
	defer s.lead.Unlock()
	s.transaction(batch)
	return batch[0].err
}

// Flush implements Store.
func (s *SQLite) Flush() error {
	s.lead.Lock()
	defer s.lead.Unlock()
	_, err := s.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// Close implements Store.
func (s *SQLite) Close() (err error) {
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	for _, stmt := range []*sql.Stmt{s.get, s.put, s.add} {
		if stmt != nil {
			keep(stmt.Close())
		}
	}
	if s.conn != nil {
		keep(s.conn.Close())
	}
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			keep(db.Close())
		}
	}
	return err
}
