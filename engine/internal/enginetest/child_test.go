package enginetest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// childEnv says what the child of TestChildIsWatched does.
const childEnv = "PAGECACHE_WATCHED_CHILD"

// The child of TestChildIsWatched.
func TestWatchedChild(t *testing.T) {
	how := os.Getenv(childEnv)
	if how == "" {
		t.Skip("only for TestChildIsWatched")
	}
	fmt.Fprintln(os.NewFile(3, "parent"), "ready")
	switch how {
	case "fails":
		t.Fatal("something is wrong")
	case "races":
		fmt.Println("WARNING: DATA RACE")
	}
	if how != "ends" {
		time.Sleep(time.Minute)
	}
}

// A child that fails before it is killed, or in which the race detector has found something, makes Live fail with what
// it has printed. One that is killed, or has ended by itself, does not. After a power cut a child may fail.
func TestChildIsWatched(t *testing.T) {
	for how, wrong := range map[string]string{
		"works": "", "ends": "", "fails": "something is wrong", "races": "DATA RACE",
	} {
		c := Child{
			Test: "TestWatchedChild", Env: []string{childEnv + "=" + how},
			Ready: func(line string) bool { return line == "ready" }, After: time.Second,
		}
		lines, _, err := c.Live()
		if len(lines) != 1 || (err != nil) != (wrong != "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("a child that %s: lines %q, error %v", how, lines, err)
		}
		cuts := 0
		c.Cut, c.Restore = func() error { cuts++; return nil }, func() error { cuts++; return nil }
		if _, sure, err := c.Live(); sure != 1 || cuts != 2 || (err != nil) != (how == "races") {
			t.Errorf("a child that %s, and a power cut: %d lines before, %d calls, error %v", how, sure, cuts, err)
		}
	}
}
