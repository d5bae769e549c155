package monitoring

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	chartWidth  = 560
	chartHeight = 242
	gap         = 16

	plotLeft   = 52
	plotTop    = 46
	plotWidth  = chartWidth - plotLeft - 16
	plotHeight = 130
)

const style = `
text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.title { font-size: 13px; font-weight: 600; fill: #1f2328 }
.chart { fill: #fff; stroke: #d0d7de }
.grid { stroke: #eaeef2 }
.axis { stroke: #8c959f }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.area { fill-opacity: .25 }
.scene { fill: #cf222e; fill-opacity: .07 }
.mark { stroke: #8250df; stroke-dasharray: 3 3 }
.note { font-size: 10px; fill: #8c959f }
`

// colors are for what the dashboard gives no color, in turn.
var colors = []string{"#0969da", "#bf8700", "#8250df", "#1b7c83", "#cf222e", "#1a7f37"}

// named are the colors that the dashboard gives.
var named = map[string]string{
	"green": "#1a7f37", "yellow": "#d4a72c", "blue": "#0969da", "red": "#cf222e", "orange": "#bc4c00", "purple": "#8250df",
}

// units are those of the dashboard, as they are written.
var units = map[string]string{"s": "seconds", "reqps": "per second", "cpm": "per minute", "short": ""}

// line is what a chart shows of a series.
type line struct {
	name, color string
	points      []point
}

// event is something that happens in the time that charts are of, from and to a second of it.
type event struct {
	name     string
	from, to float64 // equal for a moment
}

// draw draws the charts whose panels are those of time series, two beside each other.
func draw(charts []chart, events []event) string {
	charts = slices.DeleteFunc(slices.Clone(charts), func(c chart) bool { return c.Type != "timeseries" })
	from, to := math.Inf(1), math.Inf(-1)
	for _, c := range charts {
		for _, s := range slices.Concat(c.data...) {
			from, to = min(from, s.points[0].at), max(to, s.points[len(s.points)-1].at)
		}
	}
	width := 2*chartWidth + 3*gap
	height := (len(charts)+1)/2*(chartHeight+gap) + gap
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d">`, width, height)
	fmt.Fprintf(&b, "\n<style>%s</style>\n"+`<rect width="%d" height="%d" fill="#f6f8fa"/>`+"\n", style, width, height)
	for i, c := range charts {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", gap+i%2*(chartWidth+gap), gap+i/2*(chartHeight+gap))
		c.draw(&b, from, to, events)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c chart) draw(b *strings.Builder, from, to float64, events []event) {
	lines := c.lines()
	stacked := c.FieldConfig.Defaults.Custom.Stacking.Mode == "normal"
	if stacked {
		stack(lines)
	}
	bottom, top := c.bounds(lines)
	x := func(at float64) float64 { return plotLeft + (at-from)/(to-from)*plotWidth }
	y := func(value float64) float64 { return plotTop + (top-value)/(top-bottom)*plotHeight }

	fmt.Fprintf(b, `<rect class="chart" width="%d" height="%d" rx="6"/>`+"\n", chartWidth, chartHeight)
	title := c.Title
	if unit := units[c.FieldConfig.Defaults.Unit]; unit != "" {
		unit = ", " + unit
		fmt.Fprintf(b, `<text x="12" y="21"><tspan class="title">%s</tspan><tspan>%s</tspan></text>`+"\n", escaped(title), unit)
	} else {
		fmt.Fprintf(b, `<text x="12" y="21" class="title">%s</text>`+"\n", escaped(title))
	}
	for _, e := range events {
		if e.from == e.to {
			fmt.Fprintf(b, `<path class="mark" d="M%.1f %dv%d"/>`+"\n", x(from+e.from), plotTop, plotHeight)
		} else {
			fmt.Fprintf(b, `<rect class="scene" x="%.1f" y="%d" width="%.1f" height="%d"/>`+"\n",
				x(from+e.from), plotTop, x(from+e.to)-x(from+e.from), plotHeight)
		}
		fmt.Fprintf(b, `<text class="note" x="%.1f" y="%d">%s</text>`+"\n", x(from+e.from)+4, plotTop-4, escaped(e.name))
	}
	for step, value := tick(top-bottom, 4), 0.0; value <= top+step/1e6; value += step {
		drawTick(b, y(value), value)
	}
	for step, value := tick(top-bottom, 4), 0.0; value-step >= bottom-step/1e6; {
		value -= step
		drawTick(b, y(value), value)
	}
	for step, at := tick(to-from, 6), 0.0; at <= to-from; at += step {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(from+at), plotTop+plotHeight+16, clock(at))
	}
	if stacked {
		below := make(map[float64]float64)
		for _, l := range lines {
			fmt.Fprintf(b, `<path class="area" fill="%s" d="%s"/>`+"\n", l.color, l.area(below, x, y))
		}
	}
	for _, l := range lines {
		fmt.Fprintf(b, `<path class="line" stroke="%s" d="%s"/>`+"\n", l.color, l.path(x, y))
	}
	left, row := 12.0, 0
	for _, l := range lines {
		width := 26 + 6.2*float64(len(l.name))
		if left+width > chartWidth-12 {
			left, row = 12, row+1
		}
		at := plotTop + plotHeight + 36 + 16*row
		fmt.Fprintf(b, `<path stroke="%s" stroke-width="3" d="M%.0f %dh12"/><text x="%.0f" y="%d">%s</text>`+"\n",
			l.color, left, at-4, left+17, at, escaped(l.name))
		left += width
	}
}

