package main

import (
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/bench"
)

// config is the measurement's part of the options.
type config struct {
	dir     string // of this run, fresh
	rounds  int
	seconds float64
	logMiB  int64
	divide  int // the amounts of data are divided by it; 0 or 1: full size
	only    *regexp.Regexp
	// sampler measures the shares of the processor time in what is being measured now; nil: they are not measured.
	sampler *bench.Sampler
	shares  bench.Shares // of a child that has measured, instead of this process; nil: none has
}

// during returns the length of one timed measurement.
func (c *config) during() time.Duration { return time.Duration(c.seconds * float64(time.Second)) }

// small reports whether the run only tries the program: its figures mean nothing.
func (c *config) small() bool { return c.divide > 1 }

// part returns the number of pages or operations to use where a run of full size uses n.
func (c *config) part(n int) int {
	const least = 64
	if !c.small() {
		return n
	}
	return max(n/c.divide, min(n, least))
}

// space returns the bytes to use where a run of full size uses n: a multiple of 1 MiB, and enough for requests of
// 8 MiB.
func (c *config) space(n int64) int64 {
	const least, unit = 16 << 20, 1 << 20
	if !c.small() {
		return n
	}
	return max(n/int64(c.divide), least) / unit * unit
}

// collect collects the garbage. Then the measurement of the processor time begins.
func (c *config) collect() {
	runtime.GC()
	c.sampler.Restart()
}

// settle gives every measurement the same start, like the function settle, and begins to measure the processor time.
// With --divide it only collects the garbage before that.
func (c *config) settle() {
	if !c.small() {
		settle()
	}
	c.collect()
}

// settle gives every measurement the same start: it collects the garbage and writes back dirty data. The runtime
// keeps its memory, as it does in a long-running program: on a virtual machine the first touch of a page costs more
// than an operation measured here, on either side.
func settle() {
	runtime.GC()
	unix.Sync()
	const rest = 200 * time.Millisecond
	time.Sleep(rest)
}
