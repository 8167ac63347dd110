package htmlpage

import (
	_ "embed" // the parts of the page
	"fmt"
	"html/template"
	"io"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"flip":    func(at float64) float64 { return plotHeight * (1 - at/100) },
	"levels":  func() []int { return []int{1, 2, 3, 4, 5, 6, 7, 8} },
	"number":  func(n int64) string { return number(float64(n)) },
	"scaleAt": func(level int) int { return 10 * (level - 1) },
}).Parse(pageHTML))

// The content security policies: a page loads nothing. That of a running load may ask its own server.
const (
	policy     = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
	policyLive = policy + "; connect-src 'self'"
)

// view is a report as the templates show it.
type view struct {
	*Report
	Runs        []runView
	Comparisons []*comparison
	Data        data
	Policy      string
	Style       template.CSS
	Script      template.JS
	Refresh     float64 // seconds; 0: never
}

// runView is a run as the templates show it.
type runView struct {
	*Run
	Charts     []*chart
	Histograms []*histogram
	Heatmaps   []*heatmap
	PerPoint   int // intervals that a point stands for, if more than one
}

// data is the JSON in the page.
type data struct {
	Title       string        `json:"title"`
	Notes       []string      `json:"notes,omitempty"`
	Facts       []Fact        `json:"facts,omitempty"`
	Charts      []*chart      `json:"charts"`
	Histograms  []*histogram  `json:"histograms,omitempty"`
	Heatmaps    []*heatmap    `json:"heatmaps,omitempty"`
	Comparisons []*comparison `json:"comparisons,omitempty"`
}

// newView returns the view of r.
func newView(r *Report) *view {
	v := &view{Report: r, Policy: policy, Style: template.CSS(pageCSS), Script: template.JS(pageJS),
		Data: data{Title: r.Title, Notes: r.Notes, Facts: r.Facts, Charts: []*chart{}}}
	for i := range r.Runs {
		run, prefix := runView{Run: &r.Runs[i]}, fmt.Sprintf("run%d-", i+1)
		run.Charts = lineCharts(prefix, run.Samples)
		if n := perPoint(len(run.Samples)); n > 1 {
			run.PerPoint = n
		}
		for k := range run.Latencies {
			l := &run.Run.Latencies[k]
			if h := newHistogram(prefix, l); h != nil {
				run.Histograms = append(run.Histograms, h)
			}
			if m := newHeatmap(prefix, l); m != nil {
				run.Heatmaps = append(run.Heatmaps, m)
			}
		}
		v.Runs = append(v.Runs, run)
		v.Data.Charts = append(v.Data.Charts, run.Charts...)
		v.Data.Histograms = append(v.Data.Histograms, run.Histograms...)
		v.Data.Heatmaps = append(v.Data.Heatmaps, run.Heatmaps...)
	}
	for i := range r.Comparisons {
		v.Comparisons = append(v.Comparisons, newComparison(&r.Comparisons[i]))
	}
	v.Data.Comparisons = v.Comparisons
	return v
}

// Write writes the page.
func (r *Report) Write(w io.Writer) error {
	if err := templates.ExecuteTemplate(w, "page", newView(r)); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}
