package servertest

import (
	"encoding/base64"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file finds secrets where they must not be.

// leastSeen is how many characters of a run have to be seen. White space and what stands for a character
// that was lost tell nothing of a secret.
const leastSeen = 4

// LeakedRun returns a run of a secret that is in a text, but not in harmless. A run is eight characters, or half of a
// secret with fewer than sixteen; four of them must be visible. LeakedRun undoes encodings, and ignores case, white
// space and characters that are not ASCII. It ignores the letters of escapes. It also ignores up to seven letters
// within a word and up to seven digits within a number, which are there by chance.
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
			for _, part := range withoutEscapes(undo(text), string(form)) {
				shown := fold(strings.ToLower(part))
				for from := 0; size >= leastSeen && from+size <= len(runes); from++ {
					run := string(runes[from : from+size])
					if strings.Contains(shown, run) && !strings.Contains(own, run) && seen(run) >= leastSeen && !isByChance(part, run) {
						return run
					}
				}
			}
		}
	}
	return ""
}

// seen returns how many characters of a run can be seen.
func seen(run string) int {
	return utf8.RuneCountInString(keep(run, func(r rune) bool { return unicode.IsGraphic(r) && !strings.ContainsRune(" \u00a0?\ufffd", r) }))
}

// isByChance reports whether a run is too short and too plain to be known within a word or a number, and only there.
func isByChance(text, run string) bool {
	for _, class := range []string{"[a-z]", "[0-9]"} {
		if regexp.MustCompile("^" + class + "{1,7}$").MatchString(run) {
			return !regexp.MustCompile("(^|[^" + class[1:] + ")" + run + "($|[^" + class[1:] + ")").MatchString(strings.ToLower(text))
		}
	}
	return false
}

// withoutEscapes returns what is between the escapes that are not the secret's own.
func withoutEscapes(text, secret string) []string {
	const between = "\U0010fffd"
	secret = strings.ToLower(secret)
	return strings.Split(escapes.ReplaceAllStringFunc(text, func(escape string) string {
		if strings.Contains(secret, strings.ToLower(escape)) {
			return escape
		}
		return between
	}), between)
}

var escapes = regexp.MustCompile(`(?i)%(25)*(u[0-9a-f]{4}|[0-9a-f]{2})` +
	`|(\\|%5c)+(x[0-9a-f]{2}|u[0-9a-f]{4}|u\{[0-9a-f]+\}|u00[0-9a-f]{6}|[0-7]{3})` +
	`|=[0-9a-f]{2}|&(amp;)*(#x?[0-9a-f]+|[a-z]+);` +
	`|[^ -~]{9,}`) // what characters have become that were lost

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
