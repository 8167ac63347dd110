package main

import (
	"fmt"
	"io"
	"math"
	"regexp"

	"pagecache/bench"
)

// slowest is the ratio of new to old that the interval must reach for a version to count as not slower.
const slowest = 0.97

// writeTable writes a Markdown table of the pairs whose name matches only, one line for each comparison.
func writeTable(w io.Writer, pairs []pair, only *regexp.Regexp) {
	fmt.Fprintln(w, "| name | unit | rounds | old | new | speed new/old | 95 % interval | reaches 0.97 |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	byName, order := map[string][]pair{}, []string{}
	for _, p := range pairs {
		if !only.MatchString(p.Name) {
			continue
		}
		if byName[p.Name] == nil {
			order = append(order, p.Name)
		}
		byName[p.Name] = append(byName[p.Name], p)
	}
	for _, name := range order {
		rounds := byName[name]
		var before, after, ratios []float64
		for _, p := range rounds {
			before, after, ratios = append(before, p.Old), append(after, p.New), append(ratios, p.ratio())
		}
		e := estimateOf(ratios)
		fmt.Fprintf(w, "| %s | %s | %d | %s | %s | %.3f | %s | %s |\n", name, rounds[0].Unit, len(rounds),
			bench.Number(bench.Median(before)), bench.Number(bench.Median(after)), e.ratio, e.interval(), e.verdict())
	}
}

// estimate is the geometric mean of ratios, with its 95 % confidence interval.
type estimate struct{ ratio, low, high float64 }

// estimateOf estimates from one ratio a round. The logarithms of the ratios are taken to be normally distributed, so
// the interval is Student's. It is infinite for a single round.
func estimateOf(ratios []float64) estimate {
	n := float64(len(ratios))
	mean, squares := 0.0, 0.0
	for _, r := range ratios {
		mean += math.Log(r) / n
	}
	for _, r := range ratios {
		squares += (math.Log(r) - mean) * (math.Log(r) - mean)
	}
	if len(ratios) < 2 {
		return estimate{math.Exp(mean), 0, math.Inf(1)}
	}
	half := student(len(ratios)-1) * math.Sqrt(squares/(n-1)/n)
	return estimate{math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half)}
}

func (e estimate) interval() string {
	if math.IsInf(e.high, 1) {
		return ""
	}
	return fmt.Sprintf("%.3f … %.3f", e.low, e.high)
}

// verdict says whether the interval reaches the limit, and whether all of it lies above. A single round has no verdict.
func (e estimate) verdict() string {
	switch {
	case math.IsInf(e.high, 1):
		return ""
	case e.low >= slowest:
		return "yes, all of it"
	case e.high >= slowest:
		return "yes"
	}
	return "NO"
}

// student returns the 97.5 % quantile of Student's t distribution with the given degrees of freedom, at least 1.
func student(freedom int) float64 {
	quantiles := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
		2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042}
	if freedom <= len(quantiles) {
		return quantiles[freedom-1]
	}
	const normal = 1.95996
	v := float64(freedom)
	return normal + (normal*normal*normal+normal)/(4*v) // the beginning of its expansion
}
