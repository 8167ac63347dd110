package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hints are misspelt or foreign names, each with the option that was meant.
var hints = map[string]string{
	"time": "use --runtime", "duration": "use --runtime", "jobs": "use --numjobs",
	"qd": "use --iodepth", "queue_depth": "use --iodepth", "cache_size": "use --cache", "cachecapacity": "use --cache",
	"format": "use --output-format", "json": "use --output-format=json", "seed": "use --randseed",
	"pages":    "use --size",
	"pagesize": "use --bs", "page_size": "use --bs", "zipf": "use --random_distribution=zipf:THETA",
}

// explainUnknown returns an error for an option that does not exist, which suggests the right one.
func explainUnknown(name string) error {
	if hint := hints[name]; hint != "" {
		return fmt.Errorf("--%s: pcbench has no such option; %s", name, hint)
	}
	best, least := "", 2+len(name)/4 // a third of a short word is another word
	for i := range Options {
		o := &Options[i]
		for _, n := range append([]string{o.Name}, o.Aliases...) {
			if d := Distance(name, n); o.Accepted() && d < least && d < len(n) {
				best, least = n, d
			}
		}
	}
	if best != "" {
		return fmt.Errorf("--%s: no such option; did you mean --%s?", name, best)
	}
	return fmt.Errorf("--%s: no such option (--help lists them)", name)
}

// explainValue returns an error for a value that is none of those that an option takes.
func explainValue(v string, values []string) error {
	err := fmt.Errorf("must be one of %s", strings.Join(values, ", "))
	if v == "" || len(values) == 0 {
		return err
	}
	best := slices.MinFunc(values, func(a, b string) int { return Distance(v, a) - Distance(v, b) })
	if n := Distance(v, best); n <= 1+len(v)/5 && n < len(best) {
		return fmt.Errorf("%w; did you mean %s?", err, best)
	}
	return err
}

// explainWord returns an error for a word that belongs to no option and names no file.
func explainWord(word string) error {
	if _, err := strconv.ParseBool(word); err == nil {
		return fmt.Errorf("%q: belongs to no option; an on/off option takes its value after =, like --end_fsync=1",
			word)
	}
	return fmt.Errorf("%q: is neither an option, like --rw=randwrite, nor a job file that exists "+
		"(pcbench run --help lists the options)", word)
}

// Distance returns the edit distance of two words. Two letters that have changed places count as one edit.
func Distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
