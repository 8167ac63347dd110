package load

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/stats"
)

// logged is an operation in a log, or the mean or maximum of those of an interval.
type logged struct {
	at, clat, lat int64 // ns; at is the end, after the base
	dir           job.Dir
	bytes, page   int64
}

// recorder keeps the operations of a worker for the logs. It belongs to one goroutine. A nil recorder keeps nothing.
type recorder struct {
	each    bool
	ops     []logged
	average int64               // ns; 0: none
	windows map[winKey]*logged  // sums of an interval; at counts the operations
	hist    int64               // ns; 0: none
	hists   map[winKey]*buckets // of an interval
}

type winKey struct {
	window int64
	dir    job.Dir
}

type buckets [stats.Buckets]int32

// newRecorder returns the recorder of a worker, or nil if the job writes no logs of single operations.
func newRecorder(s *job.Spec) *recorder {
	l := &s.Logs
	r := &recorder{each: l.WriteIOLog != "" || l.Lat != "" && l.Average == 0}
	if l.Lat != "" && l.Average > 0 {
		r.average, r.windows = int64(l.Average), map[winKey]*logged{}
	}
	if l.Hist != "" {
		r.hist, r.hists = int64(l.HistEvery), map[winKey]*buckets{}
	}
	if !r.each && r.average == 0 && r.hist == 0 {
		return nil
	}
	return r
}

func (r *recorder) add(e logged) {
	if r.each {
		r.ops = append(r.ops, e)
	}
	if r.average > 0 {
		k := winKey{e.at / r.average, e.dir}
		sum := r.windows[k]
		if sum == nil {
			sum = &logged{dir: e.dir}
			r.windows[k] = sum
		}
		sum.at++
		sum.clat, sum.lat = sum.clat+e.clat, sum.lat+e.lat
		sum.bytes, sum.page = max(sum.bytes, e.clat), max(sum.page, e.lat) // the maxima
	}
	if r.hist > 0 {
		k := winKey{e.at / r.hist, e.dir}
		if r.hists[k] == nil {
			r.hists[k] = new(buckets)
		}
		r.hists[k][stats.BucketOf(e.clat)]++
	}
}

// writeLogs writes the logs of a section. With per_job_logs=0, job 1 has those of all.
func (g *section) writeLogs(number int) error {
	s := g.spec
	l := &s.Logs
	if l.BW+l.Lat+l.IOPS+l.Hist+l.WriteIOLog == "" {
		return nil
	}
	per := s.IODepth
	if !l.PerJob {
		per = len(g.workers)
	}
	var errs []error
	for i := 0; i*per < len(g.workers); i++ {
		var all []*recorder
		for _, w := range g.workers[i*per : (i+1)*per] {
			all = append(all, w.logs)
		}
		errs = append(errs, g.writeSamples(number+i, i, per == s.IODepth), g.writeLatencies(number+i, all),
			g.writeHists(number+i, all))
		if l.WriteIOLog != "" {
			name := l.WriteIOLog
			if i > 0 {
				name = fmt.Sprintf("%s.%d", name, i)
			}
			errs = append(errs, toFile(name, func(b *bufio.Writer) error {
				return writeTrace(b, s.Name, sorted(all), s.PageSize())
			}))
		}
	}
	return errors.Join(errs...)
}

