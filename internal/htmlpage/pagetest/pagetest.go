// Package pagetest shows pages of package htmlpage in a headless browser, for tests.
package pagetest

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Browser returns the path of a browser. If there is none, it skips the test with a line that says so.
func Browser(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: no browser; install the package chromium-headless-shell or chromium")
	return ""
}

// Look is one way to look at a page.
type Look struct {
	Name          string
	Width, Height int // of the window, in pixels
	Dark          bool
}

// Looks are the ways to look at each page: wide in light and dark, and as on a phone.
var Looks = []Look{{"light", 1200, 3000, false}, {"dark", 1200, 3000, true}, {"phone", 390, 5000, false}}

// options returns the browser's options for the look, on a page at url.
func (l Look) options(dir, url string) []string {
	scheme := 1
	if l.Dark {
		scheme = 0
	}
	return []string{"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=" + dir,
		"--enable-logging=stderr", "--virtual-time-budget=3000", "--force-device-scale-factor=1",
		fmt.Sprintf("--window-size=%d,%d", l.Width, l.Height),
		fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme), "--dump-dom", url}
}

// CheckScript compares the rendered pictures with the data of the page, and reports in the element "checked". It takes
// the place of </body>.
const CheckScript = `<script>
const data = JSON.parse(document.getElementById('data').textContent), wrong = [];
let points = 0;
const place = (axis, v) => axis.log ? Math.log(v / axis.low) / Math.log(axis.high / axis.low)
  : (v - axis.low) / (axis.high - axis.low);
const same = (what, got, want) => { points++; if (!(Math.abs(got - want) < 0.002)) wrong.push([what, got, want]); };
const plot = id => document.querySelector('[id="' + id + '"] .plot > svg');
for (const chart of data.charts) {
  const svg = plot(chart.id), box = svg.getBoundingClientRect();
  chart.lines.forEach((line, i) => {
    const path = svg.querySelectorAll('path.line')[i], matrix = path.getScreenCTM();
    const got = [...path.getAttribute('d').matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)]
      .map(m => new DOMPoint(m[1], m[2]).matrixTransform(matrix));
    line.points.filter(p => p[1] !== null).forEach((p, k) => {
      same(chart.id + ' x', (got[k].x - box.left) / box.width, place(chart.x, p[0]));
      same(chart.id + ' y', (box.bottom - got[k].y) / box.height, place(chart.y, p[1]));
    });
  });
}
for (const chart of data.histograms) {
  const box = plot(chart.id).getBoundingClientRect();
  plot(chart.id).querySelectorAll('rect.bar').forEach((bar, i) => {
    const b = bar.getBoundingClientRect();
    same(chart.id + ' x', (b.left - box.left) / box.width, place(chart.x, chart.bars[i].low));
    same(chart.id + ' y', b.height / box.height, place(chart.y, chart.bars[i].count));
  });
}
for (const id of [...document.querySelectorAll('[aria-labelledby]')].flatMap(e =>
  e.getAttribute('aria-labelledby').split(' '))) if (!document.getElementById(id)) wrong.push(['no label', id]);
const result = {points, wrong, charts: data.charts.length, inner: innerWidth,
  wide: document.documentElement.scrollWidth, back: getComputedStyle(document.body).backgroundColor,
  main: document.querySelectorAll('main figure').length};
document.body.insertAdjacentHTML('beforeend', '<pre id="checked"></pre>');
document.getElementById('checked').textContent = JSON.stringify(result);
</script></body>`

// Checked is the report of CheckScript.
type Checked struct {
	Points int     // values that were compared
	Wrong  [][]any // those that differ: name, picture's value, data's value
	Charts int     // pictures of lines
	Main   int     // all pictures
	Inner  int     // width of the window
	Wide   int     // width of the page
	Back   string  // color of the background
}

// Render shows a page, which holds CheckScript, in the browser and returns the report. A message on the console of the
// browser fails the test.
func Render(t testing.TB, l Look, url string) (c Checked) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Browser(t), l.options(t.TempDir(), url)...)
	var messages strings.Builder
	cmd.Stderr = &messages
	dom, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &messages)
	}
	for line := range strings.Lines(messages.String()) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("%s: %s", l.Name, line)
		}
	}
	parts := strings.Split(string(dom), `<pre id="checked">`)
	text, _, _ := strings.Cut(parts[len(parts)-1], "</pre>")
	text = html.UnescapeString(text)
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%s: %v in %q", l.Name, err, text)
	}
	return c
}

// RenderFile shows a page in all looks. It fails the test if a picture differs from the data of the page, if the page
// is wider than a window, or if light and dark look the same. It returns the report of the first look.
func RenderFile(t testing.TB, page string) (first Checked) {
	t.Helper()
	Browser(t)
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, []byte(strings.Replace(page, "</body>", CheckScript, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	backs := map[string]bool{}
	for i, l := range Looks {
		c := Render(t, l, "file://"+file)
		if i == 0 {
			first = c
		}
		if len(c.Wrong) > 0 || c.Charts != first.Charts || c.Main != first.Main {
			t.Errorf("%s: %d points, %d charts, %d figures, wrong: %v", l.Name, c.Points, c.Charts, c.Main,
				c.Wrong[:min(5, len(c.Wrong))])
		}
		if c.Wide > c.Inner {
			t.Errorf("%s: the page is %d wide in a window of %d", l.Name, c.Wide, c.Inner)
		}
		backs[c.Back] = true
	}
	if len(backs) != 2 {
		t.Errorf("light and dark have the backgrounds %v", backs)
	}
	return first
}
