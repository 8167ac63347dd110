package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// writeNormal writes the report in the format that fio calls normal.
func writeNormal(out io.Writer, results []*result) error {
	w := bufio.NewWriter(out)
	for i, r := range results {
		s := r.spec
		fmt.Fprintf(w, "%s: (g=%d): rw=%s, bs=(R) %s, (W) %s, (T) %s, ioengine=pagecache, iodepth=%d\n",
			s.Name, i, s.RW, bsRange(s.BS), bsRange(s.writeSize()), bsRange(s.BS), s.IODepth)
		if s.NumJobs > 1 {
			fmt.Fprintln(w, "...")
		}
	}
	fmt.Fprintf(w, "pcbench-%s\n", version)
	if len(results) > 0 {
		fmt.Fprintf(w, "log: %s\n", results[0].store.device)
	}
	for i, r := range results {
		for _, j := range r.jobs {
			writeJob(w, r, i, j)
		}
	}
	for i, r := range results {
		fmt.Fprintf(w, "\nRun status group %d (all jobs):\n", i)
		writeStatus(w, r, opKindRead)
		writeStatus(w, r, opKindWrite)
	}
	if len(results) > 0 {
		fmt.Fprintln(w, "\nStore stats:")
	}
	for _, r := range results {
		writeStore(w, r.spec.Name, &r.store)
	}
	return w.Flush()
}

// writeStore writes the statistics of the store, which fio's report does not have.
func writeStore(w io.Writer, name string, u *storeUse) {
	fmt.Fprintf(w, "  %s: written=%s, padded=%s, flushes=%d, buffer_waits=%d, merges=%d, consolidations=%d",
		name, bytesText(u.written), bytesText(u.padded), u.flushes, u.waits, u.merges, u.consolidations)
	fmt.Fprintf(w, ", segments=%d/%d, recycled=%d, draining=%d, cleaned=%d, moved=%s\n",
		u.segmentsInUse, u.segments, u.recycled, u.draining, u.cleaned, bytesText(u.moved))
	fmt.Fprintf(w, "  %s: hits=%d, misses=%d, cold=%d, evicted=%d, resident=%s in the heap, %s mapped\n",
		name, u.hits, u.misses, u.fromDisk, u.evicted, bytesText(u.heap), bytesText(u.mapped))
}

func bsRange(n int64) string { return bytesText(n) + "-" + bytesText(n) }

