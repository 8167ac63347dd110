// Package versus is the language between pcbench and the program of the bench module, which knows other stores: pcbench
// describes a load, the program applies it to one of the stores, and answers with the outcome. So the main module needs
// none of the other stores. It also has the outcome of all sides of a comparison.
//
// The program answers two commands:
//
//	PROGRAM peer --list   writes a List
//	PROGRAM peer          reads a Load from its standard input, applies it, and writes an Outcome
//
// All of these are JSON.
package versus

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"path/filepath"
	"syscall"
	"time"
)

// Format is the version of the language. Both sides refuse any other.
const Format = 1

// Program is the name of the program of the bench module.
const Program = "pagecache-compare"

// Build is the command that builds the program in a checkout, in the directory DIR.
const Build = "go -C bench build -o DIR/" + Program + " ./cmd/compare"

// List is the stores that a program knows.
type List struct {
	Format int     `json:"format"`
	Stores []Store `json:"stores"`
}

// Store is a store that a program knows.
type Store struct {
	Name    string `json:"name"`
	Version string `json:"version"` // "": unknown
	Config  string `json:"config"`  // in words
}

// Load is a load on numbered pages of equal size. Jobs × Depth goroutines do operations one after another.
type Load struct {
	Format      int           `json:"format"`
	Store       string        `json:"store"` // the name, in any case
	Dir         string        `json:"dir"`   // of the store; it exists and is empty
	Cache       int64         `json:"cache"` // bytes of the store's own cache
	Pages       int64         `json:"pages"`
	PageSize    int           `json:"page_size"`
	Laid        bool          `json:"laid"` // all pages are written before the load, which is not measured
	Jobs        int           `json:"jobs"`
	Depth       int           `json:"depth"`
	Draws       string        `json:"draws"` // file of random pages, each a uint32, little endian; "": in order
	ReadPercent int           `json:"read_percent"`
	Operations  int64         `json:"operations"`  // of all goroutines together; 0: not limited
	Runtime     time.Duration `json:"runtime_ns"`  // 0: not limited
	Ramp        time.Duration `json:"ramp_ns"`     // not measured, before Runtime
	SyncEvery   int           `json:"sync_every"`  // writes of a goroutine between waits for durability; 0: none
	Flush       bool          `json:"flush"`       // all writes are made durable at the end, within the measured time
	Seed        uint64        `json:"random_seed"` // of the contents
}

// Outcome is what one side of a comparison has measured in one round.
type Outcome struct {
	Format  int     `json:"format"`
	Seconds float64 `json:"seconds"` // measured, without the ramp
	Read    Work    `json:"read"`
	Write   Work    `json:"write"`
	Commit  Work    `json:"commit"`        // waits for durability
	CPU     float64 `json:"cpu_seconds"`   // of all processors
	Written int64   `json:"written_bytes"` // that the process gave to devices, with a flush after the measured time
	Space   int64   `json:"space_bytes"`   // on disk at the end
}

// Work is the operations of one kind. Times are in ns; 0: not known.
type Work struct {
	Operations int64   `json:"operations"`
	Bytes      int64   `json:"bytes"`
	P50        float64 `json:"p50_ns"`
	P99        float64 `json:"p99_ns"`
	P999       float64 `json:"p999_ns"`
}

// Times are durations, in the buckets of fio's histogram: 64 for each power of two, so a percentile is within 0.8 %.
// The zero value is empty. One goroutine adds durations.
type Times struct {
	n      int64
	counts [58 << 6]int64
}

// Add adds a duration.
func (t *Times) Add(d time.Duration) {
	v := uint64(max(d, 0))
	shift := max(0, bits.Len64(v)-7)
	t.counts[shift<<6+int(v>>shift)]++
	t.n++
}

// Merge adds all durations of from.
func (t *Times) Merge(from *Times) {
	t.n += from.n
	for i, n := range from.counts {
		t.counts[i] += n
	}
}

// Percentile returns the duration in ns that p percent of the durations did not exceed, or 0 without any.
func (t *Times) Percentile(p float64) float64 {
	sum, want := int64(0), int64(math.Ceil(p/100*float64(t.n)))
	for i, n := range t.counts {
		if sum += n; n > 0 && sum >= want {
			if i < 1<<7 {
				return float64(i)
			}
			shift := i>>6 - 1
			return (float64(i-shift<<6) + 0.5) * float64(int64(1)<<shift)
		}
	}
	return 0
}

// Work returns the durations as operations, which have moved this number of bytes.
func (t *Times) Work(bytes int64) Work {
	return Work{Operations: t.n, Bytes: bytes, P50: t.Percentile(50), P99: t.Percentile(99), P999: t.Percentile(99.9)}
}

// Usage is the use of the machine by a process since its start.
type Usage struct {
	CPU     float64 // s
	Written int64   // bytes given to devices; buffered writes count when a block of the page cache becomes dirty
}

// Block is the unit, in bytes, in which Linux counts the writes of a process and the blocks of a file, whatever those
// of the device and the file system are.
const Block = 512

// UsageOf returns the figures of r.
func UsageOf(r *syscall.Rusage) Usage {
	return Usage{float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9, r.Oublock * Block}
}

// OwnUsage returns the usage of this process.
func OwnUsage() Usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // cannot fail with these arguments
	return UsageOf(&r)
}

// Space returns the bytes that the files below dir take on disk.
func Space(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name != dir { // removed meanwhile
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * Block
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure the space of %s: %w", dir, err)
	}
	return bytes, nil
}
