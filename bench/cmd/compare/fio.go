package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fioJob is the part of fio's report that compare reads.
type fioJob struct {
	Read struct {
		BWBytes float64 `json:"bw_bytes"`
		IOPS    float64 `json:"iops"`
	} `json:"read"`
	Write struct {
		BWBytes float64 `json:"bw_bytes"`
		Latency struct {
			Mean       float64            `json:"mean"`
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	} `json:"write"`
}

// fio runs fio on a fresh file of size bytes whose space is allocated but not written.
func fio(ctx context.Context, dir string, size int64, options ...string) (*fioJob, error) {
	if _, err := exec.LookPath("fio"); err != nil {
		return nil, errSkip("fio is not installed")
	}
	if err := allocate(filepath.Join(dir, "fio"), size); err != nil {
		return nil, err
	}
	return fioAgain(ctx, dir, size, options...)
}

// fioAgain runs fio on the file that an earlier run has left.
func fioAgain(ctx context.Context, dir string, size int64, options ...string) (*fioJob, error) {
	path, err := exec.LookPath("fio")
	if err != nil {
		return nil, errSkip("fio is not installed")
	}
	name := filepath.Join(dir, "fio")
	args := append([]string{"--name=log", "--filename=" + name, fmt.Sprintf("--size=%d", size), "--rw=write",
		"--direct=1", "--sync=dsync", "--fallocate=none", "--output-format=json"}, options...)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run fio %v: %w: %s", args, err, out)
	}
	var report struct {
		Jobs []fioJob `json:"jobs"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("read the report of fio: %w", err)
	}
	if len(report.Jobs) != 1 {
		return nil, fmt.Errorf("read the report of fio: %d jobs, want 1", len(report.Jobs))
	}
	return &report.Jobs[0], nil
}

// allocate makes a file of size bytes with all its space allocated, if the file system can.
func allocate(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
