package report

import (
	"bufio"
	"fmt"
	"io"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/stats"
)

// tersePercentiles is the number of columns that fio has for percentiles.
const tersePercentiles = 20

// Terse writes one line for each job, in the format that fio calls terse, of version 2, 3, 4 or 5.
func Terse(out io.Writer, r *load.Result, version int) error {
	w := bufio.NewWriter(out)
	for _, j := range r.Jobs {
		if version == 2 {
			fmt.Fprintf(w, "2;%s;%d;%d", j.Spec.Name, j.Group, load.Errno(j.Err))
		} else {
			fmt.Fprintf(w, "%d;pcbench-%s;%s;%d;%d", version, Version, j.Spec.Name, j.Group, load.Errno(j.Err))
		}
		switch j.Spec.Unified {
		case "mixed":
			terseDirection(w, mixed(j), j.Spec, version)
		default:
			terseDirection(w, &j.Dirs[job.DirRead], j.Spec, version)
			terseDirection(w, &j.Dirs[job.DirWrite], j.Spec, version)
			if version != 3 {
				terseDirection(w, &j.Dirs[job.DirTrim], j.Spec, version)
			}
			if j.Spec.Unified == "both" {
				terseDirection(w, mixed(j), j.Spec, version)
			}
		}
		terseRest(w, r, j, version)
	}
	return w.Flush()
}

// terseRest writes the columns after the directions.
func terseRest(w io.Writer, r *load.Result, j *load.Job, version int) {
	u := &j.Usage
	fmt.Fprintf(w, ";%f%%;%f%%;%d;%d;%d", u.User, u.System, u.Switches, u.MajFaults, u.MinFaults)
	for _, d := range depths {
		fmt.Fprintf(w, ";%3.1f%%", d.share(j.Depth))
	}
	var all []*stats.Latencies
	for d := range j.Dirs {
		all = append(all, lat(&j.Dirs[d], j.Spec))
	}
	list := stats.Shares(all...)
	below := 0.0 // a microsecond: fio counts it to the first band
	for i, b := range stats.Bands {
		switch {
		case b.Unit == 1:
			below += list[i]
			continue
		case below > 0:
			list[i] += below
			below = 0
		}
		fmt.Fprintf(w, ";%3.2f%%", list[i])
	}
	if version >= 3 {
		for _, d := range r.Disks {
			fmt.Fprintf(w, ";%s;%d;%d;%d;%d;%d;%d;%d;%3.2f%%", d.Name, d.Reads, d.Writes, d.ReadMerges, d.WriteMerges,
				d.ReadTicks, d.WriteTicks, d.In, d.Util)
		}
	}
	if j.Spec.ContinueOn != "none" {
		fmt.Fprintf(w, ";%d;%d", j.Errors, load.Errno(j.First))
	}
	if j.Spec.Description != "" {
		if version == 2 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, ";%s", j.Spec.Description)
	}
	fmt.Fprintln(w)
}

// terseDirection writes one direction: times are in us, bandwidths in KiB/s, runtimes in ms.
func terseDirection(w io.Writer, d *load.Direction, s *job.Spec, version int) {
	fmt.Fprintf(w, ";%d;%d;%d;%d", d.Bytes>>10, int64(d.BytesPerSecond()/1024), int64(d.PerSecond()), d.Runtime/1e6)
	latency := func(l *stats.Latencies) {
		fmt.Fprintf(w, ";%d;%d;%f;%f", l.Least/1000, l.Most/1000, l.Mean()/1000, l.Deviation()/1000)
	}
	latency(&stats.Latencies{}) // slat
	latency(&d.Clat)
	from, list := &d.Clat, percentiles(s)
	if s.LatPercentiles {
		from = lat(d, s)
	} else if !s.ClatPercentiles {
		list = nil
	}
	if from.N == 0 {
		list = nil
	}
	at := from.At(list)
	for i := range tersePercentiles {
		if i < len(at) {
			fmt.Fprintf(w, ";%f%%=%d", list[i], at[i]/1000)
		} else {
			fmt.Fprint(w, ";0%=0")
		}
	}
	latency(lat(d, s))
	b := &d.BW
	fmt.Fprintf(w, ";%d;%d;%f%%;%f;%f", int64(b.Least/1024), int64(b.Most/1024), b.Share(), b.Mean/1024, b.Dev/1024)
	if version == 5 {
		i := &d.IOPS
		fmt.Fprintf(w, ";%d;%d;%d;%f;%f;%d", b.N, int64(i.Least), int64(i.Most), i.Mean, i.Dev, i.N)
	}
}
