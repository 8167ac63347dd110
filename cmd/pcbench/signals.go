package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"pagecache/cmd/pcbench/internal/job"
)

// listen returns a context that ends at the first signal, so that the running command can stop, report and clean up.
// The second signal ends the program at once. The caller must call stop.
func listen(signals <-chan os.Signal, errOut io.Writer, exit func(status int)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-signals:
			}
			if n > 0 {
				fmt.Fprintln(errOut, "pcbench: stopped at once; if a directory NAME"+job.PlaceSuffix+
					" is left, the next run with that --name removes it")
				exit(exitInterrupted)
				return
			}
			cancel()
			fmt.Fprintln(errOut, "pcbench: stopping; a second signal stops at once")
		}
	}()
	return ctx, func() { close(done); cancel() }
}

// stopSignals returns a channel of the signals that stop pcbench, except those that pcbench was started to ignore, as
// by nohup.
func stopSignals() <-chan os.Signal {
	c := make(chan os.Signal, 2)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c
}
