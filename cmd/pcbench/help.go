package main

import (
	"strings"

	"pagecache/cmd/pcbench/internal/job"
)

const usageText = `pcbench applies loads to the page cache and reports as fio does.

  pcbench               take a tour of under 30 seconds on a temporary store below
                        the working directory: load, random reads, appends, commits
  pcbench tour OPTIONS  the same, with options
  pcbench run OPTIONS [FILE.fio ...]
                        apply a load, with the options or job files of fio
  pcbench help run      list the options
  pcbench dump DIR      show the files of a store as annotated hex
  pcbench check DIR     verify a store that is not open
  pcbench salvage DIR OUT
                        copy everything readable from a corrupt store to a new one
  pcbench backup DIR FILE
                        write a store that is not open to a file, or to -
  pcbench restore DIR FILE...
                        make a store of backups
  pcbench verify FILE...
                        verify backups
  pcbench completion bash|zsh|fish
                        print a script that completes options
  pcbench man           print the manual page, for man -l -
  pcbench version       print the version
`

// commandsText returns the lines of usageText that list the commands.
func commandsText() string {
	_, text, _ := strings.Cut(usageText, "\n\n")
	return text
}

// helpText is the output of pcbench run --help.
func helpText() string {
	return `pcbench run makes a store, applies loads to it, reports as fio does, and removes the store.

  pcbench run OPTIONS [FILE.fio ...]

The options and job files are those of fio. Each --name, and each section of a job file, begins another job; options
before the first --name are for all. The jobs share a store unless --directory or --filename differ.

` + job.Help() + notesText
}

// notesText follows the options in the help of run.
const notesText = `Sizes are in bytes or have a unit, in any case: k, m, g, t, alone or followed by b or i, are
powers of 1024 (64k, 1gb, 1.5g). kib, mib, gib, tib are powers of 1000, as in fio.
Times are in seconds or have a unit: us, ms, s, m, h, d (500ms, 1m30s).
On/off options take 0 or 1, and mean 1 without a value: --time_based, --end_fsync=1.

A read is a Get. A write is a Replace of a whole page, or with --delta a Link that patches the page. A trim is a Free.
Reads, trims, and writes with --delta, need pages: all pages are laid out before the load, which is not measured.
Other writes allocate the pages that do not exist yet. Random pages are drawn independently of each other.
In order (--rw=read, write), each job starts at its share of the pages.

clat is the time of one call with its Begin and End. In an open loop (--rate, --rate_iops), lat is the time since
the intended start. sync is the time that --fdatasync waits for stability.
The processor time is that of the whole process. Nothing of --ramp_time is reported.
Ctrl-C stops the load, and pcbench reports it. A second Ctrl-C ends pcbench at once.
Logs are files of each job: PREFIX_KIND.N.log, where N counts the jobs from 1.
The exit status is 1 after an error, 2 if an option is wrong, 130 after Ctrl-C.

  pcbench run --rw=randwrite --bs=64k --numjobs=4 --size=1g --io_size=3g --end_fsync=1
  pcbench run --rw=randrw --rwmixread=90 --bs=4k --size=512m --iodepth=8 --runtime=10s --time_based \
              --random_distribution=zipf:1.2
  pcbench run --rw=randwrite --delta=100 --bs=1k --size=100m --iodepth=64 --fdatasync=1 --runtime=10s --time_based
  pcbench run --rw=randread --size=2g --cold --norandommap=0 --io_size=200m
`
