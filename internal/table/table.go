// Package table draws the tables that commands print for people: a row for each thing, and remarks below it. In a file
// or a pipe every text is there in full. On a terminal the table fits its width, and has colours.
//
//   - table.go: a Table, and how it is drawn.
//   - layout.go: which widths the columns get, and what happens if they don't fit.
//   - style.go: what a terminal can show.
//   - text.go: measures, cuts and wraps texts.
//
// The package has no locks.
package table

import (
	"io"
	"strings"
)

// Table is what is drawn. Texts can come from anywhere: what is not printable in them is drawn as spaces.
type Table struct {
	Columns []Column
	Rows    []Row
}

// Column is a column of a table.
type Column struct {
	Name string

	// Least is the width down to which cells are shortened on a narrow terminal; 0 if they never are. It has room for
	// the name.
	Least int

	// Tells marks the column that is drawn in the colour of the row.
	Tells bool
}

// Row is a row of a table.
type Row struct {
	Cells   []string // for each column; an empty one is drawn as "-"
	Mood    Mood
	Remarks []string // drawn below it, each in lines of its own

	// See is an address that tells more, drawn last; empty for none. It is never wrapped. If it is too long, the
	// terminal continues it in the next line, and it can still be selected and copied as one address.
	See string
}

// Mood says how good or bad a row is.
type Mood uint8

// The moods, each with a colour.
const (
	Plain Mood = iota
	Good
	Doubtful
	Bad
)

// indent is before remarks, and before the further cells of a row that does not fit.
const indent = "    "

// gap is between columns.
const gap = "  "

// Write draws the table in a style.
func (t Table) Write(out io.Writer, s Style) error {
	t = t.printable()
	var text strings.Builder
	if widths, ok := t.layout(s.Width); ok {
		t.writeColumns(&text, widths, s)
	} else {
		t.writeRecords(&text, s)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// printable returns the table with texts that can be drawn as they are.
func (t Table) printable() Table {
	rows := make([]Row, len(t.Rows))
	for i, row := range t.Rows {
		cells := make([]string, len(row.Cells))
		for j, cell := range row.Cells {
			if cells[j] = Printable(cell); cell == "" {
				cells[j] = "-"
			}
		}
		remarks := make([]string, len(row.Remarks))
		for j, remark := range row.Remarks {
			remarks[j] = Printable(remark)
		}
		rows[i] = Row{cells, row.Mood, remarks, Printable(row.See)}
	}
	return Table{t.Columns, rows}
}

// writeColumns draws columns side by side. It does not use text/tabwriter, whose columns end at a line without tabs,
// such as a remark.
func (t Table) writeColumns(text *strings.Builder, widths []int, s Style) {
	line := func(cells []string, paint func(column int, drawn string) string) {
		padding := 0 // is written when something follows, so that no line ends with spaces
		for i, cell := range cells {
			drawn := shorten(cell, widths[i])
			text.WriteString(strings.Repeat(" ", padding) + paint(i, drawn))
			padding = widths[i] - width(drawn) + len(gap)
		}
		text.WriteString("\n")
	}
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	line(names, func(_ int, drawn string) string { return s.bold(drawn) })
	for _, row := range t.Rows {
		line(row.Cells, func(i int, drawn string) string { return t.paint(row, i, drawn, s) })
		row.writeRemarks(text, s)
	}
}

// writeRecords draws each row as some lines: the first cell, and the others below it with their names.
func (t Table) writeRecords(text *strings.Builder, s Style) {
	for _, row := range t.Rows {
		for _, line := range wrap(row.Cells[0], s.Width) {
			text.WriteString(s.bold(line) + "\n")
		}
		room, used := s.Width-len(indent), 0
		for i, cell := range row.Cells[1:] {
			column := t.Columns[i+1]
			name := strings.ToLower(column.Name) + ": "
			needed := len(name) + width(cell)
			switch {
			case cell == "-":
				continue
			case used > 0 && used+len(gap)+needed <= room:
				text.WriteString(gap)
				used += len(gap)
			case used > 0:
				text.WriteString("\n" + indent)
				used = 0
			default:
				text.WriteString(indent)
			}
			if needed > room {
				text.WriteString(strings.Join(wrap(name+cell, room), "\n"+indent))
			} else {
				text.WriteString(name + t.paint(row, i+1, cell, s))
			}
			used += needed
		}
		if used > 0 {
			text.WriteString("\n")
		}
		row.writeRemarks(text, s)
	}
}

func (row Row) writeRemarks(text *strings.Builder, s Style) {
	for _, remark := range row.Remarks {
		before := indent
		for _, line := range wrap(remark, s.room(len(indent)+len(gap))) {
			text.WriteString(before + line + "\n")
			before = indent + gap
		}
	}
	if row.See != "" {
		text.WriteString(indent + "see " + row.See + "\n")
	}
}

func (t Table) paint(row Row, column int, drawn string, s Style) string {
	if t.Columns[column].Tells {
		return s.paint(row.Mood, drawn)
	}
	return drawn
}
