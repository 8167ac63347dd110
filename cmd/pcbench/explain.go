package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// fioHints are the options of fio that pcbench does not have. Each has a hint that names the replacement.
var fioHints = map[string]string{
	"ioengine":       "the store writes its log itself; use --io=auto|uring|syscall",
	"filename":       "the store is a directory of its own; use --directory",
	"fsync":          "use --fdatasync=N",
	"blocksize":      "use --bs",
	"readwrite":      "use --rw",
	"rwmixwrite":     "use --rwmixread with 100 minus this value",
	"filesize":       "use --size",
	"number_ios":     "use --io_size",
	"loops":          "use --io_size, or --time_based with --runtime",
	"thread":         "jobs are always goroutines; leave it out",
	"randrepeat":     "use --randseed: the same seed draws the same pages",
	"norandommap":    "random pages are always drawn independently; leave it out",
	"bsrange":        "pages are all of one size, --bs",
	"bssplit":        "pages are all of one size, --bs",
	"sync":           "use --fdatasync=1",
	"output_format":  "use --output-format",
	"end-fsync":      "use --end_fsync",
	"time-based":     "use --time_based",
	"io-size":        "use --io_size",
	"ramp-time":      "use --ramp_time",
	"buffered":       "use --direct=0 to buffer, --direct=1 for O_DIRECT",
	"allrandrepeat":  "use --randseed: the same seed draws the same pages",
	"bsize":          "use --bs",
	"timeout":        "use --runtime",
	"minimal":        "use --output-format=json",
	"eta":            "progress goes to standard error; leave it out",
	"kb_base":        "k is 1024; leave it out",
	"offset":         "every load uses all of --size; leave it out",
	"nrfiles":        "the store has one log file; use --size",
	"rate":           "loads are not throttled; use fewer --numjobs or --iodepth",
	"rate_iops":      "loads are not throttled; use fewer --numjobs or --iodepth",
	"thinktime":      "loads are not throttled; use fewer --numjobs or --iodepth",
	"verify":         "reads check only the size of a page; leave it out",
	"unlink":         "the store is always removed; leave it out",
	"overwrite":      "use --delta=N or --rw=randrw, which lay out all pages before the load",
	"zero_buffers":   "buffers are random; use --refill_buffers for fresh bytes in each write",
	"fsync_on_close": "use --end_fsync",
	"stonewall":      "pcbench runs one load; run it again for the next one",
	"section":        "pcbench does not read job files; use options",
}

// explain turns an error of pflag into one that suggests the right option.
func explain(f *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) {
			return fmt.Errorf("--%s=%s: %s", bad.GetFlag().Name, bad.GetValue(), cause(bad))
		}
		return fmt.Errorf("%w (--help lists the options)", err)
	}
	name := unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return fmt.Errorf("-%s: options begin with two dashes, like --rw=randwrite", short)
	}
	if hint := fioHints[name]; hint != "" {
		return fmt.Errorf("--%s: pcbench has no such option; %s", name, hint)
	}
	best, least := "", 4
	f.VisitAll(func(o *pflag.Flag) {
		if d := distance(name, o.Name); d < least && d < len(o.Name) {
			best, least = o.Name, d
		}
	})
	if best != "" {
		return fmt.Errorf("--%s: no such option; did you mean --%s?", name, best)
	}
	return fmt.Errorf("--%s: no such option (--help lists them)", name)
}

// explainArgument returns an error for a word that belongs to no option.
func explainArgument(word string) error {
	if _, err := strconv.ParseBool(word); err == nil {
		return fmt.Errorf("%q: belongs to no option; an on/off option takes its value after =, like --end_fsync=1",
			word)
	}
	return fmt.Errorf("%q: pcbench takes options only, like --rw=randwrite, and no job files "+
		"(pcbench run --help lists the options)", word)
}

// cause returns the reason why a value is invalid, or states which values are valid.
func cause(bad *pflag.InvalidValueError) string {
	switch bad.GetFlag().Value.Type() {
	case "int":
		return "must be a whole number without a unit, of at most 18 digits, like 4"
	case "uint64":
		return "must be a whole number, 0 to 18446744073709551615"
	}
	err := error(bad)
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

// distance returns the edit distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
