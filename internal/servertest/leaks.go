package servertest

import (
	"encoding/base64"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// This file finds secrets where they must not be.

// LeakedRun returns a run of a secret that is in a text, and not in what may be there: eight characters, or
// half of a secret with fewer than sixteen. It undoes encodings, and does without case, white space and
// characters that are not ASCII.
func LeakedRun(text, secret, harmless string) string {
	return leakedRun(text, []rune(strings.ToValidUTF8(secret, "\ufffd")), harmless, 1)
}

// LeakedEcho is LeakedRun for what a secret becomes in an echo.
func LeakedEcho(text, secret, harmless string, echo func(string) string) string {
	written := echo(strings.TrimSpace(secret))
	if strings.Contains(written, `\ufffd`) { // which says nothing about a character
		return ""
	}
	return leakedRun(text, []rune(strings.ToValidUTF8(written, "\ufffd")), harmless, len(written)/len(secret))
}

// leakedRun looks for a form of a secret in which each character of it takes so many.
func leakedRun(text string, form []rune, harmless string, each int) string {
	for _, fold := range leakFolds {
		runes := []rune(fold(strings.ToLower(string(form))))
		size := min(8, len(runes)/2)
		if each > 1 { // of some, a part can be left
			size = (size + 1) * each
		}
		own := fold(strings.ToLower(harmless))
		for _, undo := range leakUndoers {
			shown := fold(strings.ToLower(undo(text)))
			for from := 0; size >= 4 && from+size <= len(runes); from++ {
				run := string(runes[from : from+size])
				if strings.Contains(shown, run) && !strings.Contains(own, run) && strings.Trim(run, " \u00a0?\ufffd") != "" {
					return run
				}
			}
		}
	}
	return ""
}

var leakFolds = []func(string) string{
	func(s string) string { return s },
	func(s string) string { return strings.Join(strings.Fields(s), " ") },
	func(s string) string { return keep(s, func(r rune) bool { return r > ' ' }) },
	func(s string) string { return keep(s, func(r rune) bool { return r > ' ' && r <= '~' && r != '?' }) },
}

func keep(s string, is func(rune) bool) string {
	return strings.Map(func(r rune) rune {
		if is(r) {
			return r
		}
		return -1
	}, s)
}

var leakUndoers = []func(string) string{
	func(s string) string { return s },
	html.UnescapeString,
	func(s string) string {
		return percents.ReplaceAllStringFunc(s, func(escape string) string {
			plain, _ := url.PathUnescape(escape)
			return plain
		})
	},
	func(s string) string {
		return codes.ReplaceAllStringFunc(s, func(escape string) string {
			code, _ := strconv.ParseUint(escape[2:], 16, 32)
			return string(rune(code))
		})
	},
	func(s string) string {
		return base64Words.ReplaceAllStringFunc(s, func(word string) string {
			plain, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(word))
			if err != nil {
				return word
			}
			return string(plain)
		})
	},
}

var (
	percents    = regexp.MustCompile(`(%[0-9A-Fa-f]{2})+`)
	codes       = regexp.MustCompile(`\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})`)
	base64Words = regexp.MustCompile(`[A-Za-z0-9+/_-]{8,}`)
)
