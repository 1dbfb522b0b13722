// Package report draws and tabulates what benchmarks measured, for the pages of doc.
package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// A Chart is one drawing: lines over a measured axis, or, if it has groups, bars
// side by side in each group.
type Chart struct {
	Name   string // of the file, without .svg
	Title  string
	X, Y   Axis
	Groups []string `json:",omitempty"` // the names along the X axis, for bars
	Series []Series
}

// Axis is one side of a chart. From and To are both 0 where the figures decide.
type Axis struct {
	Label    string // with the unit
	From, To float64
	Log      bool    `json:",omitempty"`
	Step     float64 `json:",omitempty"` // between numbers, where round ones do not fit
}

// Series is one line, or the bars of one colour. X is empty for bars: there is one Y
// for each group.
type Series struct {
	Name   string
	X      []float64 `json:",omitempty"`
	Y      []float64
	Dots   bool `json:",omitempty"` // single measurements, not joined
	Dashed bool `json:",omitempty"`
}

// Add appends a point, rounded so that figures are the same on every machine.
func (s *Series) Add(x, y float64) {
	s.X, s.Y = append(s.X, Round(x)), append(s.Y, Round(y))
}

// Round keeps four significant digits.
func Round(x float64) float64 {
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'g', 4, 64), 64)
	return x
}

// Sizes in pixels.
const (
	width, height = 760, 430
	left, right   = 76, 24
	bottom        = 58
	legendTop     = 50
	legendLine    = 20
	letter        = 7 // a character of the legend, about
)

