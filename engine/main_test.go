package engine_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// TestMain runs two more parallel tests at a time than there are processors, unless -parallel says how many: many of
// them wait for a disk, a timer or another process half of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	const name = "test.parallel"
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		if err := flag.Set(name, fmt.Sprint(runtime.GOMAXPROCS(0)+2)); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
