package against

import (
	"fmt"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/engine"
	"pagecache/internal/htmlpage"
	"pagecache/internal/versus"
)

// metric is one figure of an outcome. A figure of 0 is none.
type metric struct {
	name, what, unit string
	lower            bool // is better
	of               func(*versus.Outcome) float64
}

// metrics are the rows of the table.
func metrics(ramp bool) (all []metric) {
	for _, k := range []struct {
		name string
		of   func(*versus.Outcome) *versus.Work
	}{
		{"read", func(o *versus.Outcome) *versus.Work { return &o.Read }},
		{"write", func(o *versus.Outcome) *versus.Work { return &o.Write }},
		{"commit", func(o *versus.Outcome) *versus.Work { return &o.Commit }},
	} {
		if k.name != "commit" {
			all = append(all,
				metric{k.name + " IOPS", k.name + "s per second", "op/s", false, func(o *versus.Outcome) float64 {
					return share(float64(k.of(o).Operations), o.Seconds)
				}},
				metric{k.name + " bandwidth", "bytes of " + k.name + "s per second", "MB/s", false,
					func(o *versus.Outcome) float64 { return share(float64(k.of(o).Bytes)/1e6, o.Seconds) }})
		}
		latency := func(percent string, of func(*versus.Work) float64) metric {
			what := percent + " % of the " + k.name + "s took at most"
			return metric{k.name + " " + percent + " %", what, "µs", true,
				func(o *versus.Outcome) float64 { return of(k.of(o)) / 1e3 }}
		}
		all = append(all, latency("50", func(w *versus.Work) float64 { return w.P50 }),
			latency("99", func(w *versus.Work) float64 { return w.P99 }),
			latency("99.9", func(w *versus.Work) float64 { return w.P999 }))
	}
	if !ramp {
		all = append(all, metric{"device bytes", "bytes given to the device for each byte written", "×", true,
			func(o *versus.Outcome) float64 { return share(float64(o.Written), float64(o.Write.Bytes)) }})
	}
	return append(all, metric{"space", "space on disk at the end", "MiB", true,
		func(o *versus.Outcome) float64 { return float64(o.Space) / (1 << 20) }},
		metric{"CPU time", "time of all processors for each operation", "µs", true, func(o *versus.Outcome) float64 {
			return share(o.CPU*1e6, float64(o.Read.Operations+o.Write.Operations))
		}})
}

// share returns n/of, or 0 if of is 0.
func share(n, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return n / of
}

// Table returns the comparison of the rounds so far.
func (c *Comparison) Table() *htmlpage.Comparison {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &htmlpage.Comparison{Title: fmt.Sprintf("The same work in turns: %d of %d rounds", len(c.outcomes), c.rounds),
		Notes: c.notes()}
	for _, s := range c.sides {
		t.Sides = append(t.Sides, htmlpage.Fact{Name: s.name, Value: s.config})
	}
	for _, m := range metrics(c.spec.Ramp > 0) {
		row := htmlpage.Row{Name: m.name, Metric: m.what, Unit: m.unit, LowerIsBetter: m.lower}
		measured := false
		for i, s := range c.sides {
			cell := htmlpage.Cell{Side: s.name}
			for _, o := range c.outcomes {
				ours, v := m.of(o[0]), m.of(o[i])
				if v == 0 {
					continue
				}
				cell.Values = append(cell.Values, v)
				if i > 0 && ours > 0 {
					cell.Ratios = append(cell.Ratios, ours/v)
				}
			}
			measured = measured || len(cell.Values) > 0
			row.Cells = append(row.Cells, cell)
		}
		if measured {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// notes returns the differences between the sides that cannot be removed.
func (c *Comparison) notes() (list []string) {
	seen := map[string]bool{}
	for _, s := range c.sides {
		for _, n := range s.notes {
			if !seen[n] {
				seen[n] = true
				list = append(list, n)
			}
		}
	}
	return list
}

// ownNotes returns the differences that concern all sides.
func ownNotes(s *job.Spec) (list []string) {
	if s.Writes() {
		list = append(list, "Device bytes are those that the process of a side gave to devices, with a flush after "+
			"the run. Journals of the file system do not count, nor does work that a side has put off until later, "+
			"like cleaning and compaction.")
		if s.Ramp > 0 {
			list = append(list, "Device bytes are left out, since fio does not report those of the ramp apart.")
		}
	}
	if s.Pace.Open() {
		list = append(list, "Latencies are those of the calls, also at a given rate. The report of pcbench alone has "+
			"those from the intended start.")
	}
	return list
}

// fioNotes returns the differences between the page cache and fio.
func fioNotes(s *job.Spec) []string {
	list := []string{"fio reads and writes blocks in place. The page cache also names pages, computes checksums, " +
		"keeps a log and recovers from a crash."}
	direct := s.Own.Cold || s.Engine.Direct == engine.DirectOn
	switch {
	case s.Own.Cold:
		list = append(list, "fio reads with O_DIRECT. The page cache reads through the kernel's page cache, which is "+
			"emptied every 5 ms.")
	case s.Reads() && !direct:
		list = append(list, "fio's blocks are in the kernel's page cache, as far as they fit: each read is a system "+
			"call. Resident pages are read without one.")
	}
	if s.Writes() && !direct && s.FDataSync != 1 {
		list = append(list, "fio's writes end in the kernel's page cache, and the kernel writes them back when it "+
			"likes: the time of that is nobody's, and blocks count as device bytes when they become dirty. The page "+
			"cache writes its log while the load runs. --direct=1 makes fio write to the device.")
	}
	if s.FDataSync > 0 && s.Asynchronous() {
		list = append(list, "With an asynchronous engine, fio counts the writes of --fdatasync for all requests of a "+
			"job together. The page cache counts those of each goroutine.")
	}
	if s.Workers() > 1 && !s.Asynchronous() {
		list = append(list, "Each goroutine of pcbench is a thread of fio that makes one system call after another. "+
			"--ioengine=io_uring lets fio have iodepth requests in flight instead.")
	}
	return list
}

// peerNotes returns the differences between the page cache and other stores.
func peerNotes(s *job.Spec) []string {
	list := []string{"A page is a value of another store, with a key of 8 bytes. Its cache has the capacity of ours, " +
		"and the kernel's page cache stands behind both."}
	if s.Random {
		list = append(list, fmt.Sprintf("Other stores draw from a list of %d pages, which has the same distribution.",
			drawn))
	}
	if s.FDataSync == 1 {
		list = append(list, "A durable write of another store is one call, so its time is that of a commit, which "+
			"includes the write.")
	}
	if s.Pages()*s.PageSize() < 1<<30 {
		list = append(list, "Stores that allocate their log ahead take more space on disk than they use.")
	}
	return list
}
