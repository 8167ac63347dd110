package bench

import (
	"bytes"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// Shares are parts of the processor time that this process used, in percent. The key "collector" is Go's garbage
// collector; the others are the profiling labels of the store's background goroutines, such as "cleaner".
type Shares map[string]float64

// The keys of Shares that every benchmark prints, zero or not.
const (
	Cleaner   = "cleaner"
	Collector = "collector"
)

// String lists the cleaner, the collector, and the others that reach half a percent.
func (s Shares) String() string {
	const least = 0.5
	text := fmt.Sprintf("cleaner %.1f %%, collector %.1f %%", s[Cleaner], s[Collector])
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if name != Cleaner && name != Collector && s[name] >= least {
			text += fmt.Sprintf(", %s %.1f %%", name, s[name])
		}
	}
	return text
}

// Sampler measures Shares by the CPU profile, which interrupts each thread a hundred times per second of processor
// time. Only one can run at a time in a process. A nil Sampler does nothing. It is not safe for concurrent use.
type Sampler struct {
	out     bytes.Buffer
	running bool
}

// Restart begins to measure anew. It does nothing if another CPU profile is being taken.
func (s *Sampler) Restart() {
	if s == nil {
		return
	}
	s.end()
	s.out.Reset()
	s.running = pprof.StartCPUProfile(&s.out) == nil
}

func (s *Sampler) end() {
	if s.running {
		pprof.StopCPUProfile()
		s.running = false
	}
}

// Stop ends the measurement and returns the shares since Restart. It returns nil if there is no sample.
func (s *Sampler) Stop() Shares {
	if s == nil || !s.running {
		return nil
	}
	s.end()
	p, err := profile.Parse(&s.out)
	if err != nil {
		return nil
	}
	return sharesOf(p)
}

// sharesOf adds up the samples of a CPU profile. It returns nil if there are none.
func sharesOf(p *profile.Profile) Shares {
	total, shares := 0.0, Shares{}
	for _, sample := range p.Sample {
		value := float64(sample.Value[len(sample.Value)-1])
		total += value
		if isCollector(sample) {
			shares[Collector] += value
		} else if label := sample.Label["pagecache"]; len(label) > 0 {
			shares[label[0]] += value
		}
	}
	if total == 0 {
		return nil
	}
	for name, value := range shares {
		shares[name] = 100 * value / total
	}
	return shares
}

// collectorFrames are the functions of Go's runtime in which the garbage collector works, in goroutines of its own and
// in those that allocate.
var collectorFrames = []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep",
	"runtime.bgscavenge", "runtime.gcStart", "runtime.gcMarkDone", "runtime.gcMarkTermination", "runtime.GC",
	"runtime.deductSweepCredit", "runtime.wbBufFlush", "runtime.(*mspan).sweep", "runtime.(*sweepLocked).sweep"}

func isCollector(sample *profile.Sample) bool {
	for _, location := range sample.Location {
		for _, line := range location.Line {
			if line.Function != nil && slices.ContainsFunc(collectorFrames, func(name string) bool {
				return line.Function.Name == name || strings.HasPrefix(line.Function.Name, name+".")
			}) {
				return true
			}
		}
	}
	return false
}
