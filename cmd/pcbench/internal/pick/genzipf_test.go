package pick

import (
	"math"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// The shares of the most popular pages are those of fio-genzipf: the same distribution, as many draws as pages, and
// the same division of the pages that were drawn into tenths.
func TestLikeGenzipf(t *testing.T) {
	if _, err := exec.LookPath("fio-genzipf"); err != nil {
		t.Skip("SKIPPED: fio-genzipf is not installed")
	}
	const pages, rows = 1 << 18, 10
	row := regexp.MustCompile(`(?m)^\S.*%\s+([0-9.]+)%\s+([0-9.]+)%\s+\d+\s`)
	for _, c := range []struct {
		kind  Kind
		param string
	}{
		{KindZipf, "1.2"}, {KindZipf, "0.8"}, {KindPareto, "0.2"}, {KindPareto, "0.35"}, {KindNormal, "20"},
	} {
		out, err := exec.CommandContext(t.Context(), "fio-genzipf", "-t", c.kind.String(), "-i", c.param, "-b", "4096",
			"-g", "1", "-o", strconv.Itoa(rows)).Output()
		if err != nil {
			t.Fatal(err)
		}
		found := row.FindAllSubmatch(out, -1)
		if len(found) != rows {
			t.Fatalf("%s: %d rows in\n%s", c.kind, len(found), out)
		}
		param, err := strconv.ParseFloat(c.param, 64)
		if err != nil {
			t.Fatal(err)
		}
		ours := topShares(NewPages(pages, Dist{Kind: c.kind, Param: param}, 1), pages, rows)
		for i, m := range found {
			want, err := strconv.ParseFloat(string(m[2]), 64)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(ours[i]-want) > 1.5 {
				t.Errorf("%s:%s: the first %d tenths have %.2f %% of the draws, in fio %.2f %%", c.kind, c.param, i+1,
					ours[i],
					want)
			}
		}
	}
}

// topShares draws n pages and returns the percentages of the draws that the most popular parts of the pages have.
func topShares(p *Pages, n, parts int) (shares []float64) {
	rng, count := New(3, 3), map[int64]int{}
	for range n {
		count[p.Next(rng)]++
	}
	hits := make([]int, 0, len(count))
	for _, k := range count {
		hits = append(hits, k)
	}
	slices.Sort(hits)
	slices.Reverse(hits)
	sum := 0
	for i := range parts {
		for _, k := range hits[i*len(hits)/parts : (i+1)*len(hits)/parts] {
			sum += k
		}
		shares = append(shares, 100*float64(sum)/float64(n))
	}
	return shares
}
