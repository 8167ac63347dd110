package main

// cost is an estimate of the work of a comparison in one round, all sides together, at full size. The times are those
// of a machine with two processors and a disk that writes 1 GB/s; another one needs a multiple of them.
type cost struct {
	seconds float64 // besides the timed parts
	timed   float64 // timed parts, in multiples of --seconds
	mib     float64 // on disk at a time, at most
}

// defaultCost is that of comparisons that do not state one: they load 100 000 pages of 1 KiB on each side, and measure.
var defaultCost = cost{seconds: 3, timed: 2, mib: 600}
