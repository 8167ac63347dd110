package load

import (
	"os"
	"path/filepath"
	"testing"
)

// Trap: a log that could not be written was an error after the run, whose samples were lost with it, and a processor
// that the machine does not have was one after the layout.
func TestCheckHost(t *testing.T) {
	dir := t.TempDir()
	for _, option := range []string{"write_bw_log", "write_lat_log", "write_iops_log", "write_iolog"} {
		r, err := runIn(t, dir, "--size=64k --"+option+"="+filepath.Join(dir, "no", "x"))
		if wantError(t, err, "--"+option, "make a file in "+filepath.Join(dir, "no"), "no such file"); r != nil {
			t.Errorf("%s: the jobs ran", option)
		}
	}
	r, err := runIn(t, dir, "--size=64k --cpus_allowed=1023")
	if wantError(t, err, "--cpus_allowed", "processor 1023", "it can on"); r != nil {
		t.Error("the jobs ran")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}
