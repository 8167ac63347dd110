package load

import (
	"bufio"
	"fmt"
	"io"

	"pagecache/cmd/pcbench/internal/job"
)

// intendedStart returns when operation k of the trace of a job is to begin, in ns after the base.
func intendedStart(s *job.Spec, k int64) int64 {
	return s.Trace.Ops[k].At * 100 / int64(s.Logs.ReplayScale)
}

// replay does the operations of the trace. The goroutines of the job take one after another. It reports whether all of
// them are taken.
func (w *worker) replay() (done bool, err error) {
	g, s, l := w.g, w.g.spec, w.lane
	size, ops := s.PageSize(), s.Trace.Ops
	for !g.stop.Load() {
		k := l.cursor.Add(1) - 1
		if k >= int64(len(ops)) {
			return true, nil
		}
		t := &ops[k]
		intended := int64(-1)
		if s.Logs.ReplayStall {
			intended = intendedStart(s, k)
			until(g.base, intended, &g.stop)
		}
		if !w.open {
			intended = -1
		}
		start := g.now()
		if start >= g.deadline || g.stop.Load() {
			w.taken = intended
			return false, nil
		}
		if t.Sync {
			if err := w.stabilize(w.newest, start); err != nil {
				return false, err
			}
			continue
		}
		first := t.Offset / size
		i, bytes := l.first+first%l.pages, int64(0)
		end := min(t.Offset+t.Bytes, (first+l.pages)*size)
		failed := false
		for k := first; k == first || k*size < end; k++ { // all pages that the request touches
			n, _, err := w.do(t.Dir, l.first+k%l.pages)
			bad, err := w.tolerate(t.Dir, err)
			if err != nil {
				return false, err
			}
			failed = failed || bad
			if bytes += n; g.stop.Load() {
				break
			}
		}
		if start >= g.ramp {
			if err := w.account(t.Dir, i, bytes, [3]int64{intended, start, g.now()}, failed); err != nil {
				return false, err
			}
		}
		w.publish()
	}
	return false, nil
}

// writeTrace writes the operations as a trace of version 3.
func writeTrace(out io.Writer, name string, all []logged, pageSize int64) error {
	b := bufio.NewWriter(out)
	fmt.Fprintf(b, "fio version 3 iolog\n0 %s add\n0 %s open\n", name, name)
	last := int64(0)
	for _, e := range all {
		last = (e.at - e.clat) / job.TraceUnit
		fmt.Fprintf(b, "%d %s %s %d %d\n", last, name, e.dir, e.page*pageSize, e.bytes)
	}
	fmt.Fprintf(b, "%d %s close\n", last, name)
	return b.Flush()
}
