package table

import (
	"strings"
	"unicode"

	textwidth "golang.org/x/text/width"
)

// Printable replaces what is not printable by spaces, so that a text can't control the terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
}

// width returns how many columns of a terminal a text takes.
func width(text string) int {
	n := 0
	for _, r := range text {
		n += runeWidth(r)
	}
	return n
}

// runeWidth is by Unicode's East Asian Width (UAX #11).
func runeWidth(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) { // they are drawn over the one before
		return 0
	}
	if kind := textwidth.LookupRune(r).Kind(); kind == textwidth.EastAsianWide || kind == textwidth.EastAsianFullwidth {
		return 2
	}
	return 1
}

// shorten returns a text that is not wider than most. It leaves the middle out: the ends of URLs and names say more.
func shorten(text string, most int) string {
	if width(text) <= most {
		return text
	}
	head, rest := cut(text, (most-1)/2)
	tooWide := width(rest) - (most - 1 - width(head))
	middle, tail := cut(rest, tooWide)
	if width(middle) < tooWide { // the next one takes two columns
		_, tail = cut(tail, 2)
	}
	return head + "…" + tail
}

// cut cuts a text after so many columns.
func cut(text string, columns int) (before, after string) {
	for i, r := range text {
		if columns -= runeWidth(r); columns < 0 {
			return text[:i], text[i:]
		}
	}
	return text, ""
}

// wrap breaks a text into lines that are not wider than most, between words where it can. 0 is for no limit.
func wrap(text string, most int) []string {
	if most == 0 || width(text) <= most {
		return []string{text}
	}
	var lines []string
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= most:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
		for left := width(line); left > most; {
			head, rest := cut(line, most)
			lines, line = append(lines, head), rest
			left -= width(head)
		}
	}
	return append(lines, line)
}