// toFile writes a file.
func toFile(name string, write func(*bufio.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	b := bufio.NewWriter(f)
	if err := errors.Join(write(b), b.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}

// logName returns the name of a log, as fio makes it of a prefix.
func logName(prefix, kind string, number int) string {
	return fmt.Sprintf("%s_%s.%d.log", prefix, kind, number)
}

// stamp returns the time of a log entry in ms.
func (g *section) stamp(ns int64) int64 {
	if g.spec.Logs.UnixEpoch {
		return g.base.Add(time.Duration(ns)).UnixMilli()
	}
	return ns / 1e6
}

// entry formats a line of a log: time, value, direction, size, priority, which is always 0, and offset if wanted.
func (g *section) entry(b *bufio.Writer, ns, value int64, d job.Dir, of [2]int64) {
	if g.spec.Logs.Offset {
		fmt.Fprintf(b, "%d, %d, %d, %d, %d, 0\n", g.stamp(ns), value, d, of[0], of[1])
	} else {
		fmt.Fprintf(b, "%d, %d, %d, %d, 0\n", g.stamp(ns), value, d, of[0])
	}
}

// writeSamples writes the bandwidth, in KiB/s, and the operations per second of job i, or of all jobs.
func (g *section) writeSamples(number, i int, one bool) error {
	series := [][]sample{}
	if one {
		series = append(series, g.sampled[i])
	} else {
		series = g.sampled
	}
	write := func(prefix, kind string, value func(*sample, job.Dir) float64) error {
		if prefix == "" {
			return nil
		}
		return toFile(logName(prefix, kind, number), func(b *bufio.Writer) error {
			for k := range series[0] {
				for _, d := range job.Dirs {
					sum := 0.0
					for _, s := range series {
						if k < len(s) {
							sum += value(&s[k], d)
						}
					}
					if g.spec.Does[d] {
						g.entry(b, series[0][k].at, int64(sum), d, [2]int64{g.spec.PageSize()})
					}
				}
			}
			return nil
		})
	}
	return errors.Join(
		write(g.spec.Logs.BW, "bw", func(s *sample, d job.Dir) float64 { return s.bytes[d] / 1024 }),
		write(g.spec.Logs.IOPS, "iops", func(s *sample, d job.Dir) float64 { return s.ops[d] }))
}

// sorted returns the operations of all recorders in the order of their ends.
func sorted(all []*recorder) (ops []logged) {
	for _, r := range all {
		ops = append(ops, r.ops...)
	}
	slices.SortStableFunc(ops, func(a, b logged) int { return cmp.Compare(a.at, b.at) })
	return ops
}

// intervals returns the mean or maximum of each interval, of all recorders together, in order.
func (g *section) intervals(all []*recorder) (out []logged) {
	sums := map[winKey]*logged{}
	for _, r := range all {
		for k, v := range r.windows {
			s := sums[k]
			if s == nil {
				s = &logged{dir: k.dir}
				sums[k] = s
			}
			s.at, s.clat, s.lat = s.at+v.at, s.clat+v.clat, s.lat+v.lat
			s.bytes, s.page = max(s.bytes, v.bytes), max(s.page, v.page)
		}
	}
	for k, s := range sums {
		e := logged{at: (k.window + 1) * int64(g.spec.Logs.Average), clat: s.clat / s.at, lat: s.lat / s.at, dir: k.dir}
		if g.spec.Logs.Max {
			e.clat, e.lat = s.bytes, s.page
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b logged) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.dir, b.dir)) })
	return out
}

// writeLatencies writes the logs of lat, clat and slat, which is always 0, in ns.
func (g *section) writeLatencies(number int, all []*recorder) error {
	prefix := g.spec.Logs.Lat
	if prefix == "" {
		return nil
	}
	ops := g.intervals(all)
	if g.spec.Logs.Average == 0 {
		ops = sorted(all)
	}
	write := func(kind string, value func(*logged) int64) error {
		return toFile(logName(prefix, kind, number), func(b *bufio.Writer) error {
			for i := range ops {
				e := &ops[i]
				g.entry(b, e.at, value(e), e.dir, [2]int64{e.bytes, e.page * g.spec.PageSize()})
			}
			return nil
		})
	}
	return errors.Join(write("lat", func(e *logged) int64 { return e.lat }),
		write("clat", func(e *logged) int64 { return e.clat }), write("slat", func(*logged) int64 { return 0 }))
}

// writeHists writes a histogram of each interval. Coarseness adds up neighbouring buckets, as in fio.
func (g *section) writeHists(number int, all []*recorder) error {
	if g.spec.Logs.Hist == "" {
		return nil
	}
	sums := map[winKey]*buckets{}
	for _, r := range all {
		for k, v := range r.hists {
			if sums[k] == nil {
				sums[k] = new(buckets)
			}
			for i, n := range v {
				sums[k][i] += n
			}
		}
	}
	keys := make([]winKey, 0, len(sums))
	for k := range sums {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b winKey) int {
		return cmp.Or(cmp.Compare(a.window, b.window), cmp.Compare(a.dir, b.dir))
	})
	return toFile(logName(g.spec.Logs.Hist, "clat_hist", number), func(b *bufio.Writer) error {
		step := 1 << g.spec.Logs.HistCoarseness
		for _, k := range keys {
			fmt.Fprintf(b, "%d, %d, %d", g.stamp((k.window+1)*int64(g.spec.Logs.HistEvery)), k.dir, g.spec.PageSize())
			for at := 0; at < stats.Buckets; at += step {
				sum := int32(0)
				for _, n := range sums[k][at : at+step] {
					sum += n
				}
				fmt.Fprintf(b, ", %d", sum)
			}
			b.WriteByte('\n')
		}
		return nil
	})
}
