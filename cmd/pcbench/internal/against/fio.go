package against

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/internal/versus"
)

// newFio returns fio as a side.
func newFio(ctx context.Context, s *job.Spec) (*side, error) {
	path, err := exec.LookPath("fio")
	if err != nil {
		return nil, errors.New("--against=fio: fio is not installed; install it, like apt-get install fio, or leave " +
			"it out")
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("--against=fio: run %s --version: %w", path, err)
	}
	options := s.FioOptions()
	version := strings.TrimPrefix(strings.TrimSpace(string(out)), "fio-")
	f := &side{name: job.AgainstFio, config: "fio " + strings.Join(options, " ") + " (version " + version + ")",
		notes: fioNotes(s)}
	f.work = func(ctx context.Context, dir string) (*versus.Outcome, error) {
		file := "--filename=" + filepath.Join(dir, "data")
		if s.NeedsPages() {
			block := min(s.Size, 1<<20)
			layout := []string{"--name=layout", file, "--rw=write", "--ioengine=psync", "--end_fsync=1",
				fmt.Sprintf("--bs=%d", block), fmt.Sprintf("--size=%d", s.Size/block*block)}
			if _, _, err := runFio(ctx, path, layout); err != nil {
				return nil, fmt.Errorf("lay out: %w", err)
			}
			syncDisk(dir)
		}
		report, usage, err := runFio(ctx, path, append([]string{file}, options...))
		if err != nil {
			return nil, err
		}
		o := report.outcome()
		o.Written = usage.Written
		o.Space, err = versus.Space(dir)
		return o, err
	}
	return f, nil
}

// runFio runs fio and returns its report, and what the process used.
func runFio(ctx context.Context, path string, options []string) (*fioReport, versus.Usage, error) {
	const patience = 5 * time.Second
	cmd := exec.CommandContext(ctx, path, append([]string{"--output-format=json", "--eta=never"}, options...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = patience
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, versus.Usage{}, fmt.Errorf("run fio %s: %w: %s", strings.Join(options, " "), err,
			tail(errOut.String()+out.String()))
	}
	r := &fioReport{}
	text := out.String() // fio writes notes before the report
	if err := json.Unmarshal([]byte(text[max(0, strings.Index(text, "{\n")):]), r); err != nil || len(r.Jobs) != 1 {
		return nil, versus.Usage{}, fmt.Errorf("read the report of fio: %d jobs, %w: %s", len(r.Jobs), err, tail(text))
	}
	var usage versus.Usage
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		usage = versus.UsageOf(u)
	}
	return r, usage, nil
}

// tail returns the last characters of a text, on one line.
func tail(text string) string {
	const most = 500
	text = strings.Join(strings.Fields(text), " ")
	return text[max(0, len(text)-most):]
}

// fioReport is the part of fio's report that a comparison reads.
type fioReport struct {
	Jobs []struct {
		Read, Write fioWork
		Sync        struct {
			Latency fioLatency `json:"lat_ns"`
		}
		Runtime float64 `json:"job_runtime"` // ms, the sum of all threads
		User    float64 `json:"usr_cpu"`     // percent of Runtime
		System  float64 `json:"sys_cpu"`
	}
}

type fioWork struct {
	Bytes      int64      `json:"io_bytes"`
	Operations int64      `json:"total_ios"`
	Runtime    float64    `json:"runtime"` // ms
	Latency    fioLatency `json:"clat_ns"`
}

type fioLatency struct {
	N          int64
	Percentile map[string]float64
}

// work returns the operations as those of an outcome.
func (l *fioLatency) work(n, bytes int64) versus.Work {
	return versus.Work{Operations: n, Bytes: bytes, P50: l.Percentile["50.000000"], P99: l.Percentile["99.000000"],
		P999: l.Percentile["99.900000"]}
}

// outcome returns the figures of the report.
func (r *fioReport) outcome() *versus.Outcome {
	j := &r.Jobs[0]
	return &versus.Outcome{Seconds: max(j.Read.Runtime, j.Write.Runtime) / 1e3,
		Read:   j.Read.Latency.work(j.Read.Operations, j.Read.Bytes),
		Write:  j.Write.Latency.work(j.Write.Operations, j.Write.Bytes),
		Commit: j.Sync.Latency.work(j.Sync.Latency.N, 0),
		CPU:    (j.User + j.System) / 100 * j.Runtime / 1e3}
}
