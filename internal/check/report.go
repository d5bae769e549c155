package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
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
	heading := []string{"ENDPOINT", "CLIENT", "METHOD", "RESULT", "TYPE", "LIFETIME", "SCOPE"}
	widths := make([]int, len(heading)) // in characters, as scopes and ids need not be ASCII
	measure := func(row []string) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	measure(heading)
	rows := make([][]string, 0, len(results))
	for _, r := range results {
		row := r.row()
		measure(row)
		rows = append(rows, row)
	}
	var text strings.Builder
	// Not text/tabwriter, whose columns end at a line without tabs, such as a remark.
	write := func(row []string) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	write(heading)
	for i, row := range rows {
		write(row)
		for _, remark := range results[i].remarks() {
			text.WriteString("    " + remark + "\n")
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// row returns the cells of a result. They are quoted, as scopes come from the endpoint and could
// contain control characters of a terminal.
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
	endpoint := r.Endpoint
	if endpoint == "" {
		endpoint = r.Issuer // it has not named an endpoint
	}
	row := []string{endpoint, r.ClientID, r.AuthMethod, result, r.TokenType, lifetime, r.Scope}
	for i, cell := range row {
		if row[i] = (mask.Secrets{}).Quote(cell); cell == "" {
			row[i] = "-"
		}
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
