package report

import (
	"fmt"
	"math"
	"strings"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/stats"
	"pagecache/internal/htmlpage"
)

// pageKinds are the kinds of operations of a page, in its order, as they are in a timeline.
var pageKinds = []struct {
	name string
	kind int
	of   func(*htmlpage.Sample) *htmlpage.Speed
}{
	{"read", int(job.DirRead), func(s *htmlpage.Sample) *htmlpage.Speed { return &s.Read }},
	{"write", int(job.DirWrite), func(s *htmlpage.Sample) *htmlpage.Speed { return &s.Write }},
	{"commit", load.KindCommit, func(s *htmlpage.Sample) *htmlpage.Speed { return &s.Commit }},
	{"trim", int(job.DirTrim), func(s *htmlpage.Sample) *htmlpage.Speed { return &s.Trim }},
}

// Page returns the pictures of a run, which may still go on. The facts are about the machine and the command.
func Page(r *load.Result, facts []htmlpage.Fact) *htmlpage.Report {
	p := &htmlpage.Report{Title: "pcbench", Started: r.Started, Facts: facts}
	if r.Interrupted {
		p.Notes = append(p.Notes, "The run was interrupted: these are the operations until then.")
	}
	if r.Err != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("The run has failed: %v.", strings.ReplaceAll(r.Err.Error(), "\n", "; ")))
	}
	for _, j := range r.Jobs {
		if j.NotBegun > 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("%s: %d operations were due before the end and did not begin. The "+
				"latencies do not have them.", j.Spec.Name, j.NotBegun))
		}
	}
	var names []string
	for _, l := range r.Timelines {
		if name := l.Spec.Name; name == job.Defaults().Name {
			names = append(names, l.Spec.RW)
		} else {
			names = append(names, name)
		}
		p.Runs = append(p.Runs, pageRun(l))
	}
	if len(names) > 0 && len(names) <= 4 {
		p.Title += ": " + strings.Join(names, ", ")
	} else if len(names) > 0 {
		p.Title += fmt.Sprintf(": %d loads", len(names))
	}
	return p
}

// pageRun returns the pictures of a section.
func pageRun(l *load.Timeline) htmlpage.Run {
	run := htmlpage.Run{Name: l.Spec.Name, Command: "pcbench run " + l.Spec.Command(), Samples: samples(l)}
	if l.Spec.Description != "" {
		run.Name += ": " + l.Spec.Description
	}
	for _, k := range pageKinds {
		sum := l.Sum(k.kind)
		n := sum.N()
		if n == 0 {
			continue
		}
		of := htmlpage.Latencies{Name: k.name, Bins: bins(sum.Bins)}
		for i := range l.Intervals {
			at := &l.Intervals[i]
			of.Columns = append(of.Columns, htmlpage.Column{Seconds: float64(at.End) / 1e9,
				Bins: bins(at.Kinds[k.kind].Bins)})
		}
		for i, ns := range wholePercentiles(l, k.kind, &sum) {
			of.Percentiles = append(of.Percentiles, htmlpage.Percentile{Percent: pagePercentiles[i],
				Nanoseconds: float64(ns)})
		}
		run.Latencies = append(run.Latencies, of)
		seconds := length(l)
		run.Figures = append(run.Figures, htmlpage.Fact{Name: k.name, Value: short(float64(n)/seconds) + "/s"})
		if sum.Bytes > 0 {
			run.Figures = append(run.Figures, htmlpage.Fact{Name: k.name + " bandwidth",
				Value: short(float64(sum.Bytes)/seconds) + "B/s"})
		}
		for _, p := range of.Percentiles {
			run.Figures = append(run.Figures, htmlpage.Fact{Name: fmt.Sprintf("%s, %v %%", k.name, p.Percent),
				Value: Nanos(p.Nanoseconds)})
		}
	}
	run.Figures = append(run.Figures, wholeFigures(l)...)
	return run
}

// pagePercentiles are the percentiles that a page shows.
var pagePercentiles = []float64{50, 99, 99.9}

// wholePercentiles returns the percentiles of all operations of a kind, in ns: those of the other reports if the
// section has ended.
func wholePercentiles(l *load.Timeline, kind int, sum *load.Work) []int64 {
	if j := l.Whole; j != nil {
		if kind == load.KindCommit {
			return j.Sync.At(pagePercentiles)
		}
		return lat(&j.Dirs[kind], l.Spec).At(pagePercentiles)
	}
	at := make([]int64, len(pagePercentiles))
	for i, p := range pagePercentiles {
		at[i] = stats.Percentile(sum.Bins, p)
	}
	return at
}

