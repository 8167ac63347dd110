package htmlpage_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"pagecache/internal/htmlpage"
)

// The picture of the ratios is well-formed, and more than 1 is better in each of its rows. A ratio of 0, which has no
// place on the scale, is not left out silently.
func TestRatios(t *testing.T) {
	var b bytes.Buffer
	r := &htmlpage.Report{Title: "ratios <of> all", Comparisons: []htmlpage.Comparison{sampleComparison()}}
	r.Comparisons = append(r.Comparisons, htmlpage.Comparison{Rows: []htmlpage.Row{{Name: "nothing",
		Cells: []htmlpage.Cell{{Side: "ours", Values: []float64{0}}, {Side: "theirs", Values: []float64{5}}}}}})
	if err := r.WriteRatios(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"ratios &lt;of&gt; all", "read against Pebble: 4.60.", "read against bbolt: 2.43.",
		"commit against fio, 4 KiB dsync: 0.97.", "nothing against theirs: no ratio."} {
		if !strings.Contains(text, want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
	if n := strings.Count(text, "<circle"); n != 3 {
		t.Errorf("%d dots, want 3", n)
	}
}
