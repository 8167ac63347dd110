package recovery

import (
	"errors"
	"strings"
	"testing"

	"pagecache/segments/format"
)

type failingBulk struct {
	failing
	*lending
}

func (f failingBulk) ReadAt(p []byte, off int64) (int, error) { return f.failing.ReadAt(p, off) }

type failing struct{ file }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= testSize {
		return 0, errors.New("medium error")
	}
	return f.file.ReadAt(p, off)
}

func TestReadErrorsAreNotCorruption(t *testing.T) {
	f := threeSegments().file
	o := threeSegments().options()
	bulk := o
	bulk.Bulk = failingBulk{failing{f}, &lending{}}
	for _, c := range []struct {
		Source
		Options
	}{{failing{f}, o}, {f, bulk}} {
		_, err := Scan(c.Source, c.Options)
		if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "medium error") {
			t.Errorf("%v", err)
		}
	}
}

func TestWorkersAndBulkBuffers(t *testing.T) {
	b := newBuilder()
	const n = 200 // 3 MiB
	for i := range n {
		b.open(n-1-i, format.LSN(i*testSize), format.SegmentStateInUse)
		b.pages(5, 1000)
		b.counter(uint64(i)) // the index keeps its body
		b.pages(5, 1000)
		b.fill()
	}
	for _, w := range []int{0, 1, 2, 7, 1000} {
		o := b.options()
		o.Workers = w
		b.scanned(t, o, n*testSize)
		bulk := &lending{file: b.file}
		o.Bulk = bulk
		b.scanned(t, o, n*testSize)
		if bulk.buffers == 0 || bulk.freed != bulk.buffers {
			t.Errorf("%d of %d buffers were freed", bulk.freed, bulk.buffers)
		}
		bulk.refuse = bulk.buffers
		bulk.buffers, bulk.freed = 0, 0
		if _, err := Scan(b.file, o); !errors.Is(err, errLent) || bulk.freed != bulk.refuse-1 {
			t.Errorf("%v, with %d of %d buffers", err, bulk.freed, bulk.refuse-1)
		}
	}
}

// lending is a Bulk that overwrites the buffers that are freed.
type lending struct {
	file
	buffers, freed int
	refuse         int // the number of the call that fails
}

var errLent = errors.New("no memory")

func (l *lending) Buffer(n int) ([]byte, func(), error) {
	if l.buffers++; l.buffers == l.refuse {
		return nil, nil, errLent
	}
	buf := make([]byte, n)
	return buf, func() {
		l.freed++
		for i := range buf {
			buf[i] = 0xdb
		}
	}, nil
}
