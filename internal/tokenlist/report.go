package tokenlist

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// summary is a line with numbers of tokens, or says why there are none.
func (l List) summary(f Filter) string {
	switch {
	case len(l.Tokens) > 0 || l.Omitted > 0:
	case l.Handlers == 0:
		return "the running configuration has no oauth_cc\n"
	case len(f.States) > 0 || len(f.Values) > 0:
		what := "no token"
		if f.Failing {
			what = "no failing token"
		}
		return what + " is in such a state or has such a value\n"
	case f.Failing:
		return "no token is failing\n"
	default:
		return "no tokens yet: each tenant's first request gets one\n"
	}
	counts := make(map[string]int)
	failing := 0
	for _, t := range l.Tokens {
		counts[t.State]++
		if t.Failing {
			failing++
		}
	}
	var parts []string
	for _, state := range slices.Concat(states()[1:], states()[:1]) { // none is last
		if n := counts[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if failing > 0 {
		parts = append(parts, fmt.Sprintf("%d failing", failing))
	}
	if l.Omitted > 0 {
		parts = append(parts, fmt.Sprintf("%d more not shown (see --limit, --failing, --state and --value)", l.Omitted))
	}
	return plural(len(l.Tokens), "token") + ": " + strings.Join(parts, ", ") + "\n"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// write draws the tokens as a table, at this time by the gateway's clock.
func (l List) write(out io.Writer, now time.Time, s table.Style) error {
	if len(l.Tokens) == 0 {
		return nil
	}
	const endpoint, client = 24, 10 // values are never shortened: they tell whose token it is
	t := table.Table{Columns: []table.Column{
		{Name: "ENDPOINT", Least: endpoint}, {Name: "CLIENT", Least: client}, {Name: "VALUES"},
		{Name: "STATE", Tells: true}, {Name: "EXPIRES"}, {Name: "NEXT TRY"}, {Name: "ID"},
	}}
	const valuesAt = 2
	hasValues := slices.ContainsFunc(l.Tokens, func(t Token) bool { return len(t.Values) > 0 })
	twins := make(map[string]int) // what looks the same in the table
	for _, t := range l.Tokens {
		twins[t.title()]++
	}
	for _, token := range l.Tokens {
		row := table.Row{Cells: token.cells(now), Mood: token.mood(), Remarks: token.remarks(now, twins[token.title()] > 1)}
		if token.Failing && token.LastError != nil {
			row.See = token.LastError.Help
		}
		if !hasValues {
			row.Cells = slices.Delete(row.Cells, valuesAt, valuesAt+1)
		}
		t.Rows = append(t.Rows, row)
	}
	if !hasValues {
		t.Columns = slices.Delete(t.Columns, valuesAt, valuesAt+1)
	}
	return t.Write(out, s)
}

// endpoint is the token endpoint, or the issuer as long as that has not named one.
func (t Token) endpoint() string { return cmp.Or(t.Endpoint, t.Issuer) }

// title is what tells grants apart in the table, except for their ids.
func (t Token) title() string {
	return strings.Join([]string{t.endpoint(), t.ClientID, t.shownValues()}, "\x00")
}

// shownValues are the values of the request's placeholders with their names, which are shortened as in
// "caddy oauth-cc check --value".
func (t Token) shownValues() string {
	shown := make([]string, 0, len(t.Values))
	for _, name := range slices.Sorted(maps.Keys(t.Values)) {
		shown = append(shown, strings.TrimPrefix(name, "http.request.")+"="+t.Values[name])
	}
	return strings.Join(shown, ", ")
}

// isLive reports whether requests get the token.
func (t Token) isLive() bool {
	return t.State != tokencache.StateNone.String() && t.State != tokencache.StateExpired.String()
}

// isRejected reports whether the upstream rejects the token. One that has expired it can only reject.
func (t Token) isRejected() bool { return t.RejectedSince != nil && t.isLive() }

// cells are those of a table with values.
func (t Token) cells(now time.Time) []string {
	expires, nextTry := "", ""
	if t.ExpiresAt != nil {
		expires = fromNow(*t.ExpiresAt, now)
	}
	switch {
	case t.Fetching:
		nextTry = "now"
	case t.NextTry != nil:
		nextTry = fromNow(*t.NextTry, now)
	case t.Failing: // the pause is over
		nextTry = "on request"
	}
	return []string{t.endpoint(), t.ClientID, t.shownValues(), t.State, expires, nextTry, t.ID}
}

// mood is about what is wrong, not about the state: a token that nobody uses expires, and that is no fault.
func (t Token) mood() table.Mood {
	switch {
	case t.isRejected(), t.Failing && !t.isLive():
		return table.Bad
	case t.Failing:
		return table.Doubtful
	case t.isLive():
		return table.Good
	}
	return table.Plain
}

// remarks are below the row. hasTwin tells that another one looks the same.
func (t Token) remarks(now time.Time, hasTwin bool) []string {
	var lines []string
	remark := func(name, text string) {
		if text != "" {
			lines = append(lines, name+": "+text)
		}
	}
	if hasTwin {
		remark("subject", t.Subject)
		remark("scope", strings.Join(t.Scopes, " "))
		remark("audience", strings.Join(t.Audience, " "))
		remark("resource", strings.Join(t.Resource, " "))
	}
	if t.isRejected() {
		lines = append(lines, "the upstream rejects the token, first "+ago(*t.RejectedSince, now))
	}
	if t.Fetches == 0 && !t.Fetching && t.State == tokencache.StateNone.String() {
		lines = append(lines, "no token yet: none was asked for")
	}
	failure := t.LastError
	if failure == nil {
		return lines
	}
	last := failure.Error
	if failure.Status != 0 {
		last += " " + strconv.Itoa(failure.Status)
	}
	last += ", " + ago(failure.At, now)
	if !t.Failing { // what helped then does not matter any more
		remark("last error", last+", over")
		return lines
	}
	remark("last error", last)
	remark("detail", failure.Detail)
	remark("the endpoint says", failure.EndpointMessage)
	remark("hint", failure.Hint)
	return lines
}

// fromNow tells when something is or was.
func fromNow(at, now time.Time) string {
	if at.Before(now) {
		return ago(at, now)
	}
	return "in " + shortened(at.Sub(now))
}

// ago tells when something was. It can't have been later than now, which is in whole seconds.
func ago(at, now time.Time) string { return shortened(max(now.Sub(at), 0)) + " ago" }

// shortened writes a time with two units at the most.
func shortened(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Truncate(time.Second); {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}
