//go:build linux

package mmapread

import "testing"

// MayView is true for every view of every map, open or closed, from its first byte to its last, and false for memory of
// Go.
func TestMayView(t *testing.T) {
	for range 3 {
		content := noise(3*testWindow + 100)
		_, m := openTest(t, content)
		for at := 0; at < len(content); at += testWindow / 2 {
			for _, n := range []int{1, testWindow / 2, 100} {
				b, err := m.View(int64(at), min(n, len(content)-at))
				if err != nil {
					t.Fatal(err)
				}
				if !MayView(b) || !MayView(b[len(b)-1:]) {
					t.Errorf("the view of %d bytes at %d is taken for other memory", len(b), at)
				}
			}
		}
	}
	var local [100]byte
	for _, b := range [][]byte{nil, {}, make([]byte, 1), make([]byte, 1<<20), local[:], []byte("constant")} {
		if MayView(b) {
			t.Errorf("%d bytes of Go's memory are taken for a view", len(b))
		}
	}
}
