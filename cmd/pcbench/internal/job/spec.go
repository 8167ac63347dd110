// Package job describes loads in fio's language: the one table of options, the command line and job files that set
// them, and the checked Spec that results. Help texts, man page, completions and the table in the documents come from
// the table.
package job

import (
	"fmt"
	"math"
	"time"

	"pagecache/cmd/pcbench/internal/pick"
	"pagecache/engine"
)

// Dir is the direction of an operation.
type Dir int

// The directions, in fio's order.
const (
	DirRead Dir = iota
	DirWrite
	DirTrim
)

const numDirs = 3

// String returns fio's name of the direction.
func (d Dir) String() string {
	names := []string{"read", "write", "trim"}
	if d < 0 || int(d) >= len(names) {
		return fmt.Sprintf("Dir(%d)", int(d))
	}
	return names[d]
}

// Dirs are all directions.
var Dirs = []Dir{DirRead, DirWrite, DirTrim}

// Spec describes one job of a run: a section of a job file, or the options after one --name. It is checked before
// anything runs.
type Spec struct {
	Name, Description   string
	Directory, Filename string

	RW        string // the name of the load, in fio's spelling
	Does      [3]bool
	Random    bool
	Run       int64 // operations in a row before a new random page
	Step      int64 // bytes from the end of an operation to the next one, in order; negative goes backwards
	ReadShare int   // percent of reads where Does has both reads and writes

	BS              [3]pick.Sizes
	Unaligned       bool
	Size            int64 // bytes of the pages of the job
	Offset          int64 // bytes before its first page
	OffsetPercent   int
	OffsetIncrement int64 // bytes, for each of the numjobs
	IOSize          int64 // bytes to read and write, all jobs together
	NumberIOs       int64 // operations of each job; 0: not limited
	Loops           int64
	NumJobs         int
	IODepth         int // goroutines of each job

	Dist          pick.Dist
	PercentRandom [3]int
	Map           bool // each page once, then again
	Seed          uint64
	Repeat        bool // the same pages in each run

	Runtime, Ramp, StartDelay, StartDelayMost time.Duration
	TimeBased                                 bool
	Stonewall, NewGroup                       bool
	WaitFor                                   string
	ExitAll, ExitOnError                      bool
	ExitWhat                                  string // group, stonewall or all

	Pace    Pace
	Think   Think
	Target  Target
	Steady  Steady
	Trace   *Trace // of Logs.ReadIOLog; nil: none
	Verify  Verify
	Buffers Buffers
	Logs    Logs

	FDataSync       int // writes of a goroutine between waits for stability; 0: none
	EndFsync        bool
	Invalidate      bool // reopen the store before the jobs begin, with nothing cached
	Unlink          bool // remove the store at the end, and begin with a new one
	CPUs            []int
	CPUsSplit       bool
	MaxLatency      time.Duration // 0: not limited
	ContinueOn      string        // the kinds of errors to go on after, as in fio
	GroupReporting  bool
	Unified         string // none, mixed or both
	ClatPercentiles bool
	LatPercentiles  bool
	Percentiles     []float64
	Significant     int
	DiskUtil        bool
	Stats           bool

	Own    Own
	Engine engine.Options

	Global, Given [][2]string // the options that were set for all jobs, and for this one, for the report
}

// Pace limits the speed of a job: an open loop, in which operations have intended starts.
type Pace struct {
	Rate, RateMin [3]int64 // bytes per second
	IOPS, IOPSMin [3]int64 // operations per second
	Poisson       bool
	Cycle         time.Duration // between checks of the minima
	IgnoreThink   bool
}

// Open reports whether any direction has a rate.
func (p *Pace) Open() bool { return p.Rate != [3]int64{} || p.IOPS != [3]int64{} }

// Think makes a goroutine pause between operations.
type Think struct {
	Time, Spin time.Duration
	Blocks     int64         // operations between two pauses; 0: not limited
	IOTime     time.Duration // work between two pauses; 0: not limited
}

