package htmlpage_test

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

// browser returns the path of a browser. The test is skipped if there is none.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: no browser; install the package chromium-headless-shell or chromium")
	return ""
}

// look is one way to look at a page.
type look struct {
	name          string
	width, height int
	dark          bool
}

var looks = []look{{"light", 1200, 3000, false}, {"dark", 1200, 3000, true}, {"phone", 390, 5000, false}}

// options returns the browser's options for the look, on a page at url.
func (l look) options(dir, url string) []string {
	scheme := 1
	if l.dark {
		scheme = 0
	}
	return []string{"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=" + dir,
		"--enable-logging=stderr", "--virtual-time-budget=3000", "--force-device-scale-factor=1",
		fmt.Sprintf("--window-size=%d,%d", l.width, l.height),
		fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme), "--dump-dom", url}
}

// checkScript compares the rendered pictures with the data of the page, and reports in the element "checked".
const checkScript = `<script>
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

// checked is the report of checkScript.
type checked struct {
	Points, Charts, Wide, Inner, Main int
	Wrong                             [][]any
	Back                              string
}

// render shows a page in the browser and returns the report of checkScript.
func render(t *testing.T, l look, url string) (c checked) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser(t), l.options(t.TempDir(), url)...)
	var messages strings.Builder
	cmd.Stderr = &messages
	dom, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &messages)
	}
	for line := range strings.Lines(messages.String()) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("%s: %s", l.name, line)
		}
	}
	parts := strings.Split(string(dom), `<pre id="checked">`)
	text, _, _ := strings.Cut(parts[len(parts)-1], "</pre>")
	text = html.UnescapeString(text)
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%s: %v in %q", l.name, err, text)
	}
	return c
}

// A browser shows the page without a message on its console, at the width of a phone without scrolling sideways, in
// light and in dark, and the rendered pictures have the values of the JSON.
func TestBrowser(t *testing.T) {
	browser(t)
	page := write(t, sampleReport(1000))
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, []byte(strings.Replace(page, "</body>", checkScript, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	back := map[string]bool{}
	for _, l := range looks {
		c := render(t, l, "file://"+file)
		if len(c.Wrong) > 0 || c.Points < 1000 || c.Charts != 10 || c.Main != 14 {
			t.Errorf("%s: %d points, %d charts, %d figures, wrong: %v", l.name, c.Points, c.Charts, c.Main,
				c.Wrong[:min(5, len(c.Wrong))])
		}
		if c.Wide > c.Inner {
			t.Errorf("%s: the page is %d wide in a window of %d", l.name, c.Wide, c.Inner)
		}
		back[c.Back] = true
	}
	if len(back) != 2 {
		t.Errorf("light and dark have the backgrounds %v", back)
	}
}
