package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// elsewhere are options of fio that pcbench does not have, with what it has instead.
var elsewhere = map[string]string{
	"ioengine":       "the store writes its log itself; --io=auto|uring|syscall says how",
	"filename":       "the store is a directory of its own; --directory says where",
	"fsync":          "use --fdatasync=N",
	"blocksize":      "use --bs",
	"readwrite":      "use --rw",
	"rwmixwrite":     "use --rwmixread with the rest of 100",
	"filesize":       "use --size",
	"number_ios":     "use --io_size",
	"loops":          "use --io_size, or --time_based with --runtime",
	"thread":         "jobs are goroutines always; leave it out",
	"randrepeat":     "use --randseed: the same seed chooses the same pages",
	"norandommap":    "pages are chosen independently of each other always; leave it out",
	"bsrange":        "pages are all of one size, --bs",
	"bssplit":        "pages are all of one size, --bs",
	"sync":           "use --fdatasync=1",
	"output_format":  "use --output-format",
	"end-fsync":      "use --end_fsync",
	"time-based":     "use --time_based",
	"io-size":        "use --io_size",
	"ramp-time":      "use --ramp_time",
	"buffered":       "use --direct=0 for it, --direct=1 for O_DIRECT",
	"allrandrepeat":  "use --randseed: the same seed chooses the same pages",
	"bsize":          "use --bs",
	"timeout":        "use --runtime",
	"minimal":        "use --output-format=json",
	"eta":            "progress goes to standard error; leave it out",
	"kb_base":        "k is 1024; leave it out",
	"offset":         "every load uses all of --size; leave it out",
	"nrfiles":        "the store is one file; --size says how large",
	"rate":           "loads are not throttled; use fewer --numjobs or --iodepth",
	"rate_iops":      "loads are not throttled; use fewer --numjobs or --iodepth",
	"thinktime":      "loads are not throttled; use fewer --numjobs or --iodepth",
	"verify":         "reads check no more than the size of a page; leave it out",
	"unlink":         "the store is always removed; leave it out",
	"overwrite":      "use --delta=N or --rw=randrw, for which all pages are laid out before",
	"zero_buffers":   "buffers are random; --refill_buffers makes each a new one",
	"fsync_on_close": "use --end_fsync",
	"stonewall":      "one load at a time: run pcbench again",
	"section":        "job files are not read; options only",
}

// explain says of an error of pflag which option would be right.
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
	if hint := elsewhere[name]; hint != "" {
		return fmt.Errorf("--%s: no such option here; %s", name, hint)
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

// explainArgument says what is wrong with a word that belongs to no option.
func explainArgument(word string) error {
	if _, err := strconv.ParseBool(word); err == nil {
		return fmt.Errorf("%q: belongs to no option; those that are on or off have their value after =, like --end_fsync=1", word)
	}
	return fmt.Errorf("%q: options only, like --rw=randwrite; job files are not read (pcbench run --help lists the options)", word)
}

// cause is what is wrong with a value, or what would be right.
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

// distance is the edit distance of two words.
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