// Target searches for the queue depth that meets a latency.
type Target struct {
	Latency, Window time.Duration
	Percentile      float64
	Keep            bool // go on after the depth was found
}

// Steady ends a job when its speed no longer changes.
type Steady struct {
	What     string // iops, iops_slope, bw, bw_slope, lat, lat_slope; empty: never
	Limit    float64
	Percent  bool // of Limit
	Duration time.Duration
	Ramp     time.Duration
	Every    time.Duration
}

// Verify makes writes checkable, and reads check them.
type Verify struct {
	Method  string // empty: none
	Pattern []byte
	Reread  bool // read everything again at the end of a job that writes
	Fatal   bool // stop at the first bad page
	Only    bool // write nothing, and verify an earlier run
}

// Buffers describes the contents of written pages.
type Buffers struct {
	Zero, Refill  bool
	Pattern       []byte
	Compress      int   // percent of each chunk that is zero
	CompressChunk int64 // bytes
	Dedupe        int   // percent of the buffers that repeat another one
}

// Logs are the log files that fio's plots are made of. An empty name writes none.
type Logs struct {
	BW, Lat, IOPS, Hist   string
	PerJob                bool
	BWEvery, IOPSEvery    time.Duration
	Average               time.Duration // 0: each operation
	HistEvery             time.Duration
	HistCoarseness        int
	Max                   bool // the maximum of each interval, not the mean
	Offset, UnixEpoch     bool
	WriteIOLog, ReadIOLog string
	ReplayStall           bool
	ReplayScale           int // percent of the recorded speed
}

// Own are the options that fio does not have.
type Own struct {
	Delta       int64 // bytes of a Link; 0: Replace
	Cold        bool
	Batch       int // pages of a batch; 0: none
	Transaction int // pages of a transaction; 0: none
	Prefetch    int // pages to read ahead in order; 0: none
	Snapshots   time.Duration
	Log         bool // a standalone log instead of pages
	Node        bool // pages are nodes of a B-tree, and Delta is the length of a record with its key
	LogFile     string
}

// The layout of a node: NodeHeader bytes, and for each record NodePerRecord bytes beside its key, of NodeKey bytes, and
// its value.
const (
	NodeHeader    = 12
	NodePerRecord = 8
	NodeKey       = 16
)

// NodeRecords returns the number of records that a node has room for.
func (s *Spec) NodeRecords() int64 {
	return (s.PageSize() - NodeHeader) / (NodePerRecord + max(1, s.Own.Delta))
}

// Reads reports whether the job reads.
func (s *Spec) Reads() bool { return s.Does[DirRead] }

// Writes reports whether the job writes.
func (s *Spec) Writes() bool { return s.Does[DirWrite] }

// Workers returns the number of goroutines of all jobs.
func (s *Spec) Workers() int { return s.NumJobs * s.IODepth }

// Open reports whether the operations of any direction have intended starts: those of a rate, or of a trace.
func (s *Spec) Open() bool {
	return s.Pace.Open() || s.Trace != nil && s.Trace.Timed && s.Logs.ReplayStall
}

// Untimed reports whether the job runs until its bytes are done.
func (s *Spec) Untimed() bool { return s.Runtime == 0 }

// PageSize returns the largest size of a page, in bytes.
func (s *Spec) PageSize() int64 {
	most := int64(0)
	for _, d := range Dirs {
		if s.Does[d] {
			most = max(most, s.BS[d].Most)
		}
	}
	return most
}

// Pages returns the number of pages that the job uses, those before its offset included.
func (s *Spec) Pages() int64 { return plus(s.FirstPage(), s.Size/s.PageSize()) }

// AllPages returns the number of pages that all jobs of the section use, those before their offsets included.
func (s *Spec) AllPages() int64 {
	return plus(s.Pages(), times(s.OffsetIncrement/s.PageSize(), int64(s.NumJobs-1)))
}

// Space returns the bytes of the pages that the section lays out or writes.
func (s *Spec) Space() int64 {
	if s.NeedsPages() {
		return max(s.Size, times(s.AllPages(), s.PageSize()))
	}
	return plus(s.Size, times(min(s.OffsetIncrement, s.Size), int64(s.NumJobs-1)))
}

