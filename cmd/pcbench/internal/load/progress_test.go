package load

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
	none := (*Progress)(nil).Events()
	if none.LogFailed != nil {
		t.Error("a nil Progress has callbacks")
	}
	announce := func(p *Progress) {
		e := p.Events()
		e.DiskFull(engine.DiskFullInfo{What: "log", Err: errors.New("cause")})
		e.LogFailed(engine.LogFailedInfo{Err: errors.New("cause")})
		e.SpaceAgain(engine.SpaceAgainInfo{What: "log"}) // no line: it is no warning
	}
	const lines = "pcbench: warn: no room for the log: cause\npcbench: error: the log has stopped: cause\n"
	var out bytes.Buffer
	announce(&Progress{Out: &out})
	if out.String() != lines {
		t.Errorf("got %q, want %q", out.String(), lines)
	}
	out.Reset()
	p := &Progress{Out: &out, Terminal: true}
	p.rewrite("half", false)
	announce(p)
	p.rewrite("whole", false)
	p.clear()
	if want := "\rhalf\r    \r" + lines + "\rwhole\r     \r"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	running := &Progress{Out: io.Discard, Every: time.Millisecond}
	end := running.watch("x", func() progressState { return progressState{} })
	announce(running)
	end()
}