func writeJob(w io.Writer, r *result, group int, j *job) {
	fmt.Fprintf(w, "\n%s: (groupid=%d, jobs=%d): err=%2d", j.name, group, j.jobs, errno(j.err))
	if j.err != nil {
		fmt.Fprintf(w, " (%s)", strings.ReplaceAll(j.err.Error(), "\n", "; "))
	}
	fmt.Fprintf(w, ": %s\n", r.started.Format(time.ANSIC))
	for _, kind := range []opKind{opKindRead, opKindWrite} {
		writeDirection(w, kind.String(), j.direction(kind))
	}
	list := shares(&j.read.latencies, &j.write.latencies)
	writeBands(w, list, "nsec", 1)
	writeBands(w, list, "usec", microsecond)
	writeBands(w, list, "msec", millisecond)
	if j.sync.n > 0 {
		fmt.Fprintln(w, "  fsync/fdatasync/sync_file_range:")
		writeLatency(w, "sync", &j.sync)
		writePercentiles(w, "sync", &j.sync)
	}
	u := &j.usage
	fmt.Fprintf(w, "  cpu          : usr=%.2f%%, sys=%.2f%%, ctx=%d, majf=%d, minf=%d\n",
		u.userPercent, u.systemPercent, u.switches, u.majFaults, u.minFaults)
	fmt.Fprint(w, "  IO depths    : ")
	for i, d := range depths {
		if i > 0 {
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%s=%.1f%%", d.name, d.share(r.spec.IODepth))
	}
	fmt.Fprintf(w, "\n     issued rwts: total=%d,%d,0,%d short=0,0,0,0 dropped=0,0,0,0\n",
		j.read.n, j.write.n, j.sync.n)
	fmt.Fprintf(w, "     latency   : target=0, window=0, percentile=100.00%%, depth=%d\n", r.spec.IODepth)
}

// depth is a range of queue depths, as fio lists them.
type depth struct {
	name        string
	least, most int
}

var depths = []depth{{"1", 1, 1}, {"2", 2, 3}, {"4", 4, 7}, {"8", 8, 15}, {"16", 16, 31}, {"32", 32, 63},
	{">=64", 64, math.MaxInt}}

// share returns the percentage of operations at these depths. It is 0 or 100, since each goroutine always has one
// operation in progress.
func (d depth) share(iodepth int) float64 {
	if iodepth >= d.least && iodepth <= d.most {
		return 100
	}
	return 0
}

func writeDirection(w io.Writer, name string, d *direction) {
	if d.n == 0 {
		return
	}
	bw := int64(d.bytesPerSecond())
	fmt.Fprintf(w, "  %s: IOPS=%s, BW=%s/s (%s/s)(%s/%dmsec)\n", name, shorten(uint64(d.perSecond()), 4, prefixDecimal),
		bytesText(bw), bytesSI(bw), bytesText(d.bytes), d.runtime/1e6)
	writeLatency(w, "clat", &d.latencies)
	writeLatency(w, " lat", &d.latencies)
	writePercentiles(w, "clat", &d.latencies)
	if d.bw.n == 0 {
		return
	}
	unit, scale, s := "KiB", 1024.0, &d.bw
	if s.mean > 1<<30 {
		unit, scale = "MiB", 1<<20
	}
	share := 100.0
	if s.of > 0 {
		share = min(100, 100*s.mean/s.of)
	}
	fmt.Fprintf(w, "   bw (%5s/s): min=%5.0f, max=%5.0f, per=%3.2f%%, avg=%5.2f, stdev=%5.2f, samples=%d\n", unit,
		s.least/scale, s.most/scale, share, s.mean/scale, s.dev/scale, s.n)
	s = &d.iops
	fmt.Fprintf(w, "   iops        : min=%5.0f, max=%5.0f, avg=%5.2f, stdev=%5.2f, samples=%d\n",
		s.least, s.most, s.mean, s.dev, s.n)
}

// writeLatency writes the extremes, mean and deviation, in the largest unit of ns, us and ms that all of them exceed.
func writeLatency(w io.Writer, name string, l *latencies) {
	fills := func(unit float64) bool {
		return float64(l.least) > unit && float64(l.most) > 2*unit && l.mean() > unit && l.deviation() > unit
	}
	unit, scale := "nsec", 1.0
	if fills(millisecond) {
		unit, scale = "msec", millisecond
	} else if fills(microsecond) {
		unit, scale = "usec", microsecond
	}
	scaled := func(ns int64) string { return shorten(uint64(float64(ns)/scale), 6, prefixDecimal) }
	fmt.Fprintf(w, "    %s (%s): min=%s, max=%s, avg=%5.2f, stdev=%5.2f\n", name, unit,
		scaled(l.least), scaled(l.most), l.mean()/scale, l.deviation()/scale)
}

// writePercentiles writes the percentiles in lines of at most 80 columns.
func writePercentiles(w io.Writer, name string, l *latencies) {
	at := l.at()
	least, most := at[0], at[len(at)-1]
	unit, scale := "nsec", int64(1)
	if least > 2*millisecond && most >= 100*millisecond {
		unit, scale = "msec", millisecond
	} else if least > 2*microsecond && most >= 100*microsecond {
		unit, scale = "usec", microsecond
	}
	fmt.Fprintf(w, "    %s percentiles (%s):\n", name, unit)
	width := max(5, len(fmt.Sprint(most/scale)))
	perLine := (80 - 7) / (12 + width)
	for i, p := range percentiles {
		if i%perLine == 0 {
			fmt.Fprint(w, "     |")
		}
		end := ","
		if i == len(percentiles)-1 {
			end = "\n"
		} else if i%perLine == perLine-1 {
			end = ",\n"
		}
		fmt.Fprintf(w, " %5.2fth=[%*d]%s", p, width, (at[i]+scale-1)/scale, end)
	}
}

// writeBands writes the shares of the bands of one unit, five on a line.
func writeBands(w io.Writer, list []float64, name string, unit int64) {
	n := 0
	for i, b := range bands {
		if b.unit != unit || list[i] <= 0 {
			continue
		}
		switch {
		case n == 0:
			fmt.Fprintf(w, "  lat (%s)   : ", name)
		case n%5 == 0:
			fmt.Fprintf(w, "\n  lat (%s)   : ", name)
		default:
			fmt.Fprint(w, ", ")
		}
		fmt.Fprintf(w, "%s=%.2f%%", b.name, list[i])
		n++
	}
	if n > 0 {
		fmt.Fprintln(w)
	}
}

// writeStatus writes one direction of all jobs: the sum, and the slowest and fastest job.
func writeStatus(w io.Writer, r *result, kind opKind) {
	sum := r.total(kind)
	if sum.n == 0 {
		return
	}
	least, most := math.Inf(1), 0.0
	short, long := int64(math.MaxInt64), int64(0)
	for _, j := range r.jobs {
		if d := j.direction(kind); d.n > 0 {
			least, most = min(least, d.bytesPerSecond()), max(most, d.bytesPerSecond())
			short, long = min(short, d.runtime), max(long, d.runtime)
		}
	}
	bw := int64(sum.bytesPerSecond())
	fmt.Fprintf(w, "%7s: bw=%s/s (%s/s), %s/s-%s/s (%s/s-%s/s), io=%s (%s), run=%d-%dmsec\n",
		strings.ToUpper(kind.String()),
		bytesText(bw), bytesSI(bw), bytesText(int64(least)), bytesText(int64(most)), bytesSI(int64(least)),
		bytesSI(int64(most)), bytesText(sum.bytes), bytesSI(sum.bytes), short/1e6, long/1e6)
}
