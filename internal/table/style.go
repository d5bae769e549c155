package table

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Style is how a table is drawn. The zero value is for files and pipes.
type Style struct {
	Width  int  // of the terminal; 0 for no limit
	Height int  // of the terminal; 0 for no limit
	Colors bool // texts have colours
	Moves  bool // the cursor can go back, to draw something in place of what is there
}

// leastWidth is the least width that texts are wrapped at.
const leastWidth = 20

// StyleOf returns the style for a terminal, or else for a file.
func StyleOf(out io.Writer) Style {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return Style{}
	}
	// A terminal that does not name itself need not know the sequences, such as the console of Windows.
	name := os.Getenv("TERM")
	s := Style{Moves: name != "" && name != "dumb"}
	s.Colors = s.Moves && os.Getenv("NO_COLOR") == ""
	if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
		s.Width, s.Height = max(width, leastWidth), height
	}
	return s
}

// Lines returns the lines that a text takes on the terminal. Those that are too wide are wrapped; those of a Table fit.
func (s Style) Lines(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.Contains(line, escape) { // a Table has drawn it
			lines = append(lines, line)
			continue
		}
		lines = append(lines, wrap(line, s.Width)...)
	}
	return lines
}

// room is what is left of the width; 0 for no limit.
func (s Style) room(used int) int {
	if s.Width == 0 {
		return 0
	}
	return max(s.Width-used, leastWidth-used)
}

func (s Style) bold(text string) string { return s.sequence("1", text) }

func (s Style) paint(m Mood, text string) string {
	switch m {
	case Good:
		return s.sequence("32", text) // green
	case Doubtful:
		return s.sequence("33", text) // yellow
	case Bad:
		return s.sequence("31", text) // red
	case Plain:
	}
	return text
}

// escape begins ECMA-48's control sequences.
const escape = "\x1b["

// sequence puts a text between ECMA-48's sequences that select a rendition (§8.3.117).
func (s Style) sequence(rendition, text string) string {
	if !s.Colors {
		return text
	}
	return escape + rendition + "m" + text + escape + "0m"
}
