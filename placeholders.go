package oauthcc

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// placeholders resolves option values and keeps the first error.
type placeholders struct {
	repl    *caddy.Replacer
	request standIn
	err     error
}

// standIn tells what a placeholder of the request stands for.
type standIn func(use placeholderUse) (string, error)

// placeholderUse is a placeholder where it is used.
type placeholderUse struct {
	option, name string
	place        place
}

// value is for an option that is the same for every request.
func (p *placeholders) value(option, input string) string {
	return p.replace(option, input, func(use placeholderUse) (string, error) {
		if isRequestPlaceholder(use.name) {
			return "", fmt.Errorf("placeholder {%s} differs from request to request, which this option can't; use {env.*} or {file./path/to/file}", use.name)
		}
		return "", unknownPlaceholder(use)
	})
}

// perRequest is for an option that can differ from request to request.
func (p *placeholders) perRequest(option, input string) string {
	return p.replace(option, input, p.request)
}

func (p *placeholders) replace(option, input string, request standIn) string {
	var uses []placeholderUse
	output, err := p.repl.ReplaceFunc(input, func(name string, value any) (any, error) {
		if !isStaticPlaceholder(name) {
			uses = append(uses, placeholderUse{option: option, name: name})
			return placeMark, nil
		}
		switch text := caddy.ToString(value); {
		case text == "":
			return nil, fmt.Errorf("placeholder {%s} is empty; set the variable, or make the file readable and not empty", name)
		case strings.HasPrefix(name, filePlaceholder) && len(text) >= maxFile-len("\r\n"):
			return nil, fmt.Errorf("placeholder {%s} has 1 MiB or more, and Caddy reads no more of a file; name a smaller file", name)
		}
		return value, nil
	})
	if err == nil && len(uses) > 0 {
		output, err = fill(output, uses, request)
	}
	if err == nil && unclosedBrace.MatchString(input) {
		err = errors.New("a brace is not closed; close the placeholder, and write \\{ for a literal brace")
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s: %w", option, err)
	}
	return output
}

// filePlaceholder is what placeholders of files begin with.
const filePlaceholder = "file."

// maxFile is how much Caddy reads of a file, in bytes, without a word about the rest. Then it takes a line break away
// from the end, also of what it has cut.
const maxFile = 1 << 20

// fill puts what the placeholders of the request stand for in place of the marks in a text, which has no
// others left. So nothing that a client sent is searched for placeholders.
func fill(text string, uses []placeholderUse, request standIn) (string, error) {
	parts := strings.Split(text, placeMark)
	if len(parts) != len(uses)+1 {
		return "", errors.New("a variable or a file has the character U+E001, which can't stand beside a placeholder of the request; remove it")
	}
	if err := findPlaces(text, uses); err != nil {
		return "", err
	}
	var output strings.Builder
	for i, use := range uses {
		value, err := request(use)
		if err != nil {
			return "", err
		}
		output.WriteString(parts[i])
		output.WriteString(use.place.escape(value))
	}
	output.WriteString(parts[len(uses)])
	return output.String(), nil
}

func (p *placeholders) values(option string, inputs []string) []string {
	outputs := make([]string, len(inputs))
	for i, input := range inputs {
		outputs[i] = p.perRequest(option, input)
	}
	return outputs
}

func (p *placeholders) valuesByName(option string, inputs map[string][]string) map[string][]string {
	outputs := make(map[string][]string, len(inputs))
	for _, name := range slices.Sorted(maps.Keys(inputs)) { // the same order whenever it is done
		outputs[name] = p.values(option+" "+name, inputs[name])
	}
	return outputs
}

// unclosedBrace finds a brace that opens a placeholder and is never closed, which the
// replacer takes literally.
var unclosedBrace = regexp.MustCompile(`(^|[^\\])\{[^}]*$`)

// unknownPlaceholder refuses what no placeholder can be meant with.
func unknownPlaceholder(use placeholderUse) error {
	return fmt.Errorf("unknown placeholder%s; use {env.*}, {file./path/to/file}, a placeholder of the request such as "+
		"{http.request.header.X-Tenant} or one that a map sets, and write \\{ for a literal brace", showPlaceholder(use.option, use.name))
}

// showPlaceholder is an unknown placeholder as messages may tell it: what is in braces
// can be a part of a secret, unless it looks like a placeholder of Caddy's.
func showPlaceholder(option, name string) string {
	isPublic := option != "client_secret" && option != "client_assertion" && !strings.Contains(option, " ") // param <name>
	if isPublic || strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "time.") {
		return " {" + name + "}"
	}
	return ""
}

// isStaticPlaceholder reports whether the placeholder has the same value for every
// request. Those of time would make each token request another grant.
func isStaticPlaceholder(name string) bool {
	return strings.HasPrefix(name, "env.") || strings.HasPrefix(name, filePlaceholder) || strings.HasPrefix(name, "system.")
}

// isRequestPlaceholder reports whether the placeholder is one of Caddy's for requests.
// What others set is only known from where they are configured.
func isRequestPlaceholder(name string) bool {
	return strings.HasPrefix(name, "http.")
}
