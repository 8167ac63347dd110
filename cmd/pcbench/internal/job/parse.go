package job

import (
	"errors"
	"fmt"
	"strings"

	"pagecache/cmd/pcbench/internal/pick"
)

// checkEngine refuses the engines that are not for files. The part after a colon is a path.
func checkEngine(v string) error {
	name, _, _ := strings.Cut(v, ":")
	if why := notForFiles[name]; why != "" {
		return fmt.Errorf("%s, and has no meaning for pages", why)
	}
	return nil
}

// setting is one option with its value.
type setting struct {
	option *Option
	name   string // as it was given
	value  string
	where  string // the file and line, or --name
	global bool   // it is for all jobs that follow
}

// section is what one job is made of.
type section struct {
	name     string
	settings []setting
}

// Parsed is the outcome of parsing.
type Parsed struct {
	Run   Run
	Jobs  []*Spec
	Notes []string // options that are accepted and have no effect, each with the reason
	Help  bool
}

// Parse parses the words after pcbench run: options and job files. As in fio, options before the first --name are for
// all jobs that follow. Its error names every invalid option and the valid values.
func Parse(args []string) (*Parsed, error) {
	p := &parser{run: DefaultRun()}
	if help := p.words(args); help {
		return &Parsed{Help: true}, nil
	}
	for _, f := range p.files {
		p.file(f)
	}
	return p.finish()
}

// parser collects sections.
type parser struct {
	run      Run
	files    []string
	global   []setting
	sections []*section
	bad      faults
}

// faults are the errors of a command line. All of them are reported.
type faults []error

// when adds an error if wrong is true. Its text begins with the option.
func (e *faults) when(wrong bool, form string, args ...any) {
	if wrong {
		*e = append(*e, fmt.Errorf(form, args...))
	}
}

// words parses the command line. It reports whether help was asked for.
func (p *parser) words(args []string) (help bool) {
	var now *section // nil: the options are for all jobs
	for i := 0; i < len(args); i++ {
		w := args[i]
		switch {
		case w == "--help" || w == "-h":
			return true
		case w == "-" || !strings.HasPrefix(w, "-"):
			p.bad.when(!looksLikeFile(w), "%w", explainWord(w))
			if looksLikeFile(w) {
				p.files = append(p.files, w)
			}
			continue
		case !strings.HasPrefix(w, "--"):
			p.bad.when(true, "%s: options begin with two dashes, like --rw=randwrite", w)
			continue
		}
		name, value, hasValue := strings.Cut(w[2:], "=")
		o := Lookup(name)
		if o == nil {
			p.bad.when(true, "%w", explainUnknown(name))
			continue
		}
		if !hasValue && !o.OnOff() && o.Accepted() {
			if i++; i >= len(args) {
				p.bad.when(true, "--%s: needs a value, like --%s=%s", name, name, o.Arg)
				return false
			}
			value = args[i]
		}
		if o.Name == "name" {
			now = &section{name: value}
			if value == "global" {
				now = nil
				continue
			}
			p.sections = append(p.sections, &section{name: value, settings: append([]setting(nil), p.global...)})
			now = p.sections[len(p.sections)-1]
		}
		p.add(now, setting{option: o, name: name, value: value, where: "--" + name})
	}
	return false
}

// add adds an option to a section, to all sections if it is nil, or to the run.
func (p *parser) add(to *section, s setting) {
	switch {
	case !s.option.Accepted():
		p.bad.when(true, "%s: pcbench does not accept it: %s", s.where, s.option.Refused)
	case s.option.Scope == ScopeRun:
		err := s.option.setRun(&p.run, s.value)
		p.bad.when(err != nil, "%s=%s: %w", s.where, s.value, err)
	case to == nil:
		s.global = true
		p.global = append(p.global, s)
	default:
		to.settings = append(to.settings, s)
	}
}

