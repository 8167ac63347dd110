package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// Every enumeration has names for its values, and an unknown value does not panic.
func TestEnumStrings(t *testing.T) {
	got := fmt.Sprint(ModeAuto, ModeOn, ModeOff, Mode(7), LockShared, LockExclusive, LockKind(0),
		PatternSequential, PatternRandom, Pattern(-1), FlagRead, FlagWrite|FlagCreate|FlagTrunc)
	const want = "auto on off invalid mode shared exclusive invalid lock " +
		"sequential random invalid pattern read read|write|create|truncate"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// CheckName accepts single elements of a path, and no name that leads out of the directory. Proves rule 15.
func TestCheckName(t *testing.T) {
	for _, name := range []string{"log", "a b", "...", ".x", "x.", `a\b`, "é", "-"} {
		if err := CheckName("open", "/store", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "/", "/log", "log/", "a/b", "../log", "a\x00b"} {
		err := CheckName("open", "/store", name)
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "open /store/"+name) {
			t.Errorf("%q: error %v, want ErrInvalid with the path", name, err)
		}
	}
}
