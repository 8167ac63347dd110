package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/pflag"
)

// abtest also compiles this file into older checkouts whose compare has no ours command. The file therefore uses only
// identifiers of compare that those versions have, too.

// oursFigure is one line of the output of compare ours.
type oursFigure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Skipped string  `json:"skipped,omitempty"` // the reason, if this machine cannot measure it
}

// runOurs is the command compare ours: it measures our side of the chosen comparisons once, without the other side, and
// writes one JSON object a line.
func runOurs(ctx context.Context, args []string, out io.Writer) error {
	c := &config{}
	f := pflag.NewFlagSet("compare ours", pflag.ContinueOnError)
	f.StringVar(&c.dir, "dir", ".", "make the stores below `DIR`, which must exist")
	f.Float64Var(&c.seconds, "seconds", 3, "length of each timed measurement")
	f.Int64Var(&c.logMiB, "log-mib", 3<<10, "MiB written to measure the bandwidth of the log")
	only := f.String("only", "", "measure only comparisons whose name matches this `REGEX`")
	if err := f.Parse(args); err != nil {
		return err
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	measured := 0
	for _, m := range comparisons() {
		if !pattern.MatchString(m.name) {
			continue
		}
		measured++
		figure, err := measureOurs(ctx, c, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if err := json.NewEncoder(out).Encode(figure); err != nil {
			return err
		}
	}
	if measured == 0 {
		return fmt.Errorf("--only=%s matches no comparison", *only)
	}
	return nil
}

// measureOurs measures our side of m once, in a fresh directory that it removes.
func measureOurs(ctx context.Context, c *config, m *comparison) (oursFigure, error) {
	if err := ctx.Err(); err != nil {
		return oursFigure{}, err
	}
	dir := filepath.Join(c.dir, m.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return oursFigure{}, err
	}
	settle()
	v, err := m.ours(ctx, c, dir)
	err = errors.Join(err, os.RemoveAll(dir))
	var skip errSkip
	if errors.As(err, &skip) {
		return oursFigure{Name: m.name, Skipped: string(skip)}, nil
	}
	return oursFigure{Name: m.name, Value: v}, err
}
