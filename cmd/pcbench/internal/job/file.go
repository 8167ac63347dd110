package job

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// looksLikeFile reports whether a word of the command line names a job file.
func looksLikeFile(w string) bool {
	if w == "-" {
		return true
	}
	info, err := os.Stat(w)
	return err == nil && info.Mode().IsRegular() || strings.HasSuffix(w, ".fio") || strings.ContainsRune(w, '/')
}

// maxIncludes limits how deep files include each other.
const maxIncludes = 16

// file parses a job file; - is standard input.
func (p *parser) file(name string) { p.include(name, &reading{}, 0) }

// reading is the state of parsing a job file and those that it includes.
type reading struct {
	now    *section // nil: [global], or nothing yet
	global bool
}

func (p *parser) include(name string, r *reading, depth int) {
	if depth > maxIncludes {
		p.bad.when(true, "%s: files include each other more than %d deep", name, maxIncludes)
		return
	}
	var in io.Reader = os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			p.bad.when(true, "read the job file: %w", err)
			return
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff")) // of an editor that marks UTF-8
		where := fmt.Sprintf("%s:%d", name, n)
		if file, ok := strings.CutPrefix(line, "include "); ok {
			file = strings.TrimSpace(file)
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(name), file)
			}
			p.include(file, r, depth+1)
			continue
		}
		p.line(line, where, r)
	}
	p.bad.when(lines.Err() != nil, "read the job file %s: %w", name, lines.Err())
}

// line parses a line of a job file.
func (p *parser) line(line, where string, r *reading) {
	if line == "" || line[0] == '#' || line[0] == ';' {
		return
	}
	if line[0] == '[' {
		end := strings.IndexByte(line, ']')
		if end < 0 {
			p.bad.when(true, "%s: the section has no closing bracket", where)
			return
		}
		name := line[1:end]
		if r.now, r.global = nil, strings.EqualFold(name, "global"); !r.global {
			r.now = &section{name: name, settings: append([]setting(nil), p.global...)}
			p.sections = append(p.sections, r.now)
		}
		return
	}
	name, value, _ := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(stripComment(value))
	name = strings.TrimSpace(stripComment(name))
	where += ": " + name
	if r.now == nil && !r.global {
		p.bad.when(true, "%s: stands before the first section, like [global]", where)
		return
	}
	o := Lookup(name)
	if o == nil {
		p.bad.when(true, "%s: %w", where, explainUnknown(name))
		return
	}
	if o.Scope == ScopeRun && o.Accepted() {
		p.bad.when(true, "%s: is for the whole run; give --%s on the command line", where, name)
		return
	}
	value, err := expand(value)
	if err != nil {
		p.bad.when(true, "%s: %w", where, err)
		return
	}
	if o.Name == "name" && r.now != nil {
		r.now.name = value
	}
	p.add(r.now, setting{option: o, name: name, value: value, where: where})
}

// stripComment removes a comment, which begins at a # or ; after white space.
func stripComment(v string) string {
	for i := 1; i < len(v); i++ {
		if (v[i] == '#' || v[i] == ';') && (v[i-1] == ' ' || v[i-1] == '\t') {
			return v[:i]
		}
	}
	return v
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([a-z_]+)`)

// expand replaces ${NAME} by the environment and fio's $pagesize, $mb_memory and $ncpus, and then computes a product or
// sum of numbers.
func expand(v string) (string, error) {
	var missing error
	computed := false
	v = variable.ReplaceAllStringFunc(v, func(m string) string {
		if name, ok := strings.CutPrefix(m, "${"); ok {
			name = strings.TrimSuffix(name, "}")
			value, set := os.LookupEnv(name)
			if !set {
				missing = fmt.Errorf("the environment has no variable %s", name)
			}
			return value
		}
		computed = true
		switch m {
		case "$pagesize":
			return strconv.Itoa(os.Getpagesize())
		case "$mb_memory":
			return strconv.FormatInt(memory()>>20, 10)
		case "$ncpus":
			return strconv.Itoa(runtime.NumCPU())
		}
		computed = false
		return m
	})
	if computed {
		v = compute(v)
	}
	return v, missing
}

// compute evaluates A*B, A/B, A+B or A-B of whole numbers, from left to right. Other texts stay.
func compute(v string) string {
	sum, op := int64(0), byte('+')
	for rest := v; ; {
		end := strings.IndexAny(rest, "*/+-")
		word := rest
		if end >= 0 {
			word = rest[:end]
		}
		n, err := strconv.ParseInt(strings.TrimSpace(word), 10, 64)
		if err != nil || op == '/' && n == 0 {
			return v
		}
		switch op {
		case '+':
			sum += n
		case '-':
			sum -= n
		case '*':
			sum *= n
		case '/':
			sum /= n
		}
		if end < 0 {
			return strconv.FormatInt(sum, 10)
		}
		op, rest = rest[end], rest[end+1:]
	}
}

// memory returns the bytes of memory of the machine, or 0 if the kernel does not tell.
func memory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib int64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib << 10
}

// Command returns the options of a job as words of a command line, as fio's showcmd does, quoted for a shell.
func (s *Spec) Command() string {
	b := &strings.Builder{}
	b.WriteString(quote("--name=" + s.Name))
	for _, g := range slices.Concat(s.Global, s.Given) {
		if g[0] != "name" {
			b.WriteString(" " + quote("--"+g[0]+"="+g[1]))
		}
	}
	return b.String()
}

// Commands returns the options of jobs as words of one command line. Options for all jobs stay so: those that a job
// file sets between two jobs follow --name=global.
func Commands(jobs []*Spec) string {
	var words []string
	global := map[string]string{}
	for i, s := range jobs {
		var more []string
		for _, g := range s.Global {
			if old, ok := global[g[0]]; !ok || old != g[1] {
				global[g[0]] = g[1]
				more = append(more, quote("--"+g[0]+"="+g[1]))
			}
		}
		if i > 0 && len(more) > 0 {
			words = append(words, "--name=global")
		}
		own := *s
		own.Global = nil
		words = append(append(words, more...), own.Command())
	}
	return strings.Join(words, " ")
}

var plain = regexp.MustCompile(`^[-+=.,:/%@_A-Za-z0-9]+$`)

// quote returns a word as a shell takes it.
func quote(word string) string {
	if plain.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
