package oauthcc

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// writeJSON writes results for programs.
func writeJSON(out io.Writer, results []checkResult) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(results)
}

// writeTable writes results for people: a row each, and below it what there is to say of it.
func writeTable(out io.Writer, results []checkResult) error {
	rows := append(make([][]string, 0, 1+len(results)), []string{"ENDPOINT", "CLIENT", "METHOD", "RESULT", "TYPE", "LIFETIME", "SCOPE"})
	for _, r := range results {
		rows = append(rows, r.row())
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	for i, row := range rows {
		var line strings.Builder
		for j, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+2))
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		if i > 0 {
			for _, remark := range results[i-1].remarks() {
				text.WriteString("    " + remark + "\n")
			}
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func (r checkResult) row() []string {
	result, lifetime := r.Result, ""
	switch {
	case r.Result == resultNotChecked:
		result = "not checked"
	case r.Status != 0:
		result += " " + strconv.Itoa(r.Status)
	case r.Lifetime != 0:
		lifetime = (time.Duration(r.Lifetime) * time.Second).String()
	case r.Result == resultOK:
		lifetime = "unknown"
	}
	endpoint := r.Endpoint
	if endpoint == "" {
		endpoint = r.Issuer
	}
	row := []string{endpoint, r.ClientID, r.AuthMethod, result, r.TokenType, lifetime, r.Scope}
	for i, cell := range row {
		if row[i] = quote(func(text string) string { return text }, cell); cell == "" {
			row[i] = "-"
		}
	}
	return row
}

// remarks are the lines below a row.
func (r checkResult) remarks() []string {
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
