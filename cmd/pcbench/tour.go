package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
)

// stops are the loads of the tour, each of at most a few seconds, as options. SIZE is the size of the pages, APPEND
// that of the deltas.
const stops = `--group_reporting --size=SIZE --iodepth=2 --filename=FILE
--name=load --rw=write --runtime=6 --end_fsync
--name=read --stonewall --rw=randread --runtime=4 --time_based
--name=append --stonewall --rw=randwrite --delta=100 --io_size=APPEND --runtime=5 --end_fsync
--name=commit --stonewall --rw=randwrite --delta=100 --io_size=APPEND --runtime=4 --iodepth=16 --fdatasync=1`

// tourSpace is the largest disk space, in bytes, that the tour takes.
const tourSpace = 2 << 30

// tourTime limits the tour on a slow disk.
const tourTime = 27 * time.Second

const tourHelp = `pcbench tour OPTIONS runs four loads of a few seconds on a temporary store.

  --directory=DIR       directory for the store (default .)
  --keep                leave the store at the end
  --output=FILE, --output-format=FORMAT, --terse-version=N, --eta=WHEN,
  --html=FILE, --live=ADDRESS
                        as for pcbench run
`

// tourOptions are the options of the tour, without dashes.
var tourOptions = []string{"directory", "keep", "output", "output-format", "terse-version", "eta", "html", "live"}

// tourCommand is the command pcbench tour, and pcbench without a command.
func tourCommand(ctx context.Context, args []string, out io.Writer, pr *load.Progress) error {
	dir, keep, rest := ".", false, []string{}
	for i := 1; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		switch name {
		case "--help", "-h":
			_, err := fmt.Fprint(out, tourHelp)
			return err
		case "--keep":
			keep = value != "0"
		case "--directory", "--output", "--output-format", "--terse-version", "--eta", "--html", "--live":
			if !hasValue {
				if i++; i >= len(args) {
					return &usageError{fmt.Errorf("%s: needs a value", name)}
				}
				value = args[i]
			}
			if name == "--directory" {
				dir = value
			} else {
				rest = append(rest, name+"="+value)
			}
		default:
			best := slices.MinFunc(tourOptions, func(a, b string) int {
				return job.Distance(name, "--"+a) - job.Distance(name, "--"+b)
			})
			if job.Distance(name, "--"+best) <= 2 {
				return &usageError{fmt.Errorf("tour: %s: no such option; did you mean --%s?", name, best)}
			}
			return &usageError{fmt.Errorf("tour: %s: no such option (pcbench tour --help lists them)", args[i])}
		}
	}
	return tour(ctx, dir, append(rest, fmt.Sprintf("--unlink=%d", map[bool]int{true: 0, false: 1}[keep])), out, pr)
}

// tour runs a few loads on a temporary store in dir and reports them. If the disk is small, the loads are smaller.
func tour(ctx context.Context, dir string, options []string, out io.Writer, pr *load.Progress) error {
	scale := int64(1)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		for int64(fs.Bavail)*fs.Bsize < tourSpace/scale && scale < 64 {
			scale *= 2
		}
	}
	words := strings.Fields(strings.NewReplacer("SIZE", fmt.Sprint(128<<20/scale), "APPEND",
		fmt.Sprint(100_000_000/scale), "FILE", fmt.Sprintf("tour-%d", os.Getpid())).Replace(stops))
	p, err := job.Parse(append(append([]string{"--directory=" + dir}, options...), words...))
	if err != nil {
		return &usageError{err}
	}
	if p.Run.Output == "" && p.Run.Formats[0] == "normal" {
		fmt.Fprintf(out, "A tour on the temporary store %s/tour-%d%s.\n", dir, os.Getpid(), job.PlaceSuffix)
		fmt.Fprint(out, "  load    writes the pages in order\n  read    reads random pages\n"+
			"  append  links 100 bytes to random pages\n"+
			"  commit  does the same with 16 goroutines, each of which makes each write durable\n\n")
	}
	ctx, cancel := context.WithTimeout(ctx, tourTime)
	defer cancel()
	return runJobs(ctx, p, out, pr)
}
