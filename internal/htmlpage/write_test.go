package htmlpage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pagecache/internal/htmlpage"
)

// pageData is the JSON of a page, as far as the tests read it.
type pageData struct {
	Charts []struct {
		ID    string
		X, Y  axisData
		Lines []struct {
			Name   string
			Points [][]*float64
		}
	}
	Histograms []struct {
		ID   string
		X, Y axisData
		Bars []struct {
			Low, High float64
			Count     int64
		}
	}
	Heatmaps []struct {
		ID    string
		Cells [][3]int
	}
	Comparisons []struct {
		Rows []struct {
			Name  string
			Cells []struct {
				Median, Least, Most float64
				Ratio               *struct{ Median, Least, Most float64 }
			}
		}
	}
}

type axisData struct {
	Low, High float64
	Log       bool
}

// at returns the place of v on the axis, 0 to 1.
func (a axisData) at(v float64) float64 {
	if a.Log {
		return math.Log(v/a.Low) / math.Log(a.High/a.Low)
	}
	return (v - a.Low) / (a.High - a.Low)
}

// write returns the page of a report.
func write(t *testing.T, r *htmlpage.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// between returns the text between two marks, the first after from.
func between(t *testing.T, text, from, open, closing string) string {
	t.Helper()
	_, text, ok := strings.Cut(text, from)
	_, text, ok2 := strings.Cut(text, open)
	text, _, ok3 := strings.Cut(text, closing)
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no text from %q between %q and %q", from, open, closing)
	}
	return text
}

