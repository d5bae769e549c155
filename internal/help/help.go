// Package help has the addresses of what the documentation says about a failure. docs/troubleshooting.md has a heading for
// each error code, each result of a check and each message of the log: the log's hints, "caddy oauth-cc check" and "caddy
// oauth-cc tokens" lead there.
//
// The package has no locks.
package help

import (
	"strings"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const page = "https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md"

// Address returns the address of the heading that is an error code, a result or a message.
func Address(heading string) string { return page + "#" + anchor(heading) }

// Hint returns the hint of a log entry: what may help, which can be empty, and where to read on.
func Hint(hint, heading string) string {
	see := "see " + Address(heading)
	if hint == "" {
		return see
	}
	return hint + "; " + see
}

// Write writes a log entry with a hint: what may help, which can be empty, and the heading of its message. The entry is nil
// if its level is off.
func Write(entry *zapcore.CheckedEntry, hint string, fields ...zapcore.Field) {
	if entry != nil {
		entry.Write(append(fields, zap.String("hint", Hint(hint, entry.Message)))...)
	}
}

// anchor is the one that GitHub makes for a heading: in small letters, with hyphens for spaces, without punctuation.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Pc):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
