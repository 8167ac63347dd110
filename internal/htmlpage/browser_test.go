package htmlpage_test

import (
	"testing"

	"pagecache/internal/htmlpage/pagetest"
)

// A browser shows the page without a message on its console, at the width of a phone without scrolling sideways, in
// light and in dark, and the rendered pictures have the values of the JSON.
func TestBrowser(t *testing.T) {
	c := pagetest.RenderFile(t, write(t, sampleReport(1000)))
	if c.Points < 1000 || c.Charts != 10 || c.Main != 14 {
		t.Errorf("%d points, %d charts, %d figures", c.Points, c.Charts, c.Main)
	}
}
