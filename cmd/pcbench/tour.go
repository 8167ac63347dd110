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

// stops are the stations of the tour, each at most a few seconds.
func stops(scale int64) []*spec {
	stop := func(name, rw string, most time.Duration, change func(*spec)) *spec {
		s := defaults()
		s.Name, s.RW, s.Runtime = name, rw, most
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
		stop("append", "randwrite", 5*time.Second, func(s *spec) { s.Delta, s.IOSize, s.EndFsync = 100, 100_000_000/scale, true }),
		stop("commit", "randwrite", 4*time.Second, func(s *spec) { s.Delta, s.IOSize, s.IODepth, s.FDataSync = 100, 100_000_000/scale, 16, 1 }),
	}
}

// tourSpace is the room on disk that the whole tour takes at most.
const tourSpace = 2 << 30

// tourTime bounds the tour on a disk that is slow.
const tourTime = 27 * time.Second

// tour shows what the store does, on a temporary one in dir.
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
	base.Delta = 100 // so that the pages of all stops take deltas
	ses, err := open(&base)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "A tour on a temporary store, %s: %s of pages of %s.\n", ses.place.dir, bytesText(base.Size), bytesText(base.BS))
	fmt.Fprint(out, "  load    writes the pages in order\n  read    reads random ones\n  append  links 100 bytes to random ones\n"+
		"  commit  does so durably, each of 16 goroutines after each write\n\n")
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
