package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// stops returns the loads of the tour, each of at most a few seconds. scale divides their sizes.
func stops(scale int64) []*spec {
	stop := func(name, rw string, limit time.Duration, change func(*spec)) *spec {
		s := defaults()
		s.Name, s.RW, s.Runtime = name, rw, limit
		s.Size = 128 << 20 / scale
		s.IOSize = s.Size
		s.GroupReporting = true
		s.IODepth = 2
		change(&s)
		return &s
	}
	return []*spec{
		stop("load", "write", 6*time.Second, func(s *spec) { s.EndFsync = true }),
		stop("read", "randread", 4*time.Second, func(s *spec) { s.TimeBased = true }),
		stop("append", "randwrite", 5*time.Second, func(s *spec) {
			s.Delta, s.IOSize, s.EndFsync = 100, 100_000_000/scale, true
		}),
		stop("commit", "randwrite", 4*time.Second, func(s *spec) {
			s.Delta, s.IOSize, s.IODepth, s.FDataSync = 100, 100_000_000/scale, 16, 1
		}),
	}
}

// tourSpace is the largest disk space, in bytes, that the tour takes.
const tourSpace = 2 << 30

// tourTime limits the tour on a slow disk.
const tourTime = 27 * time.Second

// tour runs a few loads on a temporary store in dir and reports them. If the disk is small, the loads are smaller.
func tour(ctx context.Context, dir string, out io.Writer, pr *progress) error {
	ctx, cancel := context.WithTimeout(ctx, tourTime)
	defer cancel()
	scale := int64(1)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		for int64(fs.Bavail)*fs.Bsize < tourSpace/scale && scale < 64 {
			scale *= 2
		}
	}
	specs := stops(scale)
	base := *specs[0]
	base.Name, base.Directory = "tour-"+strconv.Itoa(os.Getpid()), dir
	base.Delta = 100 // the pages must accept the deltas of later stops
	base.Engine.Events = pr.events()
	ses, err := open(&base)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "A tour on the temporary store %s, with %s of pages of %s.\n",
		ses.place.dir, bytesText(base.Size), bytesText(base.BS))
	fmt.Fprint(out, "  load    writes the pages in order\n  read    reads random pages\n"+
		"  append  links 100 bytes to random pages\n"+
		"  commit  does the same with 16 goroutines, each of which makes each write durable\n\n")
	var results []*result
	for _, s := range specs {
		if ctx.Err() != nil {
			break
		}
		var r *result
		if r, err = ses.run(ctx, s, pr); r != nil {
			results = append(results, r)
			err = r.summary()
		}
		if err != nil {
			break
		}
	}
	err = errors.Join(err, ses.close())
	return errors.Join(err, writeNormal(out, results))
}
