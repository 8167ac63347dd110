// Package htmlpage writes the measurements of a load, of a store or of a comparison as one HTML page.
//
// A page has these properties:
//
//   - It is one file: pictures, styles, script and data are in it, and its content security policy forbids it to load
//     anything. Only the page of a running load (Live) asks its own server for newer values.
//   - Each picture is SVG, and shows the values of the JSON in the page (the element with the id "data") and of the
//     table below the picture. All three come from the same view.
//   - Its size does not grow with the length of the run: beyond 100 intervals, a point of a line stands for several,
//     and the page shows their mean, their least and their greatest value.
//   - It follows the reader's choice of light or dark, and fits a phone.
//
// A program fills a Report and calls Write:
//
//	report := &htmlpage.Report{Title: "randread", Runs: []htmlpage.Run{{Samples: samples}}}
//	err := report.Write(file)
//
// NewLive serves the report of something that still runs.
package htmlpage