// plus returns a+b, or the largest number if that is larger. Neither is negative.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// times returns a·b, or the largest number if that is larger. Neither is negative.
func times(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}

// FirstPage returns the first page of the job.
func (s *Spec) FirstPage() int64 { return s.Offset / s.PageSize() }

// NeedsPages reports whether all pages are laid out before the job begins.
func (s *Spec) NeedsPages() bool {
	return s.Does[DirRead] || s.Does[DirTrim] || s.Own.Delta > 0 || s.Verify.Only
}

// OpSize returns the mean number of bytes of an operation in one direction.
func (s *Spec) OpSize(d Dir) float64 {
	if d == DirWrite && s.Own.Delta > 0 {
		return float64(s.Own.Delta)
	}
	return s.BS[d].Mean()
}

// ReadPercent returns the percentage of reads among reads and writes.
func (s *Spec) ReadPercent() int {
	switch {
	case s.Does[DirRead] && s.Does[DirWrite]:
		return s.ReadShare
	case s.Does[DirRead]:
		return 100
	}
	return 0
}

// Operations returns the number of operations of all jobs together, and whether it is limited.
func (s *Spec) Operations() (int64, bool) {
	if s.TimeBased {
		return 0, false
	}
	r := float64(s.ReadPercent()) / 100
	other := DirWrite
	if s.Does[DirTrim] && !s.Does[DirWrite] {
		other = DirTrim
	}
	n := int64(math.MaxInt64)
	if f := float64(s.IOSize) / (s.OpSize(DirRead)*r + s.OpSize(other)*(1-r)); f < math.MaxInt64 {
		n = times(int64(f), s.Loops)
	}
	if s.NumberIOs > 0 {
		n = min(n, times(s.NumberIOs, int64(s.NumJobs)))
	}
	return n, true
}

// Defaults returns the default options.
func Defaults() Spec {
	s := Spec{Name: "pcbench", Directory: ".", RW: "read", Run: 1, ReadShare: 50, Size: 256 << 20, Loops: 1, NumJobs: 1,
		IODepth: 1, PercentRandom: [3]int{100, 100, 100}, Seed: 1, Repeat: true, ExitWhat: "group", Unlink: true,
		ContinueOn: "none", Unified: "none", ClatPercentiles: true, Significant: 4, DiskUtil: true, Stats: true,
		Engine:  engine.Options{SegmentSize: 8 << 20},
		Pace:    Pace{Cycle: time.Second},
		Think:   Think{Blocks: 1},
		Target:  Target{Percentile: 100},
		Steady:  Steady{Every: time.Second},
		Verify:  Verify{Reread: true},
		Buffers: Buffers{CompressChunk: 512},
		Logs: Logs{PerJob: true, BWEvery: 500 * time.Millisecond, IOPSEvery: 500 * time.Millisecond,
			ReplayStall: true, ReplayScale: 100}}
	s.Does[DirRead] = true
	for _, d := range Dirs {
		s.BS[d] = pick.OneSize(4 << 10)
	}
	return s
}

// Run has the options of a whole run.
type Run struct {
	Output         string
	Formats        []string // normal, json, json+, terse
	TerseVersion   int
	StatusInterval time.Duration
	ETA            string // auto, always or never
	ETANewline     time.Duration
	ETAInterval    time.Duration
	Sections       []string
	ParseOnly      bool
	ShowCmd        bool
	ReadOnly       bool
	HTML           string   // file for the page of pictures; empty: none
	Live           string   // address to serve the pictures on; empty: none
	Against        []string // other sides of a comparison, in small letters; empty: none
	Rounds         int      // of the comparison
	Peers          string   // the program that knows other stores; empty: where it usually is
}

// DefaultRun returns the default options of a run.
func DefaultRun() Run {
	return Run{Formats: []string{"normal"}, TerseVersion: 3, ETA: "auto", Rounds: 3}
}
