package vfs

import (
	"fmt"
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
