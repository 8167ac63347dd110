package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Median returns the median of v, or 0 if v is empty.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Number formats v with about three digits, and with spaces between thousands.
func Number(v float64) string {
	switch {
	case v >= 10_000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + " " + s[i:]
		}
		return s
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case v > 0 && v < 0.01:
		return fmt.Sprintf("%.3g", v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// Busy sleeps for d and returns the share of the machine's processor time, 0 to 1, that other programs used
// meanwhile. It returns 0 if the kernel does not report it.
func Busy(d time.Duration) float64 {
	total, idle := processorTimes()
	time.Sleep(d)
	total2, idle2 := processorTimes()
	if total2 <= total {
		return 0
	}
	return 1 - (idle2-idle)/(total2-total)
}

// processorTimes returns the time of all processors since the machine started, and the idle part of it, in ticks.
func processorTimes() (total, idle float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 {
			continue // the name, or the time of guests, which the user time includes
		}
		total += v
		if i == 4 || i == 5 { // idle, or waiting for the disk
			idle += v
		}
	}
	return total, idle
}
