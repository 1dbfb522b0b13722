package report

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestChart(t *testing.T) {
	c := Chart{Title: "a < b & c", X: Axis{Label: "x (s)", To: 9}, Y: Axis{Label: "y", From: 0.01, To: 10, Log: true},
		Series: []Series{{Name: "some", X: []float64{0, 9}, Y: []float64{0, 1}}, {Name: "dots", X: []float64{3}, Y: []float64{5}, Dots: true}}}
	svg := c.SVG()
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil || !strings.Contains(svg, "a &lt; b &amp; c") || !strings.Contains(svg, "<circle") {
		t.Errorf("%v\n%s", err, svg)
	}
	bars := Chart{Groups: []string{"g", "h"}, Y: Axis{To: 10}, Series: []Series{{Name: "b", Y: []float64{5, 10}}}}.SVG()
	if strings.Count(bars, "fill=\""+colours[0]) != 3 { // two bars and the legend
		t.Errorf("bars:\n%s", bars)
	}
}