// dataOf returns the JSON of a page.
func dataOf(t *testing.T, page string) (d pageData) {
	t.Helper()
	text := between(t, page, "<script", `type="application/json" id="data">`, "</script>")
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var (
	onLine = regexp.MustCompile(`[ML](-?[\d.]+) (-?[\d.]+)`)
	lineOf = regexp.MustCompile(`<path class="line s\d" d="([^"]*)"/>`)
	barOf  = regexp.MustCompile(`<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>`)
)

// float parses a number.
func float(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// near reports whether two coordinates are the same but for rounding.
func near(a, b float64) bool { return math.Abs(a-b) < 0.11 }

// The pictures, the JSON and the tables of a page have the same values.
func TestPicturesShowTheData(t *testing.T) {
	for _, intervals := range []int{1, 3, 130, 1000} {
		page := write(t, sampleReport(intervals))
		d := dataOf(t, page)
		if len(d.Charts) != 10 || len(d.Histograms) != 2 || len(d.Heatmaps) != 2 {
			t.Fatalf("%d charts, %d histograms, %d heatmaps", len(d.Charts), len(d.Histograms), len(d.Heatmaps))
		}
		for _, c := range d.Charts {
			figure := between(t, page, `id="`+c.ID+`"`, `<div class="plot">`, "</figure>")
			paths := lineOf.FindAllStringSubmatch(figure, -1)
			if len(paths) != len(c.Lines) {
				t.Fatalf("%s: %d lines, want %d", c.ID, len(paths), len(c.Lines))
			}
			for i, l := range c.Lines {
				places := onLine.FindAllStringSubmatch(paths[i][1], -1)
				for _, p := range l.Points {
					if p[1] == nil {
						continue
					}
					x, y := float(t, places[0][1]), float(t, places[0][2])
					if !near(x, 1000*c.X.at(*p[0])) || !near(y, 300*(1-c.Y.at(*p[1]))) {
						t.Fatalf("%s, %s: %v, %v for %v s, %v", c.ID, l.Name, x, y, *p[0], *p[1])
					}
					places = places[1:]
				}
				if len(places) > 0 {
					t.Errorf("%s, %s: %d points without a value", c.ID, l.Name, len(places))
				}
			}
			if rows := strings.Count(figure, "<tr>") - 1; rows != len(c.Lines[0].Points) {
				t.Errorf("%s: a table of %d rows for %d points", c.ID, rows, len(c.Lines[0].Points))
			}
		}
		for _, h := range d.Histograms {
			figure := between(t, page, `id="`+h.ID+`"`, `<div class="plot">`, "</figure>")
			bars := barOf.FindAllStringSubmatch(figure, -1)
			if len(bars) != len(h.Bars) {
				t.Fatalf("%s: %d bars, want %d", h.ID, len(bars), len(h.Bars))
			}
			for i, b := range h.Bars {
				x, height := float(t, bars[i][1]), float(t, bars[i][4])
				if math.Abs(x-1000*h.X.at(b.Low)) > 0.3 || !near(height, 300*h.Y.at(float64(b.Count))) {
					t.Errorf("%s: bar at %v, %v high for %+v", h.ID, x, height, b)
				}
				if !strings.Contains(figure, "<td>"+strconv.FormatInt(b.Count, 10)+"<td>") {
					t.Errorf("%s: the table lacks %d", h.ID, b.Count)
				}
			}
		}
		for _, m := range d.Heatmaps {
			figure := between(t, page, `id="`+m.ID+`"`, `<svg class="heat"`, "</figure>")
			picture, table, _ := strings.Cut(figure, "</svg>")
			if n := strings.Count(picture, "Z"); n != len(m.Cells) {
				t.Errorf("%s: %d cells, want %d", m.ID, n, len(m.Cells))
			}
			for _, c := range m.Cells {
				if !strings.Contains(table, "<td>"+strconv.Itoa(c[2])) {
					t.Errorf("%s: the table lacks %d", m.ID, c[2])
				}
			}
		}
	}
}

// The points of a long run keep the least and the greatest value of all intervals, and the number of operations.
func TestLongRunsKeepExtremes(t *testing.T) {
	n := 100_000
	if testing.Short() { // the race detector makes it slow
		n = 20_000
	}
	r := sampleReport(n)
	r.Runs[0].Samples[n/2+1].Read.IOPS = 3e6
	r.Runs[0].Samples[n/7].Read.IOPS = 7
	page := write(t, r)
	if size := len(page); size > 420<<10 {
		t.Errorf("the page of a long run has %d bytes", size)
	}
	d := dataOf(t, page)
	least, most := math.Inf(1), 0.0
	for _, p := range d.Charts[0].Lines[0].Points {
		if len(p) != 4 || *p[2] > *p[1] || *p[1] > *p[3] {
			t.Fatalf("a point without a range, or a mean beyond it: %v", p)
		}
		least, most = min(least, *p[2]), max(most, *p[3])
	}
	if least != 7 || most != 3e6 {
		t.Errorf("the operations per second are from %v to %v, want 7 to 3e6", least, most)
	}
	want, got := int64(0), int64(0)
	for _, c := range r.Runs[0].Latencies[0].Columns {
		for _, b := range c.Bins {
			want += b.Count
		}
	}
	for _, b := range d.Histograms[0].Bars {
		got += b.Count
	}
	cells := 0
	for _, c := range d.Heatmaps[0].Cells {
		cells += c[2]
	}
	if got != want || int64(cells) != want {
		t.Errorf("%d operations in the histogram and %d in the heatmap, want %d", got, cells, want)
	}
	if !strings.Contains(page, fmt.Sprintf("A point of a line is the mean of %d intervals", n/100)) ||
		!strings.Contains(page, "A column is the sum of") {
		t.Error("the page does not say that a point stands for several intervals")
	}
}

// The comparison has each side's median and range, and the ratio of the first side.
func TestComparisonShowsSpreads(t *testing.T) {
	page := write(t, &htmlpage.Report{Title: "x", Comparisons: []htmlpage.Comparison{sampleComparison()}})
	d := dataOf(t, page)
	pebble := d.Comparisons[0].Rows[0].Cells[1]
	if pebble.Median != 1.1e6 || pebble.Least != 1e6 || pebble.Most != 1.2e6 {
		t.Errorf("figures: %+v", pebble)
	}
	if r := pebble.Ratio; r == nil || r.Median != 4.6 || r.Least != 4.3 || r.Most != 4.9 {
		t.Errorf("ratio: %+v", r)
	}
	for _, text := range []string{"1\u202f100\u202f000", "4.30 … 4.90", "skipped: only root", "less is better",
		`class="ratio better"`, "CacheCapacity 1 GiB", "fio only writes", "ratio ≥ 3"} {
		if !strings.Contains(page, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
}

// A page loads nothing, whatever the texts in it are, and shows them as they are.
func TestPageIsSelfContained(t *testing.T) {
	r := sampleReport(10)
	const text = `</script><script>alert("x")</script><img src=http://example.org/x>`
	r.Title, r.Notes, r.Runs[0].Name, r.Facts[0].Value = text, []string{text}, text, text
	r.Runs[0].Latencies[0].Name = text
	r.Comparisons[0].Sides[0].Value = text
	page := write(t, r)
	if strings.Contains(page, "<img") || strings.Contains(page, "<script>alert") {
		t.Error("a text of the report is markup in the page")
	}
	loading := regexp.MustCompile(`(?i)<(img|script|link|iframe|object|embed|use|image|a)\s[^>]*(src|href)=[^>]*>|` +
		`url\(|@import`)
	loads := loading.FindAllString(page, -1)
	if slices.ContainsFunc(loads, func(s string) bool { return s != `<link rel="icon" href="data:,">` }) {
		t.Errorf("the page loads %q", loads)
	}
	if !strings.Contains(page, "default-src &#39;none&#39;") && !strings.Contains(page, "default-src 'none'") {
		t.Error("the page has no content security policy")
	}
}

// Every picture has a title and a text alternative, and every table says which values it has.
func TestPicturesHaveWords(t *testing.T) {
	page := write(t, sampleReport(20))
	pictures := strings.Count(page, `<svg viewBox="0 0 1000 300"`) + strings.Count(page, `<svg class="heat"`)
	for _, mark := range []string{"<title id=", "<desc id=", "aria-labelledby=", "<details id="} {
		if n := strings.Count(page, mark); n != pictures {
			t.Errorf("%d times %s for %d pictures", n, mark, pictures)
		}
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
		t.Error("the page has a number that is none")
	}
}

// An empty report, and samples without values, are a page without pictures.
func TestEmptyReport(t *testing.T) {
	nan := math.NaN()
	for _, r := range []*htmlpage.Report{{}, {Runs: []htmlpage.Run{{}}}, {Runs: []htmlpage.Run{{
		Latencies: []htmlpage.Latencies{{Name: "read", Columns: []htmlpage.Column{{Seconds: 1}}}},
		Samples:   []htmlpage.Sample{{Seconds: 1}, {Seconds: 2}}}}},
		{Comparisons: []htmlpage.Comparison{{Rows: []htmlpage.Row{{Cells: []htmlpage.Cell{{}, {}}}}}}},
	} {
		if page := write(t, r); strings.Contains(page, "<figure") {
			t.Errorf("%+v has pictures", r)
		}
	}
	s := []htmlpage.Sample{{Seconds: 0, Store: &htmlpage.Store{HitRatio: nan, WriteAmplification: nan,
		SpaceAmplification: math.Inf(1), SinceSnapshot: 0}}}
	page := write(t, &htmlpage.Report{Runs: []htmlpage.Run{{Samples: s}}})
	for _, text := range []string{"NaN", "Inf"} {
		if strings.Contains(page, text) {
			t.Errorf("a store without values is shown as %s", text)
		}
	}
}

// A point of several intervals is their mean over time: a long interval counts for more than a short one.
func TestMeanOverTime(t *testing.T) {
	r := &htmlpage.Report{Runs: []htmlpage.Run{{}}}
	at := 0.0
	for i := range 200 { // two for each point: 1 s at 100, then 3 s at 20
		s := htmlpage.Sample{Read: htmlpage.Speed{IOPS: 100}}
		if at++; i%2 == 1 {
			at += 2
			s.Read.IOPS = 20
		}
		s.Seconds = at
		r.Runs[0].Samples = append(r.Runs[0].Samples, s)
	}
	if page := write(t, r); !strings.Contains(page, "[4,40,20,100],[8,40,20,100]") {
		t.Error("the mean of 1 s at 100 and 3 s at 20 is not 40")
	}
}