// clock writes a number of seconds as minutes and seconds.
func clock(seconds float64) string {
	return fmt.Sprintf("%d:%02d", int(seconds)/60, int(seconds)%60)
}

// stack puts each line upon those before it.
func stack(lines []line) {
	total := make(map[float64]float64)
	for _, l := range lines {
		for i, p := range l.points {
			if !math.IsNaN(p.value) {
				total[p.at] += p.value
			}
			l.points[i].value = total[p.at]
		}
	}
}

// area is that between a stacked line and what is below it, which is the line from then on.
func (l line) area(below map[float64]float64, x, y func(float64) float64) string {
	var upper, lower strings.Builder
	command := "M"
	for _, p := range l.points {
		fmt.Fprintf(&upper, "%s%.1f %.1f", command, x(p.at), y(p.value))
		command = "L"
	}
	for _, p := range slices.Backward(l.points) {
		fmt.Fprintf(&lower, "L%.1f %.1f", x(p.at), y(below[p.at]))
		below[p.at] = p.value
	}
	return upper.String() + lower.String() + "Z"
}

func drawTick(b *strings.Builder, y, value float64) {
	class := "grid"
	if value == 0 {
		class = "axis"
	}
	fmt.Fprintf(b, `<path class="%s" d="M%d %.1fh%d"/><text x="%d" y="%.1f" text-anchor="end">%.4g</text>`+"\n",
		class, plotLeft, y, plotWidth, plotLeft-6, y+4, value)
}

// lines are the chart's, by their names, without those that have nothing to show.
func (c chart) lines() []line {
	var lines []line
	for i, q := range c.Targets {
		var ofQuery []line
		for _, s := range c.data[i] {
			if hasData(s) {
				ofQuery = append(ofQuery, line{name: legend(q.LegendFormat, s.labels), points: slices.Clone(s.points)})
			}
		}
		slices.SortFunc(ofQuery, func(a, b line) int { return cmp.Compare(a.name, b.name) })
		lines = append(lines, ofQuery...)
	}
	given := make(map[string]string)
	for _, o := range c.FieldConfig.Overrides {
		for _, p := range o.Properties {
			if color, ok := p.Value.(map[string]any); ok && p.ID == "color" {
				given[o.Matcher.Options], _ = color["fixedColor"].(string)
			}
		}
	}
	used := slices.Collect(maps.Values(given))
	rest := slices.DeleteFunc(slices.Clone(colors), func(color string) bool {
		return slices.ContainsFunc(used, func(name string) bool { return named[name] == color })
	})
	others := 0
	for i := range lines {
		if lines[i].color = named[given[lines[i].name]]; lines[i].color == "" {
			lines[i].color = rest[others%len(rest)]
			others++
		}
	}
	return lines
}

// bounds are the least and the greatest value that the chart has room for.
func (c chart) bounds(lines []line) (bottom, top float64) {
	for _, l := range lines {
		for _, p := range l.points {
			if !math.IsNaN(p.value) {
				bottom, top = min(bottom, p.value), max(top, p.value)
			}
		}
	}
	if top == bottom {
		top++
	}
	step := tick(top-bottom, 4)
	return math.Floor(bottom/step) * step, math.Ceil(top/step) * step
}

// path leaves out what is no number.
func (l line) path(x, y func(float64) float64) string {
	var b strings.Builder
	command := "M"
	last := math.NaN()
	for _, p := range l.points {
		if math.IsNaN(p.value) || p.at-last > 1.5 {
			command = "M"
		}
		if math.IsNaN(p.value) {
			continue
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", command, x(p.at), y(p.value))
		command, last = "L", p.at
	}
	return b.String()
}

// tick is a round number of which a handful make up the span.
func tick(span float64, handful int) float64 {
	step := math.Pow(10, math.Floor(math.Log10(span/float64(handful))))
	for _, factor := range []float64{1, 2, 5} {
		if span/(factor*step) <= float64(handful)+1 {
			return factor * step
		}
	}
	return 10 * step
}

var placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)

// legend names a series. Addresses, which are others each time, are those of an example.
func legend(format string, labels map[string]string) string {
	return placeholder.ReplaceAllStringFunc(format, func(name string) string {
		value := labels[strings.Trim(name, "{}")]
		return address.ReplaceAllStringFunc(value, func(string) string {
			if strings.Contains(value, "/") {
				return "partner.example"
			}
			return "gateway"
		})
	})
}

var address = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}
