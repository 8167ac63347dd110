package load

import (
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pagecache/cmd/pcbench/internal/job"
)

// drawnByFio returns the pages of a load that fio draws and writes to an iolog, and the share of reads.
func drawnByFio(t *testing.T, options ...string) (pages []int64, reads float64) {
	t.Helper()
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("SKIPPED: fio is not installed")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "trace")
	c := exec.CommandContext(t.Context(), "fio", append([]string{"--name=a", "--ioengine=null", "--thread", "--bs=4k",
		"--size=16m", "--loops=25", "--norandommap", "--write_iolog=" + name}, options...)...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	p, err := job.Parse([]string{"--size=16m", "--read_iolog=" + name})
	if err != nil {
		t.Fatal(err)
	}
	trace := p.Jobs[0].Trace.Ops
	for _, x := range trace {
		pages = append(pages, x.Offset/4096)
		if x.Dir == job.DirRead {
			reads++
		}
	}
	return pages, reads / float64(len(trace))
}

// drawnHere returns n pages of the same load that pcbench draws, and the share of reads.
func drawnHere(t *testing.T, n int, options ...string) (pages []int64, reads float64) {
	t.Helper()
	p, err := job.Parse(append([]string{"--bs=4k", "--size=16m"}, options...))
	if err != nil {
		t.Fatal(err)
	}
	g, err := newSection(p.Jobs[0], &store{table: makeTable(4096)}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		i, d := g.workers[0].next()
		pages = append(pages, i)
		if d == job.DirRead {
			reads++
		}
	}
	return pages, reads / float64(n)
}

// popular returns the percentages of the draws that the most popular pages have: the first 1 %, 5 %, 20 % and so on.
func popular(pages []int64) (shares []float64) {
	count := make([]int, 4096)
	for _, i := range pages {
		count[i]++
	}
	slices.Sort(count)
	slices.Reverse(count)
	for _, part := range []float64{0.01, 0.05, 0.2, 0.4, 0.6, 0.8} {
		sum := 0
		for _, n := range count[:int(part*4096)] {
			sum += n
		}
		shares = append(shares, 100*float64(sum)/float64(len(pages)))
	}
	return shares
}

// In 100 000 draws the most popular pages have the shares that they have in the iologs of fio, for each distribution,
// and a mix has the same share of reads. The parts of zoned have these shares too, each at its place.
func TestLikeIOLogsOfFio(t *testing.T) {
	for _, line := range []string{
		"--rw=randread",
		"--rw=randread --random_distribution=zipf:1.2",
		"--rw=randread --random_distribution=zipf:0.8",
		"--rw=randread --random_distribution=pareto:0.2",
		"--rw=randread --random_distribution=pareto:0.4",
		"--rw=randread --random_distribution=normal:20",
		"--rw=randread --random_distribution=zoned:60/10:30/20:8/30:2/40",
		"--rw=randread --random_distribution=zoned:50/5:30/15:20/",
		"--rw=randrw --rwmixread=70",
		"--rw=randread --percentage_random=40",
	} {
		options := strings.Fields(line)
		theirs, theirReads := drawnByFio(t, options...)
		ours, ourReads := drawnHere(t, len(theirs), options...)
		if len(theirs) != 25*4096 {
			t.Fatalf("%s: the trace has %d operations", line, len(theirs))
		}
		a, b := popular(ours), popular(theirs)
		for i := range a {
			if math.Abs(a[i]-b[i]) > 1.5 {
				t.Errorf("%s: the most popular pages have %.1f %% of the draws, in fio %.1f %%", line, a, b)
				break
			}
		}
		if math.Abs(ourReads-theirReads) > 0.015 {
			t.Errorf("%s: %.3f are reads, in fio %.3f", line, ourReads, theirReads)
		}
		follow := func(pages []int64) (share float64) {
			for i := range pages[1:] {
				if pages[i+1] == pages[i]+1 {
					share += 1 / float64(len(pages))
				}
			}
			return share
		}
		if x, y := follow(ours), follow(theirs); math.Abs(x-y) > 0.015 {
			t.Errorf("%s: %.3f follow the page before, in fio %.3f", line, x, y)
		}
		if strings.Contains(line, "zoned") {
			for _, end := range []int64{205, 410, 819, 1229, 2458, 4096} {
				below := func(pages []int64) (share float64) {
					for _, i := range pages {
						if i < end {
							share += 1 / float64(len(pages))
						}
					}
					return share
				}
				if x, y := below(ours), below(theirs); math.Abs(x-y) > 0.015 {
					t.Errorf("%s: %.3f lie below page %d, in fio %.3f", line, x, end, y)
				}
			}
		}
	}
}