// length returns the seconds that a section has been measured for.
func length(l *load.Timeline) float64 {
	if l.Whole != nil {
		return float64(max(l.Whole.Runtime, 1)) / 1e9
	}
	return float64(max(l.Intervals[len(l.Intervals)-1].End, 1)) / 1e9
}

// wholeFigures returns the figures of a section that has ended, besides its speeds and latencies.
func wholeFigures(l *load.Timeline) (list []htmlpage.Fact) {
	j := l.Whole
	if j == nil {
		return nil
	}
	add := func(name, value string) { list = append(list, htmlpage.Fact{Name: name, Value: value}) }
	u := j.Store
	if a := u.WriteAmplification(); a > 0 {
		add("write amplification", fmt.Sprintf("%.2f", a))
	}
	if u.SpaceAmplification > 0 {
		add("space amplification", fmt.Sprintf("%.2f", u.SpaceAmplification))
	}
	if u.Reads > 0 {
		resident, cache, device := u.Served()
		add("resident reads", fmt.Sprintf("%.1f %%", resident))
		add("page cache reads", fmt.Sprintf("%.1f %%", cache))
		add("device reads", fmt.Sprintf("%.1f %%", device))
	}
	if n := j.Dirs[0].N() + j.Dirs[1].N() + j.Dirs[2].N(); n > 0 {
		busy := (j.Usage.User + j.Usage.System) / 100 * float64(j.Runtime)
		add("CPU time per operation", Nanos(busy/float64(n)))
	}
	add("measured for", time.Duration(j.Runtime).Round(time.Millisecond).String())
	return list
}

// samples returns the intervals of a timeline as those of a page.
func samples(l *load.Timeline) (all []htmlpage.Sample) {
	before, start := &l.Before, int64(0)
	for i := range l.Intervals {
		at := &l.Intervals[i]
		s := htmlpage.Sample{Seconds: float64(at.End) / 1e9}
		seconds := float64(at.End-start) / 1e9
		for _, k := range pageKinds {
			w := &at.Kinds[k.kind]
			if n := w.N(); n > 0 {
				*k.of(&s) = htmlpage.Speed{IOPS: float64(n) / seconds, Bandwidth: float64(w.Bytes) / seconds,
					P50: float64(stats.Percentile(w.Bins, 50)), P99: float64(stats.Percentile(w.Bins, 99)),
					P999: float64(stats.Percentile(w.Bins, 99.9))}
			}
		}
		// As in the other reports, the ratios are to the operations of the load. The store counts its hits in steps.
		s.Store = htmlpage.NewStore(before, &at.Stats, seconds)
		s.Store.WriteAmplification, s.Store.HitRatio = math.NaN(), math.NaN()
		if given := at.Kinds[job.DirWrite].Bytes; given > 0 {
			s.Store.WriteAmplification = float64(at.Stats.Log.BytesWritten-before.Log.BytesWritten) / float64(given)
		}
		if reads := at.Kinds[job.DirRead].N(); reads > 0 {
			misses := min(reads, at.Stats.Cache.Misses-before.Cache.Misses)
			s.Store.HitRatio = float64(reads-misses) / float64(reads)
		}
		all = append(all, s)
		before, start = &at.Stats, at.End
	}
	return all
}

// bins returns buckets of the histogram with their bounds.
func bins(from []stats.Bin) (all []htmlpage.Bin) {
	for _, b := range from {
		low, high := stats.BucketBounds(stats.BucketOf(b.Value))
		all = append(all, htmlpage.Bin{Low: float64(low), High: float64(high), Count: b.Count})
	}
	return all
}

// prefixed formats v with three digits and the largest of the prefixes, of steps of a thousand, that it reaches.
func prefixed(v float64, prefixes []string) string {
	i := 0
	for ; i < len(prefixes)-1 && v >= 999.5; i++ {
		v /= 1000
	}
	digits := 0
	if v < 9.995 && v > 0 {
		digits = 2
	} else if v < 99.95 && v > 0 {
		digits = 1
	}
	text := fmt.Sprintf("%.*f", digits, v)
	if digits > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + " " + prefixes[i]
}

// short formats a number with three digits and a prefix, before a unit: 412 k.
func short(v float64) string {
	return prefixed(v, []string{"", "k", "M", "G", "T"})
}

// Nanos formats a time in ns with three digits: 3.1 µs.
func Nanos(v float64) string { return prefixed(v, []string{"ns", "µs", "ms", "s"}) }
