package htmlpage

import (
	"math"
	"time"
)

// Report is the content of a page. Parts that are empty are left out.
type Report struct {
	Title       string
	Started     time.Time // zero: unknown
	Notes       []string  // sentences below the title, such as that the run was interrupted
	Facts       []Fact    // machine, kernel, disk, file system, options, commit
	Runs        []Run
	Comparisons []Comparison
}

// Fact is a name and its value.
type Fact struct{ Name, Value string }

// Run is one load, or one group of jobs.
type Run struct {
	Name      string
	Command   string // the command line or the options
	Figures   []Fact // the results in short
	Samples   []Sample
	Latencies []Latencies
}

// Sample is one interval of a run.
type Sample struct {
	Seconds                   float64 // from the beginning of the run to the end of the interval
	Read, Write, Commit, Trim Speed
	Store                     *Store // nil: unknown
}

// Speed is the work of one kind in an interval. Percentiles are in nanoseconds; 0: none.
type Speed struct {
	IOPS           float64 // operations per second
	Bandwidth      float64 // bytes per second
	P50, P99, P999 float64
}

// Store is the work of a store in an interval, and its state at the end. NaN stands for a ratio without a value.
type Store struct {
	WriteAmplification float64 // bytes given to the device for each byte given to the store; NaN: none given
	SpaceAmplification float64 // bytes on disk for each live byte; NaN: none live
	HitRatio           float64 // Gets of resident pages, as a share of all, 0 to 1; NaN: no Gets
	HeapResident       float64 // bytes
	SlabResident       float64 // bytes
	MappedResident     float64 // bytes
	Capacity           float64 // of the page cache, bytes; 0: unknown
	Written            float64 // bytes per second given to the device
	Moved              float64 // bytes per second that the cleaner moved
	Cleaned            float64 // segments per second whose live data was moved
	Recycled           float64 // segments per second
	Snapshots          float64 // written in the interval
	SinceSnapshot      float64 // messages in the log that the next Open has to apply
}

// Latencies are the times of all operations of one kind.
type Latencies struct {
	Name        string       // read, write, commit or trim
	Bins        []Bin        // of the whole run; nil: the sum of Columns
	Columns     []Column     // over time; nil: no heatmap
	Percentiles []Percentile // of the whole run, exact
}

// Bin is the number of operations that took from Low up to High, in nanoseconds.
type Bin struct {
	Low, High float64
	Count     int64
}

// middle returns the time that stands for the bin on a logarithmic axis.
func (b Bin) middle() float64 {
	low := max(b.Low, 1)
	return math.Sqrt(low * max(b.High, low))
}

// Column is the operations of one interval.
type Column struct {
	Seconds float64 // from the beginning of the run to the end of the interval
	Bins    []Bin
}

// Percentile is the time that a share of the operations, in percent, did not exceed.
type Percentile struct {
	Percent     float64
	Nanoseconds float64
}

// Comparison is the figures of several sides. The first cell of each row is the side that the others are compared with.
type Comparison struct {
	Title string
	Sides []Fact   // each side's command line or configuration
	Notes []string // differences that cannot be removed
	Rows  []Row
}

// Row is one metric of a comparison.
type Row struct {
	Name, Metric, Unit string
	LowerIsBetter      bool
	Cells              []Cell
	Target             string // "": none
	Verdict            string // "": none
	Skipped            string // the reason, if it was not measured
}

// Cell is the figures of one side, one of each round.
type Cell struct {
	Side   string
	Values []float64
	// Ratios are those of the first side's figure to this one, of each round. If nil, the page shows the ratio of the
	// medians, without a spread.
	Ratios []float64
}
