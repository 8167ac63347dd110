package pick

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"pagecache/cmd/pcbench/internal/units"
)

// Sizes is a distribution of the sizes of values, in bytes.
type Sizes struct {
	Least, Most int64
	step        int64 // of uniform sizes
	split       []weighted
}

// weighted is a size with the share of all sizes up to it, 0 to 1.
type weighted struct {
	size  int64
	share float64
}

// OneSize returns a Sizes that always draws n.
func OneSize(n int64) Sizes { return Sizes{Least: n, Most: n} }

// ParseRange parses fio's bsrange, like 4k-64k. Sizes are multiples of the least.
func ParseRange(s string) (Sizes, error) {
	from, to, ok := strings.Cut(s, "-")
	least, err := units.ParseSize(from)
	most := least
	if ok && err == nil {
		most, err = units.ParseSize(to)
	}
	switch {
	case err != nil:
		return Sizes{}, err
	case least <= 0 || most < least:
		return Sizes{}, fmt.Errorf("%q: want LEAST-MOST, above 0, like 1k-16k", s)
	}
	return Sizes{Least: least, Most: most, step: least}, nil
}

// Unaligned returns z with all sizes of its range, not only multiples of the least.
func (z Sizes) Unaligned() Sizes {
	z.step = min(z.step, 1)
	return z
}

// ParseSplit parses fio's bssplit, like 4k/60:64k/40. Shares that are missing are equal parts of the rest.
func ParseSplit(s string) (Sizes, error) {
	var z Sizes
	var sizes []int64
	var zones []Zone
	for _, part := range strings.Split(s, ":") {
		size, share, _ := strings.Cut(part, "/")
		n, err := units.ParseSize(size)
		if err != nil || n <= 0 {
			return z, fmt.Errorf("%q is not SIZE/PERCENT, like 4k/60", part)
		}
		p := -1.0
		if share != "" {
			if p, err = strconv.ParseFloat(share, 64); err != nil || !(p >= 0 && p <= 100) {
				return z, fmt.Errorf("%q is not a percentage", share)
			}
		}
		sizes, zones = append(sizes, n), append(zones, Zone{Access: p})
	}
	if err := complete(zones, func(z *Zone) *float64 { return &z.Access }, "sizes"); err != nil {
		return z, err
	}
	sum := 0.0
	z.Least = sizes[0]
	for i, n := range sizes {
		sum += zones[i].Access / 100
		z.Least, z.Most = min(z.Least, n), max(z.Most, n)
		z.split = append(z.split, weighted{n, sum})
	}
	return z, nil
}

// Fixed reports whether all sizes are equal.
func (z *Sizes) Fixed() bool { return z.Least == z.Most }

// Mean returns the mean size.
func (z *Sizes) Mean() float64 {
	if len(z.split) == 0 {
		return float64(z.Least+z.lastStep()) / 2
	}
	mean, before := 0.0, 0.0
	for _, w := range z.split {
		mean += float64(w.size) * (w.share - before)
		before = w.share
	}
	return mean
}

// lastStep returns the largest size of a range.
func (z *Sizes) lastStep() int64 {
	if z.step == 0 {
		return z.Most
	}
	return z.Least + (z.Most-z.Least)/z.step*z.step
}

// Next returns a size.
func (z *Sizes) Next(rng *rand.PCG) int64 {
	switch {
	case z.Least == z.Most:
		return z.Least
	case len(z.split) == 0:
		return z.Least + int64(Uniform(rng, uint64((z.Most-z.Least)/z.step)+1))*z.step
	}
	u := float(rng)
	for _, w := range z.split {
		if u < w.share {
			return w.size
		}
	}
	return z.split[len(z.split)-1].size
}
