package load

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"pagecache/cmd/pcbench/internal/job"
)

// traced is an operation of a trace.
type traced struct {
	at            int64 // ns after the beginning; −1 if the trace has no times
	dir           job.Dir
	sync          bool
	offset, bytes int64
}

// readTrace reads a trace of fio, version 2 (with waits) or 3 (with times).
func readTrace(name string) ([]traced, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--read_iolog: %w", err)
	}
	defer f.Close()
	all, err := parseTrace(f)
	if err != nil {
		return nil, fmt.Errorf("--read_iolog: %s: %w", name, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--read_iolog: %s: holds no operations", name)
	}
	return all, nil
}

func parseTrace(in io.Reader) (all []traced, err error) {
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return nil, fmt.Errorf("is empty")
	}
	var version int
	if _, err := fmt.Sscanf(lines.Text(), "fio version %d iolog", &version); err != nil || version < 2 || version > 3 {
		return nil, fmt.Errorf("begins with %q, not with fio version 2 or 3 iolog", lines.Text())
	}
	waited := int64(0)
	for n := 2; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		at := waited
		if version == 3 && len(words) > 0 {
			us, err := strconv.ParseInt(words[0], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("line %d: %q is not a time", n, words[0])
			}
			at, words = us*traceUnit, words[1:]
		}
		if len(words) < 2 {
			continue
		}
		t := traced{at: at}
		switch words[1] {
		case "read":
			t.dir = job.DirRead
		case "write":
			t.dir = job.DirWrite
		case "trim":
			t.dir = job.DirTrim
		case "sync", "datasync":
			t.sync = true
		case "wait":
			if len(words) > 2 {
				us, _ := strconv.ParseInt(words[2], 10, 64)
				waited = us * 1000
			}
			continue
		default: // add, open, close
			continue
		}
		if len(words) == 4 {
			var err1, err2 error
			t.offset, err1 = strconv.ParseInt(words[2], 10, 64)
			t.bytes, err2 = strconv.ParseInt(words[3], 10, 64)
			if err1 != nil || err2 != nil {
				return nil, fmt.Errorf("line %d: want FILE ACTION OFFSET LENGTH", n)
			}
		}
		all = append(all, t)
	}
	return all, lines.Err()
}

// traceUnit is the unit of the times of a trace of version 3, in ns.
const traceUnit = 1e3

// replay does the operations of the trace. The goroutines of the job take one after another.
func (w *worker) replay() error {
	g, s, l := w.g, w.g.spec, w.lane
	size := s.PageSize()
	for !g.stop.Load() {
		k := l.cursor.Add(1) - 1
		if k >= int64(len(l.trace)) {
			return nil
		}
		t := &l.trace[k]
		intended := int64(-1)
		if s.Logs.ReplayStall && t.at >= 0 {
			intended = t.at * 100 / int64(s.Logs.ReplayScale)
			until(g.base, intended, &g.stop)
		}
		start := g.now()
		if start >= g.deadline {
			return nil
		}
		if t.sync {
			if err := w.stabilize(w.newest, start); err != nil {
				return err
			}
			continue
		}
		i := l.first + t.offset/size%l.pages
		bytes, _, err := w.do(t.dir, i)
		end := g.now()
		if err != nil {
			if err = w.tolerate(t.dir, err); err != nil {
				return err
			}
		}
		if start >= g.ramp {
			if err := w.measure(t.dir, i, bytes, [3]int64{intended, start, end}); err != nil {
				return err
			}
		}
		w.publish()
	}
	return nil
}

// writeTrace writes the operations as a trace of version 3.
func writeTrace(out io.Writer, name string, all []logged, pageSize int64) error {
	b := bufio.NewWriter(out)
	fmt.Fprintf(b, "fio version 3 iolog\n0 %s add\n0 %s open\n", name, name)
	last := int64(0)
	for _, e := range all {
		last = (e.at - e.clat) / traceUnit
		fmt.Fprintf(b, "%d %s %s %d %d\n", last, name, e.dir, e.page*pageSize, e.bytes)
	}
	fmt.Fprintf(b, "%d %s close\n", last, name)
	return b.Flush()
}
