package htmlpage_test

import (
	"math"
	"math/rand/v2"
	"time"

	"pagecache/internal/htmlpage"
)

// sampleReport returns a report of n intervals with everything that a page can show.
func sampleReport(n int) *htmlpage.Report {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := func(share float64) float64 { return 1 + share*rng.NormFloat64() }
	run := htmlpage.Run{Name: "randrw", Command: "pcbench run --name=randrw --rw=randrw --bs=4k --size=1g",
		Figures: []htmlpage.Fact{{Name: "reads", Value: "412 k/s"}, {Name: "writes", Value: "137 k/s"},
			{Name: "read, 99 %", Value: "3.1 µs"}, {Name: "write, 99 %", Value: "12.4 µs"},
			{Name: "write amplification", Value: "1.42"}}}
	reads := htmlpage.Latencies{Name: "read", Percentiles: []htmlpage.Percentile{{50, 820}, {99, 3100}, {99.9, 41000}}}
	writes := htmlpage.Latencies{Name: "write", Percentiles: []htmlpage.Percentile{{50, 2900}, {99, 12400}}}
	for i := range n {
		at := float64(i+1) / 2
		wave := 1 + 0.15*math.Sin(at/5)
		s := htmlpage.Sample{Seconds: at}
		s.Read = htmlpage.Speed{IOPS: 412e3 * wave * noise(.03), P50: 820 / wave * noise(.02), P99: 3100 * noise(.1),
			P999: 41e3 * noise(.2)}
		s.Read.Bandwidth = s.Read.IOPS * 4096
		if i%50 < 40 { // writes pause now and then
			s.Write = htmlpage.Speed{IOPS: 137e3 * wave * noise(.05), P50: 2900 * noise(.03), P99: 12400 * noise(.1),
				P999: 210e3 * noise(.3)}
			s.Write.Bandwidth = s.Write.IOPS * 4096
		}
		s.Store = &htmlpage.Store{WriteAmplification: 1.42 * noise(.04), SpaceAmplification: 1.3 + .2*math.Tanh(at/9),
			HitRatio: 1 - .4*math.Exp(-at/8), HeapResident: 400e6 * math.Tanh(at/6), MappedResident: 90e6 * noise(.03),
			Capacity: 512 << 20, Written: 700e6 * wave * noise(.05), Moved: 110e6 * math.Abs(noise(.4)), Cleaned: 14,
			Recycled: 80 * noise(.1), SinceSnapshot: math.Mod(at*15000, 260000)}
		if s.Store.SinceSnapshot < 7500 {
			s.Store.Snapshots = 1
		}
		if s.Write.IOPS == 0 {
			s.Store.WriteAmplification = math.NaN()
		}
		run.Samples = append(run.Samples, s)
		reads.Columns = append(reads.Columns, column(rng, at, 820/wave, 200_000))
		if s.Write.IOPS > 0 {
			writes.Columns = append(writes.Columns, column(rng, at, 2900, 70_000))
		} else {
			writes.Columns = append(writes.Columns, htmlpage.Column{Seconds: at})
		}
	}
	run.Latencies = []htmlpage.Latencies{reads, writes}
	return &htmlpage.Report{Title: "pcbench: randrw", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Notes: []string{"The run was interrupted after 61 s of 120 s."}, Runs: []htmlpage.Run{run},
		Facts: []htmlpage.Fact{{Name: "machine", Value: "AMD EPYC 9B14, 2 processors, 7.8 GiB"},
			{Name: "kernel", Value: "Linux 6.18.5"}, {Name: "disk", Value: "vda, virtio, 252 GiB, scheduler none"},
			{Name: "file system", Value: "ext4 on /, rw,relatime"}, {Name: "commit", Value: "485a6ba2f"}},
		Comparisons: []htmlpage.Comparison{sampleComparison()}}
}

// column returns an interval of count operations around a time, with a tail.
func column(rng *rand.Rand, at, around float64, count int64) htmlpage.Column {
	c := htmlpage.Column{Seconds: at}
	for i := range 120 {
		low := around * math.Pow(1.06, float64(i-24))
		share := math.Exp(-float64(i-24)*float64(i-24)/160) + 2e-4*math.Exp(-float64(i)/30)*rng.ExpFloat64()
		if n := int64(float64(count) * share / 22); n > 0 {
			c.Bins = append(c.Bins, htmlpage.Bin{Low: low, High: low * 1.06, Count: n})
		}
	}
	return c
}

// sampleComparison returns a comparison with better, worse and skipped figures.
func sampleComparison() htmlpage.Comparison {
	row := func(name, metric, unit string, cells ...htmlpage.Cell) htmlpage.Row {
		return htmlpage.Row{Name: name, Metric: metric, Unit: unit, Cells: cells}
	}
	of := func(side string, v ...float64) htmlpage.Cell { return htmlpage.Cell{Side: side, Values: v} }
	c := htmlpage.Comparison{Title: "Comparison",
		Notes: []string{"fio only writes; the store also computes checksums."},
		Sides: []htmlpage.Fact{{Name: "pagecache", Value: "CacheCapacity 1 GiB"},
			{Name: "fio", Value: "fio --rw=randread --bs=4k --direct=1 --iodepth=64"}},
		Rows: []htmlpage.Row{
			row("read", "random reads, 4 goroutines", "op/s", of("pagecache", 5.1e6, 5.2e6, 4.9e6),
				of("Pebble", 1.1e6, 1.2e6, 1.0e6), of("bbolt", 2.1e6, 2.2e6, 2.0e6)),
			row("commit", "durable commit, median latency", "µs", of("pagecache", 95, 90, 99),
				of("fio, 4 KiB dsync", 92, 88, 101)),
			{Name: "cold", Metric: "cold reads", Unit: "op/s", Skipped: "only root can drop the file cache"},
		}}
	c.Rows[0].Target, c.Rows[0].Verdict = "ratio ≥ 3", "pass"
	c.Rows[1].LowerIsBetter = true
	c.Rows[0].Cells[1].Ratios = []float64{4.6, 4.3, 4.9}
	return c
}