// finish makes the jobs.
func (p *parser) finish() (*Parsed, error) {
	if len(p.sections) == 0 && len(p.files) == 0 {
		p.sections = []*section{{name: Defaults().Name, settings: p.global}}
	}
	out := &Parsed{Run: p.run}
	seen := map[string]bool{}
	for _, sec := range p.sections {
		if len(p.run.Sections) > 0 && !contains(p.run.Sections, sec.name) {
			continue
		}
		s, bad := build(sec, len(p.sections) > 1)
		p.bad = append(p.bad, bad...)
		out.Jobs = append(out.Jobs, s)
		for _, x := range sec.settings {
			if note := deviceNote(x, s); note != "" && !seen[note] {
				seen[note] = true
				out.Notes = append(out.Notes, note)
			}
			if why := x.option.NoOp; why != "" && !seen[x.name] && !p.run.isForFio(x.option.Name) {
				seen[x.name] = true
				out.Notes = append(out.Notes, fmt.Sprintf("%s has no effect: %s", x.name, why))
			}
		}
	}
	p.bad.when(len(p.sections) == 0 && len(p.bad) == 0, "no job to run: the job file has no section but [global]")
	p.bad.when(len(out.Jobs) == 0 && len(p.bad) == 0, "no job to run: no section is named %s",
		strings.Join(p.run.Sections, ", "))
	if len(p.bad) == 0 {
		p.bad = append(p.bad, checkAll(out)...)
	}
	return out, errors.Join(dedupe(p.bad)...)
}

// deviceNote says where the store is if fio would use a device.
func deviceNote(x setting, s *Spec) string {
	if x.option.Name != "filename" || !strings.HasPrefix(x.value, "/dev/") || strings.HasPrefix(x.value, "/dev/shm/") {
		return ""
	}
	return fmt.Sprintf("filename=%s: no device is touched; the store is %s%s in --directory=%s", x.value, s.Filename,
		PlaceSuffix, s.Directory)
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// dedupe drops repeated errors: an option for all jobs fails in each.
func dedupe(errs []error) (out []error) {
	seen := map[string]bool{}
	for _, err := range errs {
		if !seen[err.Error()] {
			seen[err.Error()] = true
			out = append(out, err)
		}
	}
	return out
}

// build makes the Spec of a section. If there are others, an option for all jobs need not have an effect on each, as in
// fio: a job file has fdatasync in [global], and a job that reads.
func build(sec *section, others bool) (*Spec, faults) {
	s := Defaults()
	s.Name = sec.name
	var bad faults
	given, own := map[string]bool{}, map[string]bool{}
	for _, x := range sec.settings {
		if x.option.Name != "name" && x.option.set != nil {
			err := x.option.set(&s, x.value)
			bad.when(err != nil, "%s=%s: %w", x.where, x.value, err)
		}
		given[x.option.Name] = true
		own[x.option.Name] = own[x.option.Name] || !x.global || !others
		to := &s.Given
		if x.global {
			to = &s.Global
		}
		*to = give(*to, x.option.Name, x.value)
	}
	if len(bad) > 0 { // otherwise some numbers are missing
		return &s, bad
	}
	s.derive(given)
	bad = s.check(given, own)
	if !s.Random {
		s.Dist = Defaults().Dist // of a global option
	}
	return &s, bad
}

// give adds an option to a list for the report; the last value counts.
func give(to [][2]string, name, value string) [][2]string {
	if o := Lookup(name); value == "" && o.OnOff() {
		value = "1"
	}
	for i := range to {
		if to[i][0] == name {
			to[i][1] = value
			return to
		}
	}
	return append(to, [2]string{name, value})
}

// derive sets the values that follow from others.
func (s *Spec) derive(given map[string]bool) {
	if s.Trace != nil {
		s.followTrace()
	}
	if s.Unaligned {
		for _, d := range Dirs {
			s.BS[d] = s.BS[d].Unaligned()
		}
	}
	if s.Own.Node {
		if !given["bs"] && !given["bsrange"] && !given["bssplit"] {
			for _, d := range Dirs {
				s.BS[d] = pick.OneSize(16 << 10)
			}
		}
		if !given["delta"] {
			s.Own.Delta = 128
		}
	}
	if s.OffsetPercent > 0 {
		s.Offset = s.Size / 100 * int64(s.OffsetPercent)
	}
	if s.Think.IOTime > 0 && !given["thinktime_blocks"] { // as in fio
		s.Think.Blocks = 0
	}
	if !given["io_size"] {
		s.IOSize = s.Size
	}
	if s.Own.Cold {
		s.Invalidate, s.Engine.CopyOnRead = true, true
		if !given["cache"] {
			s.Engine.CacheCapacity = 1
		}
	}
	for name, at := range map[string]*string{"write_bw_log": &s.Logs.BW, "write_lat_log": &s.Logs.Lat,
		"write_iops_log": &s.Logs.IOPS, "write_hist_log": &s.Logs.Hist} {
		if given[name] && *at == "" { // as in fio, the name of the job is the prefix
			*at = s.Name
		}
	}
	if s.Target.Latency > 0 && s.Target.Window == 0 {
		s.Target.Window = 5e9
	}
}
