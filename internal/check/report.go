package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
)

// WriteJSON writes results for programs, as an indented list.
func WriteJSON(out io.Writer, results []Result) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false) // hints contain <…>, and people read them
	encoder.SetIndent("", "  ")
	return encoder.Encode(results)
}

// WriteTable writes results for people: a row for each, and its remarks below it.
func WriteTable(out io.Writer, results []Result) error {
	t := table.Table{Columns: []table.Column{
		{Name: "ENDPOINT", Least: 24}, {Name: "CLIENT", Least: 10}, {Name: "METHOD"}, {Name: "RESULT", Tells: true}, {Name: "TYPE"}, {Name: "LIFETIME"},
		{Name: "SCOPE", Least: 10},
	}}
	for _, r := range results {
		t.Rows = append(t.Rows, table.Row{Cells: r.row(), Mood: r.mood(), Remarks: r.remarks(), See: r.Help})
	}
	return t.Write(out, table.StyleOf(out))
}

// mood returns the colour of the result.
func (r Result) mood() table.Mood {
	switch {
	case r.failed():
		return table.Bad
	case r.Result == resultGranted:
		return table.Good
	}
	return table.Plain
}

// row returns the cells of a result. They are quoted, as scopes come from the endpoint and could
// look like a token.
func (r Result) row() []string {
	result, lifetime := r.Result, ""
	switch {
	case r.Result == resultNotChecked:
		result = "not checked"
	case r.Status != 0:
		result += " " + strconv.Itoa(r.Status)
	case r.Lifetime != 0:
		lifetime = (time.Duration(r.Lifetime) * time.Second).String()
	case r.Result == resultGranted:
		lifetime = "unknown"
	}
	address := r.Endpoint
	if address == "" {
		address = r.Issuer // it has not named an endpoint
	}
	method := r.AuthMethod
	switch {
	case r.Grant != "" && method == endpoint.AuthNone:
		method = r.Grant // which is how the client proves who it is
	case r.Grant != "":
		method += ", " + r.Grant
	}
	row := []string{address, r.ClientID, method, result, r.TokenType, lifetime, r.Scope}
	for i, cell := range row {
		row[i] = (mask.Secrets{}).Quote(cell)
	}
	return row
}

// remarks returns the lines below a row.
func (r Result) remarks() []string {
	var lines []string
	for _, remark := range []struct{ name, text string }{
		{"detail", r.Detail}, {"the endpoint says", r.EndpointMessage}, {"hint", r.Hint},
	} {
		if remark.text != "" {
			lines = append(lines, remark.name+": "+remark.text)
		}
	}
	if r.RetryAfter > 0 {
		lines = append(lines, fmt.Sprintf("note: the endpoint asks to be left alone for %s", time.Duration(r.RetryAfter)*time.Second))
	}
	for _, note := range r.Notes {
		lines = append(lines, "note: "+note)
	}
	return lines
}

// Summarize returns an error if a token was asked for and not granted. Grants that were not checked
// don't count.
func Summarize(results []Result) error {
	asked, failed := 0, 0
	for _, r := range results {
		if r.Result != resultNotChecked {
			asked++
		}
		if r.failed() {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("no token for %d of %d grants", failed, asked)
	}
	return nil
}
