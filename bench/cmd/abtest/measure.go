package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"pagecache/bench"
)

// line describes a comparison, as compare --list --json prints it.
type line struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Higher  bool   `json:"higher"`  // a higher figure is better
	Repeats string `json:"repeats"` // another comparison whose own side is the same; "": none
	Run     string `json:"run"`     // comparisons with the same Run share one run in one process; "": its own
}

// list returns the comparisons that compare has and whose name matches only, without repetitions.
func list(ctx context.Context, v version, only *regexp.Regexp) ([]line, error) {
	out, err := command(ctx, ".", v.path, "--list", "--json")
	if err != nil {
		return nil, err
	}
	lines, err := decodeLines[line](out)
	if err != nil {
		return nil, fmt.Errorf("compare --list: %w", err)
	}
	var chosen []line
	for _, l := range lines {
		if l.Repeats == "" && only.MatchString(l.Name) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("--only=%s matches no comparison", only)
	}
	return chosen, nil
}

// group puts the lines that take their figures from one run together, in the order of the first of them.
func group(lines []line) (groups [][]line) {
	at := map[string]int{}
	for _, l := range lines {
		if i, ok := at[l.Run]; ok && l.Run != "" {
			groups[i] = append(groups[i], l)
			continue
		}
		at[l.Run] = len(groups)
		groups = append(groups, []line{l})
	}
	return groups
}

// session measures two versions in turns.
type session struct {
	options
	old, new version
	pairs    *pairFile
}

// template returns a pair with the fields that all pairs of this session have in common.
func (s *session) template() pair {
	return pair{Seconds: s.seconds, OldBinary: s.old.binary, NewBinary: s.new.binary,
		OldCommit: s.old.commit, NewCommit: s.new.commit}
}

// measure measures the missing rounds of the lines, one round of all after another, and adds the pairs to s.pairs.
func (s *session) measure(ctx context.Context, lines []line) error {
	groups := group(lines)
	skipped := map[string]bool{}
	for round := 1; round <= s.rounds; round++ {
		for _, g := range groups {
			if s.pairs.rounds(g[0].Name) >= round || skipped[g[0].Name] {
				continue
			}
			reason, err := s.round(ctx, round, g)
			if err != nil {
				return err
			}
			if reason != "" {
				skipped[g[0].Name] = true
				fmt.Fprintf(os.Stderr, "%s skipped: %s\n", g[0].Name, reason)
			}
		}
	}
	return nil
}

// round measures one group of lines once with each version. It returns why the group cannot be measured here, or "".
func (s *session) round(ctx context.Context, round int, g []line) (skipped string, err error) {
	versions := []version{s.old, s.new}
	figures := make([]map[string]figure, len(versions))
	for k := range versions {
		i := (k + round) % len(versions)
		if figures[i], err = s.once(ctx, versions[i], g); err != nil {
			return "", err
		}
		if reason := figures[i][g[0].Name].Skipped; reason != "" {
			return reason, nil
		}
	}
	for _, l := range g {
		p := s.template()
		p.Name, p.Unit, p.Higher, p.Round = l.Name, l.Unit, l.Higher, round
		p.Time = time.Now().UTC().Truncate(time.Second)
		p.Old, p.New = figures[0][l.Name].Value, figures[1][l.Name].Value
		if err := s.pairs.add(p); err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "round %d  %-16s %s → %s %s, speed ratio %.3f\n",
			round, p.Name, bench.Number(p.Old), bench.Number(p.New), p.Unit, p.ratio())
	}
	return "", nil
}

// figure is one line of the output of compare ours.
type figure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Skipped string  `json:"skipped"`
}

// measureLimit ends a measurement that hangs.
const measureLimit = 30 * time.Minute

// once measures a group of lines with one version, in a process and a directory of their own.
func (s *session) once(ctx context.Context, v version, g []line) (map[string]figure, error) {
	dir := filepath.Join(s.dir, "stores")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	names := make([]string, len(g))
	for i, l := range g {
		names[i] = regexp.QuoteMeta(l.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, v.path, "ours", "--dir", dir, "--seconds", fmt.Sprint(s.seconds),
		"--only", "^("+strings.Join(names, "|")+")$")
	// Some measurements start a process of their own. All of them end together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return nil, fmt.Errorf("measure %s with %s: %w\n%s", g[0].Name, filepath.Base(v.path), err, errOut.Bytes())
	}
	figures, err := decodeLines[figure](out)
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", g[0].Name, err)
	}
	byName := map[string]figure{}
	for _, f := range figures {
		byName[f.Name] = f
	}
	for _, l := range g {
		if _, ok := byName[l.Name]; !ok {
			return nil, fmt.Errorf("measure %s: %s has no such comparison", l.Name, filepath.Base(v.path))
		}
	}
	return byName, nil
}

// decodeLines decodes a sequence of JSON objects.
func decodeLines[T any](text []byte) (all []T, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var v T
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return all, err
		}
		all = append(all, v)
	}
}
