package load

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
)

// checkHost finds what would fail at the end of a run, or after the layout: logs whose directory takes no file, and
// processors on which the process may not run.
func checkHost(specs []*job.Spec) error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range specs {
		l := &s.Logs
		for _, o := range [][2]string{{"write_bw_log", l.BW}, {"write_lat_log", l.Lat}, {"write_iops_log", l.IOPS},
			{"write_hist_log", l.Hist}, {"write_iolog", l.WriteIOLog}} {
			if dir := filepath.Dir(o[1]); o[1] != "" && !seen[dir] {
				seen[dir] = true
				errs = append(errs, checkDir("--"+o[0], o[1]))
			}
		}
	}
	return errors.Join(append(errs, checkCPUs(specs))...)
}

// checkDir returns an error if no file can be made beside the file of an option.
func checkDir(option, name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".pcbench-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) { // without the name of the temporary file
		return fmt.Errorf("%s: make a file in %s: %w", option, filepath.Dir(name), p.Err)
	}
	return err
}

// checkCPUs returns an error if a job asks for a processor on which the process may not run.
func checkCPUs(specs []*job.Spec) error {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return nil // pinning reports it
	}
	for _, s := range specs {
		for _, c := range s.CPUs {
			if may.IsSet(c) {
				continue
			}
			var list []string
			for k := range 1024 {
				if may.IsSet(k) {
					list = append(list, fmt.Sprint(k))
				}
			}
			return fmt.Errorf("--cpus_allowed: the process cannot run on processor %d; it can on %s", c,
				strings.Join(list, ", "))
		}
	}
	return nil
}
