package load

import (
	"fmt"
	"sync"

	"pagecache/engine"
)

// records are the newest records of a standalone log. The older ones are dropped.
type records struct {
	log *engine.Log

	mu   sync.Mutex
	ring []record // record k is at k % len
	n    int64    // records written
}

type record struct {
	lsn engine.LSN
	ptr engine.DiskPtr
}

func newRecords(l *engine.Log, size int) *records {
	return &records{log: l, ring: make([]record, size)}
}

// adopt takes the records of an earlier opening of the same log.
func (r *records) adopt(old *records) { r.ring, r.n = old.ring, old.n }

// dropEvery is the number of records after which the log is asked to drop old ones.
const dropEvery = 256

// append appends a record, and drops the records that are too old. It returns the LSN and the size.
func (r *records) append(v *values, i int64) (engine.LSN, int64, error) {
	b, err := v.take(i)
	if err != nil {
		return 0, 0, err
	}
	lsn, ptr, err := r.log.Write(b)
	if err != nil {
		return 0, 0, err
	}
	size := int64(len(r.ring))
	r.mu.Lock()
	r.ring[r.n%size] = record{lsn, ptr}
	r.n++
	drop := r.n > size && r.n%dropEvery == 0
	oldest := lsn
	if drop {
		for k := range min(size, 1<<12) { // goroutines may enter their records in another order than the log's
			oldest = min(oldest, r.ring[(r.n+k)%size].lsn)
		}
	}
	r.mu.Unlock()
	if drop {
		err = r.log.DropBelow(oldest)
	}
	return lsn, int64(len(b)), err
}

// read reads record i of the ring. A record that was dropped meanwhile counts as empty.
func (r *records) read(i int64) ([]byte, error) {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return nil, nil
	}
	x := r.ring[i%min(r.n, int64(len(r.ring)))]
	r.mu.Unlock()
	b, err := r.log.Read(x.lsn, x.ptr)
	if err != nil && x.lsn < r.log.FirstLSN() {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record at LSN %d: %w", x.lsn, err)
	}
	return b, nil
}
