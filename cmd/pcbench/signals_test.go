package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain in the environment makes the test binary be pcbench.
const asMain = "PCBENCH_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestListen(t *testing.T) {
	signals, exited := make(chan os.Signal), make(chan int)
	var errOut bytes.Buffer
	ctx, stop := listen(signals, &errOut, func(status int) { exited <- status })
	defer stop()
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
	signals <- os.Interrupt
	<-ctx.Done()
	select {
	case status := <-exited:
		t.Fatalf("exit %d at the first signal", status)
	default:
	}
	signals <- syscall.SIGTERM
	if status := <-exited; status != exitInterrupted {
		t.Errorf("exit %d", status)
	}
	if !strings.Contains(errOut.String(), "stopping") || !strings.Contains(errOut.String(), "at once") {
		t.Errorf("said: %s", &errOut)
	}
}

// child is pcbench as a process of its own.
type child struct {
	*exec.Cmd
	t   *testing.T
	err *bufio.Reader // its standard error
}

func startChild(t *testing.T, out *os.File, args ...string) *child {
	t.Helper()
	c := &child{t: t, Cmd: exec.CommandContext(t.Context(), os.Args[0], args...)}
	c.Env = append(os.Environ(), asMain+"=1")
	c.Stdout = out
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.err = bufio.NewReader(pipe)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// until reads standard error until a line has the text.
func (c *child) until(text string) {
	c.t.Helper()
	for {
		line, err := c.err.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			c.t.Fatalf("no %q: %v", text, err)
		}
	}
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	if err := c.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// ends waits for the process, which must end soon, interrupted.
func (c *child) ends() {
	c.t.Helper()
	late := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
	defer late.Stop()
	_ = c.Wait() // its status says more
	if status := c.ProcessState.ExitCode(); status != exitInterrupted {
		c.t.Errorf("ended with %v", c.ProcessState)
	}
}

// awaitMarker waits until the store is being made, or is there.
func awaitMarker(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(dir, "*", storeName, "superblock")); len(found) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no store")
		}
	}
}

// The first signal stops with a report and leaves nothing behind.
func TestFirstSignal(t *testing.T) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := t.TempDir()
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := startChild(t, out, "run", "--rw=randwrite", "--size=1m", "--segment=256k", "--runtime=1h", "--time_based", "--directory="+dir)
		awaitMarker(t, dir)
		c.signal(s)
		c.until("stopping")
		c.until("the store is removed")
		c.ends()
		report, err := os.ReadFile(out.Name())
		if err != nil || !strings.Contains(string(report), "Run status group 0") {
			t.Errorf("no report: %v\n%s", err, report)
		}
		wantInside(t, dir)
	}
}

// The second signal ends a pcbench that does not get on: here because nobody reads its report, which is longer than a pipe holds.
func TestSecondSignal(t *testing.T) {
	for _, second := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := t.TempDir()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c := startChild(t, w, "run", "--rw=randwrite", "--size=1m", "--segment=256k", "--runtime=1h", "--time_based", "--numjobs=64",
			"--output-format=json", "--directory="+dir)
		w.Close()
		awaitMarker(t, dir)
		c.signal(os.Interrupt)
		c.until("stopping")
		time.Sleep(200 * time.Millisecond) // stopped or not, it cannot end
		c.signal(second)
		c.until("at once")
		c.ends()
	}
}
