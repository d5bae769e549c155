package challenge

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

// allocated is how many bytes do allocates, freed ones included.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// An upstream can answer every request with a header of megabytes.
func TestHugeFieldCostsNoMemory(t *testing.T) {
	const size = 9 << 20
	for _, part := range []string{"a,", "a=b,", "a b=c,", `a b="c\"",`, `a="`, `a="\`, ",", `"`, "a b ", "=", "\x00"} {
		huge := "Bearer realm=x, " + strings.Repeat(part, size/len(part))
		lines := slices.Repeat([]string{part, "", `Bearer realm="x"`}, size/64)
		for name, field := range map[string][]string{"one line": {huge}, "many lines": lines} {
			if n := allocated(func() { ErrorCode(field, "Bearer") }); n > 256<<10 {
				t.Errorf("%q in %s: %d KiB were allocated", part, name, n>>10)
			}
		}
	}
}

// The field is read up to its first 16 KiB. A challenge that does not end there is none.
func TestCutChallengeIsMissing(t *testing.T) {
	filled := func(format string, length int) string {
		return strings.Replace(format, "*", strings.Repeat("x", length-len(format)+1), 1)
	}
	const whole = `Bearer error="invalid_token"`
	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"just fits":                    {[]string{filled(`Basic realm="*", `+whole, maxField)}, "invalid_token"},
		"is a byte too long":           {[]string{filled(`Basic realm="*", `+whole, maxField+1)}, ""},
		"cut after its error":          {[]string{whole + `, realm="` + strings.Repeat("x", maxField) + `"`}, ""},
		"cut after the next began":     {[]string{whole + `, Basic realm="` + strings.Repeat("x", maxField) + `"`}, "invalid_token"},
		"cut in the error":             {[]string{filled(`Bearer realm="*", error="invalid_token_or_not"`, maxField+8)}, ""},
		"error in a later line":        {[]string{filled(`Basic realm="*"`, maxField-len(", "+whole)), whole}, "invalid_token"},
		"error in a line too far":      {[]string{filled(`Basic realm="*"`, maxField-len(whole)), whole}, ""},
		"after a line that takes all":  {[]string{filled(`Basic realm="*"`, maxField), whole}, ""},
		"before a line that is cut":    {[]string{whole, filled(`Bearer realm="*", error="invalid_request"`, maxField)}, "invalid_token"},
		"after as many lines as there": {append(slices.Repeat([]string{""}, maxField/2), whole), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ErrorCode(test.lines, "Bearer"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
