package oauthcc

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// placeholders resolves option values and keeps the first error.
type placeholders struct {
	repl *caddy.Replacer
	err  error
}

func (p *placeholders) value(option, input string) string {
	output, err := p.repl.ReplaceFunc(input, func(name string, value any) (any, error) {
		if !isStaticPlaceholder(name) {
			return nil, fmt.Errorf("unknown placeholder%s; use {env.*} or {file./path/to/file}, and write \\{ for a literal brace", showPlaceholder(option, name))
		}
		if caddy.ToString(value) == "" {
			return nil, fmt.Errorf("placeholder {%s} is empty; set the variable, or make the file readable and not empty", name)
		}
		return value, nil
	})
	if err == nil && unclosedBrace.MatchString(input) {
		err = errors.New("a brace is not closed; close the placeholder, and write \\{ for a literal brace")
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s: %w", option, err)
	}
	return output
}

func (p *placeholders) values(option string, inputs []string) []string {
	outputs := make([]string, len(inputs))
	for i, input := range inputs {
		outputs[i] = p.value(option, input)
	}
	return outputs
}

func (p *placeholders) named(option string, inputs map[string][]string) map[string][]string {
	outputs := make(map[string][]string, len(inputs))
	for name, values := range inputs {
		outputs[name] = p.values(option+" "+name, values)
	}
	return outputs
}

// unclosedBrace finds a brace that opens a placeholder and is never closed, which the
// replacer takes literally.
var unclosedBrace = regexp.MustCompile(`(^|[^\\])\{[^}]*$`)

// showPlaceholder is an unknown placeholder as messages may tell it: what is in braces
// can be a part of a secret, unless it looks like a placeholder of Caddy's.
func showPlaceholder(option, name string) string {
	isPublic := option != "client_secret" && !strings.Contains(option, " ") // param <name>
	if isPublic || strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "time.") {
		return " {" + name + "}"
	}
	return ""
}

// isStaticPlaceholder reports whether the placeholder has the same value for every
// request. Those of time would make each token request another grant.
func isStaticPlaceholder(name string) bool {
	return strings.HasPrefix(name, "env.") || strings.HasPrefix(name, "file.") || strings.HasPrefix(name, "system.")
}
