package load

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Usage is the use of the processors by the whole process during the measured time of a section. The kernel does not
// measure goroutines.
type Usage struct {
	User, System                   float64 // percent of the time of one processor
	Switches, MajFaults, MinFaults int64   // context switches, page faults with and without I/O
}

func getUsage() (u unix.Rusage) {
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail with these arguments
	return u
}

// usageBetween returns the usage between two readings, in ns of time.
func usageBetween(a, b unix.Rusage, ns int64) Usage {
	percent := func(from, to unix.Timeval) float64 {
		return float64(to.Nano()-from.Nano()) * 100 / float64(max(ns, 1))
	}
	return Usage{User: percent(a.Utime, b.Utime), System: percent(a.Stime, b.Stime),
		Switches:  b.Nvcsw + b.Nivcsw - a.Nvcsw - a.Nivcsw,
		MajFaults: b.Majflt - a.Majflt, MinFaults: b.Minflt - a.Minflt}
}

// share divides the usage by n jobs.
func (u Usage) share(n int) Usage {
	f, i := float64(n), int64(n)
	return Usage{u.User / f, u.System / f, u.Switches / i, u.MajFaults / i, u.MinFaults / i}
}

func (u Usage) plus(v Usage) Usage {
	return Usage{u.User + v.User, u.System + v.System, u.Switches + v.Switches, u.MajFaults + v.MajFaults,
		u.MinFaults + v.MinFaults}
}

// Disk is the use of a disk during a run, from /proc/diskstats.
type Disk struct {
	Name                            string
	Reads, Writes                   int64 // requests
	ReadSectors, WriteSectors       int64
	ReadMerges, WriteMerges         int64
	ReadTicks, WriteTicks, Busy, In int64 // ms; In is the time of all requests together
	Util                            float64
}

// diskOf returns the counts of the disk that holds dir, or nil if /proc/diskstats does not list it.
func diskOf(dir string) *Disk {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil
	}
	f, err := os.Open("/proc/diskstats")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseDiskstats(bufio.NewScanner(f), unix.Major(st.Dev), unix.Minor(st.Dev))
}

// parseDiskstats finds a device. The columns are those of the kernel's Documentation/admin-guide/iostats.rst.
func parseDiskstats(lines *bufio.Scanner, major, minor uint32) *Disk {
	for lines.Scan() {
		var maj, min uint32
		var d Disk
		var now int64
		n, _ := fmt.Sscan(strings.TrimSpace(lines.Text()), &maj, &min, &d.Name, &d.Reads, &d.ReadMerges, &d.ReadSectors,
			&d.ReadTicks, &d.Writes, &d.WriteMerges, &d.WriteSectors, &d.WriteTicks, &now, &d.Busy, &d.In)
		if n == 14 && maj == major && min == minor {
			return &d
		}
	}
	return nil
}

// since returns the use since an earlier reading, over ms of time.
func (d *Disk) since(b *Disk, ms int64) Disk {
	u := Disk{d.Name, d.Reads - b.Reads, d.Writes - b.Writes, d.ReadSectors - b.ReadSectors,
		d.WriteSectors - b.WriteSectors, d.ReadMerges - b.ReadMerges, d.WriteMerges - b.WriteMerges,
		d.ReadTicks - b.ReadTicks, d.WriteTicks - b.WriteTicks, d.Busy - b.Busy, d.In - b.In, 0}
	if ms > 0 {
		u.Util = min(100, 100*float64(u.Busy)/float64(ms))
	}
	return u
}
