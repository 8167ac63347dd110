package htmlpage

import (
	"fmt"
	"html/template"
	"io"
)

// ratioRow is one ratio of the picture of all comparisons.
type ratioRow struct {
	Name, Side, Text     string
	Y                    int // of the middle
	Dot, From, To, Label float64
	Class                string // empty: the ratio has no place on the scale, and Text says so
}

// The places of the picture of all comparisons, in pixels.
const (
	ratiosLeft  = 330 // where the scale begins
	ratiosRow   = 22
	ratiosTop   = 64
	ratiosScale = 1.8 // of ratioAt
)

// ratiosSVG is a file of its own, so it has its own styles, and follows the reader's choice of light or dark.
var ratiosSVG = template.Must(template.New("").Parse(`<svg xmlns="http://www.w3.org/2000/svg" ` +
	`viewBox="0 0 800 {{.Height}}" width="800" height="{{.Height}}" role="img" aria-labelledby="t d">
<title id="t">{{.Title}}</title><desc id="d">{{range .Rows}}{{.Name}} against {{.Side}}: {{.Text}}. {{end}}</desc>
<style>
text { font: 12px system-ui, sans-serif; fill: #1b2330; } .soft { fill: #5b6675; } .back { fill: #fff; }
.title { font-size: 15px; font-weight: 600; } .grid { stroke: #dde2e9; } .one { stroke: #5b6675; }
.better { stroke: #0f7b4f; fill: #0f7b4f; } .worse { stroke: #b3261e; fill: #b3261e; }
.equal { stroke: #5b6675; fill: #5b6675; } .whisker { stroke-width: 3; opacity: .45; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9f0; } .soft { fill: #9aa6b5; } .back { fill: #0e1217; } .grid { stroke: #2a323d; }
.one { stroke: #9aa6b5; } .better { stroke: #58cf95; fill: #58cf95; } .worse { stroke: #ff8a80; fill: #ff8a80; }
.equal { stroke: #9aa6b5; fill: #9aa6b5; } }
</style>
<rect class="back" width="800" height="{{.Height}}"/>
<text class="title" x="16" y="26">{{.Title}}</text>
<text class="soft" x="16" y="46">Right of 1 the first side is better. Dots are medians, bars are ranges.</text>
{{range .Ticks}}<path class="{{.Class}}" d="M{{.Dot}} 56V{{$.Bottom}}"/>` +
	`<text class="soft" x="{{.Dot}}" y="{{$.Foot}}" text-anchor="middle">{{.Text}}</text>
{{end}}{{range .Rows}}<text x="16" y="{{.Y}}" dy="4">{{.Name}}</text>` +
	`<text class="soft" x="160" y="{{.Y}}" dy="4">{{.Side}}</text>` +
	`{{if .Class}}<path class="whisker {{.Class}}" d="M{{.From}} {{.Y}}H{{.To}}"/>` +
	`<circle class="{{.Class}}" cx="{{.Dot}}" cy="{{.Y}}" r="4"/>{{end}}` +
	`<text class="soft" x="{{.Label}}" y="{{.Y}}" dy="4">{{.Text}}</text>
{{end}}</svg>
`))

// WriteRatios writes a picture, as an SVG file, of the ratios of all comparisons: of the first side to each other one,
// or the reverse where less is better, so that more than 1 is better in each row.
func (r *Report) WriteRatios(w io.Writer) error {
	at := func(ratio float64) float64 { return place(ratiosLeft + ratiosScale*ratioAt(ratio)) }
	var picture struct {
		Title                string
		Height, Bottom, Foot int
		Rows, Ticks          []ratioRow
	}
	picture.Title = r.Title
	for i := range r.Comparisons {
		for _, line := range newComparison(&r.Comparisons[i]).Rows {
			for k, c := range line.Cells {
				if k == 0 { // the side that the others are compared with
					continue
				}
				row := ratioRow{Name: line.Name, Side: c.Side, Text: "no ratio", Label: at(ratioEdge) + 12,
					Y: ratiosTop + ratiosRow/2 + ratiosRow*len(picture.Rows)}
				if c.Ratio != nil {
					s := *c.Ratio
					if line.LowerIsBetter {
						s = spread{1 / s.Median, 1 / s.Most, 1 / s.Least}
					}
					row.Class, row.Text = c.Better, fmt.Sprintf("%.2f", s.Median)
					row.Dot, row.From, row.To = at(s.Median), at(s.Least), at(s.Most)
				}
				picture.Rows = append(picture.Rows, row)
			}
		}
	}
	picture.Bottom = ratiosTop + ratiosRow*len(picture.Rows) + 4
	picture.Foot = picture.Bottom + 18
	picture.Height = picture.Foot + 12
	for _, tick := range []struct {
		ratio float64
		text  string
	}{{1. / 16, "1/16"}, {1. / 8, "1/8"}, {1. / 4, "1/4"}, {1. / 2, "1/2"}, {1, "1"}, {2, "2"}, {4, "4"}, {8, "8"},
		{16, "16"}} {
		class := "grid"
		if tick.ratio == 1 {
			class = "one"
		}
		picture.Ticks = append(picture.Ticks, ratioRow{Dot: at(tick.ratio), Text: tick.text, Class: class})
	}
	if err := ratiosSVG.Execute(w, picture); err != nil {
		return fmt.Errorf("write the picture of the ratios: %w", err)
	}
	return nil
}
