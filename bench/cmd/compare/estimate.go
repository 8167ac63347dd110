//go:build !abtest

package main

import (
	"fmt"
	"time"

	"pagecache/internal/machine"
)

// estimate returns the time that the comparisons take, and the disk space that they need at a time.
func estimate(c *config, chosen []*comparison) (took time.Duration, bytes int64) {
	divide := float64(max(c.divide, 1))
	seconds, mib := 0.0, 0.0
	for _, m := range chosen {
		k := m.cost
		if k == (cost{}) {
			k = defaultCost
		}
		const overhead = 0.1 // to open, close and remove stores
		seconds += overhead + k.seconds/divide + k.timed*c.seconds
		mib = max(mib, k.mib/divide)
	}
	const least = 64 // of any run: slots that are allocated ahead, and memory maps
	return time.Duration(float64(c.rounds) * seconds * float64(time.Second)), int64((least + mib) * (1 << 20))
}

// enoughSpace returns an error if the file system of dir has less free space than bytes.
func enoughSpace(dir string, bytes int64) error {
	free, err := machine.Free(dir)
	if err != nil {
		return err
	}
	if free < bytes {
		const gib = 1 << 30
		return fmt.Errorf("%s has %.1f GiB of free space, and the comparisons need up to %.1f GiB at a time: choose "+
			"another --dir, or fewer comparisons with --only", dir, float64(free)/gib, float64(bytes)/gib)
	}
	return nil
}

// about formats an estimate of a time.
func about(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}