// colours can be told apart by the colour-blind (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// SVG draws c on white, so that it can be read on dark pages too.
func (c Chart) SVG() string {
	d := drawing{Chart: c, top: legendTop}
	d.scale()
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" fill="#222">`+"\n", width, height, width, height)
	d.printf("<title>%s</title>\n", html.EscapeString(c.Title))
	d.printf(`<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	d.text(width/2, 24, "middle", `font-size="16" font-weight="bold"`, c.Title)
	d.legend()
	d.axes()
	if len(c.Groups) > 0 {
		d.bars()
	} else {
		d.lines()
	}
	d.printf("</svg>\n")
	return d.out.String()
}

// drawing is an SVG in the making.
type drawing struct {
	Chart
	out strings.Builder
	top int // of the plot, below the legend
}

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(&d.out, format, args...) }

func (d *drawing) text(x, y float64, anchor, attributes, s string) {
	d.printf(`<text x="%s" y="%s" text-anchor="%s" %s>%s</text>`+"\n", px(x), px(y), anchor, attributes, html.EscapeString(s))
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// scale fills in the ends of both axes that the chart leaves to its figures.
func (d *drawing) scale() {
	for _, a := range []struct {
		axis   *Axis
		values func(Series) []float64
	}{{&d.X, func(s Series) []float64 { return s.X }}, {&d.Y, func(s Series) []float64 { return s.Y }}} {
		if a.axis.From != 0 || a.axis.To != 0 {
			continue
		}
		for _, s := range d.Series {
			for _, v := range a.values(s) {
				a.axis.To = max(a.axis.To, v)
			}
		}
		if ticks := a.axis.ticks(); len(ticks) > 1 && a.axis == &d.Y {
			step := ticks[1] - ticks[0]
			a.axis.To = math.Ceil(a.axis.To*1.02/step) * step
		}
	}
}

// place is where v stands on the axis, from 0 to 1.
func (a Axis) place(v float64) float64 {
	if a.Log {
		return math.Log(v/a.From) / math.Log(a.To/a.From)
	}
	return (v - a.From) / (a.To - a.From)
}

// ticks are round numbers along the axis, four to ten of them.
func (a Axis) ticks() (ticks []float64) {
	if a.Log {
		for v := a.From; v <= a.To*1.0001; v *= 10 {
			ticks = append(ticks, v)
		}
		return ticks
	}
	span := a.To - a.From
	if span <= 0 {
		return []float64{a.From}
	}
	step := math.Pow(10, math.Floor(math.Log10(span)))
	for _, part := range []float64{1, 2, 5, 10} {
		if span*part/step >= 4 {
			step /= part
			break
		}
	}
	if a.Step > 0 {
		step = a.Step
	}
	for i := math.Ceil(a.From / step); i*step <= a.To*1.0001; i++ {
		ticks = append(ticks, Round(i*step))
	}
	return ticks
}

func (d *drawing) x(v float64) float64 { return left + d.X.place(v)*(width-left-right) }

// y keeps what is beyond the axis at its end.
func (d *drawing) y(v float64) float64 {
	return height - bottom - min(1, max(0, d.Y.place(v)))*float64(height-bottom-d.top)
}

// legend names the series, in as many lines as they take.
func (d *drawing) legend() {
	x, y := float64(left), float64(legendTop)
	for i, s := range d.Series {
		w := float64(44 + letter*len([]rune(s.Name)))
		if x+w > width-right && x > left {
			x, y = left, y+legendLine
		}
		d.sample(s, i, x, y-4)
		d.text(x+30, y, "start", "", s.Name)
		x += w
	}
	d.top = int(y) + legendLine
}

func (d *drawing) sample(s Series, i int, x, y float64) {
	switch colour := colours[i%len(colours)]; {
	case len(d.Groups) > 0:
		d.printf(`<rect x="%s" y="%s" width="14" height="12" fill="%s"/>`+"\n", px(x+8), px(y-6), colour)
	case s.Dots:
		d.printf(`<circle cx="%s" cy="%s" r="4" fill="%s"/>`+"\n", px(x+12), px(y), colour)
	default:
		d.printf(`<path d="M%s %sh24" %s/>`+"\n", px(x), px(y), stroke(s, colour))
	}
}

func stroke(s Series, colour string) string {
	dash := ""
	if s.Dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	return fmt.Sprintf(`fill="none" stroke="%s" stroke-width="2.2" stroke-linejoin="round"%s`, colour, dash)
}

// axes draws the frame, the grid, the numbers and the labels.
func (d *drawing) axes() {
	floor := float64(height - bottom)
	for _, v := range d.Y.ticks() {
		d.printf(`<path d="M%d %sH%d" stroke="#ddd"/>`+"\n", left, px(d.y(v)), width-right)
		d.text(left-8, d.y(v)+4, "end", "", Number(v))
	}
	d.printf(`<path d="M%d %dV%sH%d" fill="none" stroke="#222"/>`+"\n", left, d.top, px(floor), width-right)
	if len(d.Groups) == 0 {
		for _, v := range d.X.ticks() {
			d.printf(`<path d="M%s %sv5" stroke="#222"/>`+"\n", px(d.x(v)), px(floor))
			d.text(d.x(v), floor+20, "middle", "", Number(v))
		}
	}
	d.text((left+width-right)/2, height-14, "middle", "", d.X.Label)
	middle := (float64(d.top) + floor) / 2
	d.text(20, middle, "middle", fmt.Sprintf(`transform="rotate(-90 20 %s)"`, px(middle)), d.Y.Label)
}

// Number writes a figure without zeros at its end.
func Number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func (d *drawing) lines() {
	for i, s := range d.Series {
		colour := colours[i%len(colours)]
		if s.Dots {
			for j := range s.X {
				d.printf(`<circle cx="%s" cy="%s" r="4" fill="%s"/>`+"\n", px(d.x(s.X[j])), px(d.y(s.Y[j])), colour)
			}
			continue
		}
		var path strings.Builder
		for j := range s.X {
			if d.Y.Log && s.Y[j] <= 0 { // nothing was counted
				continue
			}
			fmt.Fprintf(&path, "%s%s %s", map[bool]string{true: "M", false: "L"}[path.Len() == 0], px(d.x(s.X[j])), px(d.y(s.Y[j])))
		}
		if path.Len() > 0 {
			d.printf(`<path d="%s" %s/>`+"\n", path.String(), stroke(s, colour))
		}
	}
}

// bars draws each group's bars side by side, with their figures above.
func (d *drawing) bars() {
	floor := float64(height - bottom)
	room := float64(width-left-right) / float64(len(d.Groups))
	w := room * 0.84 / float64(len(d.Series))
	for g, name := range d.Groups {
		x := left + room*(float64(g)+0.08)
		for i, s := range d.Series {
			y := d.y(s.Y[g])
			d.printf(`<rect x="%s" y="%s" width="%s" height="%s" fill="%s"/>`+"\n", px(x+w*float64(i)), px(y), px(w*0.92), px(floor-y), colours[i%len(colours)])
			d.text(x+w*(float64(i)+0.46), y-4, "middle", `font-size="10"`, Number(s.Y[g]))
		}
		d.text(left+room*(float64(g)+0.5), floor+20, "middle", "", name)
	}
}
