package job

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"pagecache/cmd/pcbench/internal/units"
)

// Scope says to what an option belongs.
type Scope int

// The scopes.
const (
	ScopeJob Scope = iota // each job has its own value
	ScopeRun              // one value for the whole run; not in job files
)

// String returns the name of the scope.
func (s Scope) String() string {
	switch s {
	case ScopeJob:
		return "job"
	case ScopeRun:
		return "run"
	}
	return fmt.Sprintf("Scope(%d)", int(s))
}

// Option is a row of the table of options.
type Option struct {
	Name    string
	Aliases []string
	Arg     string   // the placeholder of its value; empty for an on/off option
	Values  []string // all values, if they are few words
	Default string
	Help    string
	Scope   Scope
	Own     bool   // fio has no such option
	Field   string // of engine.Options
	NoOp    string // why it is accepted and has no effect
	Refused string // why it is not accepted

	set    func(*Spec, string) error
	setRun func(*Run, string) error
}

// Options is the table of all options, in the order of the help text.
var Options = concat(loadOptions, timeOptions, paceOptions, valueOptions, reportOptions, logOptions, ownOptions,
	engineOptions, runOptions, againstOptions, noOps, refusals)

func concat(tables ...[]Option) (all []Option) {
	for _, t := range tables {
		all = append(all, t...)
	}
	return all
}

var byName = func() map[string]*Option {
	m := map[string]*Option{}
	for i := range Options {
		o := &Options[i]
		for _, n := range append([]string{o.Name}, o.Aliases...) {
			m[n] = o
		}
	}
	return m
}()

// Lookup returns the option of a name or an alias, or nil. As in fio, - and _ are equal.
func Lookup(name string) *Option {
	if o := byName[name]; o != nil {
		return o
	}
	if o := byName[strings.ReplaceAll(name, "-", "_")]; o != nil {
		return o
	}
	return byName[strings.ReplaceAll(name, "_", "-")]
}

// Accepted reports whether the option can be given.
func (o *Option) Accepted() bool { return o.Refused == "" }

// OnOff reports whether the option needs no value.
func (o *Option) OnOff() bool { return o.Arg == "" && len(o.Values) == 0 }

// Setters of values of common types.

type setter = func(*Spec, string) error

func text(at func(*Spec) *string) setter {
	return func(s *Spec, v string) error { *at(s) = v; return nil }
}

func toBool(v string) (bool, error) {
	if v == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q is neither 0 nor 1", v)
	}
	return b, nil
}

func onOff(at func(*Spec) *bool) setter {
	return func(s *Spec, v string) (err error) { *at(s), err = toBool(v); return err }
}

// off is onOff for an option that says the opposite of its field.
func off(at func(*Spec) *bool) setter {
	return func(s *Spec, v string) error {
		b, err := toBool(v)
		*at(s) = !b
		return err
	}
}

func toInt(v string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number without a unit, of at most 18 digits, like 4")
	}
	if n < least || n > most {
		return 0, fmt.Errorf("must be %d to %d", least, most)
	}
	return n, nil
}

func number(least, most int64, at func(*Spec) *int) setter {
	return func(s *Spec, v string) error {
		n, err := toInt(v, least, most)
		*at(s) = int(n)
		return err
	}
}

func wide(least, most int64, at func(*Spec) *int64) setter {
	return func(s *Spec, v string) (err error) { *at(s), err = toInt(v, least, most); return err }
}

// toSize parses a size above least−1.
func toSize(v string, least int64) (int64, error) {
	n, err := units.ParseSize(v)
	if err == nil && n < least {
		err = fmt.Errorf("must be at least %d", least)
		if least == 1 && (n < 0 || strings.Trim(v, "0") == "") { // and not a part of a byte
			err = fmt.Errorf("must be above 0")
		}
	}
	return n, err
}

func size(least int64, at func(*Spec) *int64) setter {
	return func(s *Spec, v string) (err error) { *at(s), err = toSize(v, least); return err }
}

func duration(unit time.Duration, at func(*Spec) *time.Duration) setter {
	return func(s *Spec, v string) (err error) { *at(s), err = units.ParseTime(v, unit); return err }
}

func float(least, most float64, at func(*Spec) *float64) setter {
	return func(s *Spec, v string) error {
		n, err := strconv.ParseFloat(strings.TrimSuffix(v, "%"), 64)
		if err != nil || !(n >= least && n <= most) { // it may be NaN
			return fmt.Errorf("must be a number, %v to %v", least, most)
		}
		*at(s) = n
		return nil
	}
}

func oneOf(values []string, at func(*Spec) *string) setter {
	return func(s *Spec, v string) error {
		for _, known := range values {
			if v == known {
				*at(s) = v
				return nil
			}
		}
		return explainValue(v, values)
	}
}

// eachDir parses up to three values with commas between, as fio does: one is for all directions; of two, the second is
// for writes and trims. An empty value leaves its direction as it is.
func eachDir(set func(s *Spec, d Dir, v string) error) setter {
	return func(s *Spec, v string) error {
		parts := strings.Split(v, ",")
		if len(parts) > int(numDirs) {
			return fmt.Errorf("has more than 3 values: want READ,WRITE,TRIM")
		}
		for _, d := range Dirs {
			i := int(d)
			if i >= len(parts) {
				i = len(parts) - 1
			}
			if len(parts) > 1 && parts[i] == "" {
				continue
			}
			if err := set(s, d, parts[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

func sizes(at func(*Spec) *[3]int64) setter {
	return eachDir(func(s *Spec, d Dir, v string) (err error) { at(s)[d], err = toSize(v, 1); return err })
}

func numbers(at func(*Spec) *[3]int64) setter {
	return eachDir(func(s *Spec, d Dir, v string) (err error) { at(s)[d], err = toSize(v, 1); return err })
}
