package main

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"pagecache/engine"
)

// Every event that is a warning or an error is one line. On a terminal it takes the place of the progress line, which
// is written again behind it.
func TestEventLines(t *testing.T) {
	none := (*progress)(nil).events()
	if none.LogFailed != nil {
		t.Error("a nil progress has callbacks")
	}
	announce := func(p *progress) {
		e := p.events()
		e.DiskFull(engine.DiskFullInfo{What: "log", Err: errors.New("cause")})
		e.LogFailed(engine.LogFailedInfo{Err: errors.New("cause")})
		e.SpaceAgain(engine.SpaceAgainInfo{What: "log"}) // no line: it is no warning
	}
	const lines = "pcbench: warn: no room for the log: cause\npcbench: error: the log has stopped: cause\n"
	var out bytes.Buffer
	announce(&progress{out: &out})
	if out.String() != lines {
		t.Errorf("got %q, want %q", out.String(), lines)
	}
	out.Reset()
	p := &progress{out: &out, terminal: true}
	p.rewrite("half")
	announce(p)
	p.rewrite("whole")
	p.rewrite("")
	if want := "\rhalf\r    \r" + lines + "\rwhole\r     \r"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	running := &progress{out: io.Discard, every: time.Millisecond}
	end := running.watch("x", func() progressState { return progressState{} })
	announce(running)
	end()
}
