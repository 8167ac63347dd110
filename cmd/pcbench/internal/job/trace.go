package job

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Traced is an operation of a trace.
type Traced struct {
	At            int64 // ns after the beginning, at the earliest
	Dir           Dir
	Sync          bool
	Offset, Bytes int64
}

// Trace is what read_iolog replays.
type Trace struct {
	Ops   []Traced
	Timed bool // At is when the operation began, as in version 3; otherwise it is the end of the wait before it
}

// readTrace reads a trace of fio, version 2 (with waits) or 3 (with times).
func readTrace(name string) (*Trace, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := parseTrace(f)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(t.Ops) == 0:
		return nil, fmt.Errorf("%s: holds no operations", name)
	}
	return t, nil
}

func parseTrace(in io.Reader) (*Trace, error) {
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		if lines.Err() != nil {
			return nil, lines.Err()
		}
		return nil, fmt.Errorf("is empty")
	}
	var version int
	_, err := fmt.Sscanf(lines.Text(), "fio version %d iolog", &version)
	if err != nil || version < 2 || version > 3 {
		return nil, fmt.Errorf("begins with %.40q, not with fio version 2 or 3 iolog", lines.Text())
	}
	t, waited := &Trace{Timed: version == 3}, int64(0)
	for n := 2; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		at := waited
		if t.Timed {
			us, err := strconv.ParseInt(words[0], 10, 64)
			if err != nil || us < 0 || us > mostTime.Microseconds() {
				return nil, fmt.Errorf("line %d: %q is not a time", n, words[0])
			}
			at, words = us*TraceUnit, words[1:]
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("line %d: want FILE ACTION", n)
		}
		op := Traced{At: at}
		switch words[1] {
		case "read":
			op.Dir = DirRead
		case "write":
			op.Dir = DirWrite
		case "trim":
			op.Dir = DirTrim
		case "sync", "datasync":
			op.Sync = true
		case "wait": // as fio does, and not as its manual says: in ms after the start
			words = append(words, "") // for a line without a time
			ms, err := strconv.ParseInt(words[2], 10, 64)
			if err != nil || ms < 0 || ms > mostTime.Milliseconds() {
				return nil, fmt.Errorf("line %d: want FILE wait MILLISECONDS", n)
			}
			waited = ms * int64(time.Millisecond)
			continue
		case "add", "open", "close":
			continue
		default:
			return nil, fmt.Errorf("line %d: %q is no action of a trace", n, words[1])
		}
		if len(words) == 4 {
			var err1, err2 error
			op.Offset, err1 = strconv.ParseInt(words[2], 10, 64)
			op.Bytes, err2 = strconv.ParseInt(words[3], 10, 64)
			if err1 != nil || err2 != nil || op.Offset < 0 || op.Bytes < 0 {
				return nil, fmt.Errorf("line %d: want FILE ACTION OFFSET LENGTH", n)
			}
		}
		t.Ops = append(t.Ops, op)
	}
	return t, lines.Err()
}

// mostTime is the latest time in a trace. A hundred times its nanoseconds fit into 64 bits.
const mostTime = 365 * 24 * time.Hour

// TraceUnit is the unit of the times of a trace of version 3, in ns.
const TraceUnit = 1e3

// setTrace reads the trace of read_iolog. As in fio, the job does what the trace does, whatever rw says.
func setTrace(s *Spec, v string) (err error) {
	if s.Logs.ReadIOLog, s.Trace = v, nil; v == "" {
		return nil
	}
	s.Trace, err = readTrace(v)
	return err
}

// followTrace sets the load to that of the trace.
func (s *Spec) followTrace() {
	s.Does, s.Random, s.Dist, s.Map, s.Step = [3]bool{}, false, Defaults().Dist, false, 0
	for _, op := range s.Trace.Ops {
		s.Does[op.Dir] = s.Does[op.Dir] || !op.Sync
	}
	if s.Does == [3]bool{} { // only syncs
		s.Does[DirWrite] = true
	}
	for _, k := range loadKinds {
		if k.does == s.Does && !k.random {
			s.RW = k.name
			return
		}
	}
	s.RW = "rw" // and trims
}

// beyond returns the number of operations of the trace that lie behind the pages of the job.
func (s *Spec) beyond() (n int) {
	for _, op := range s.Trace.Ops {
		if !op.Sync && op.Offset+op.Bytes > s.Size {
			n++
		}
	}
	return n
}
