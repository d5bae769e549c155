package endpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// This file lists what must not be shown of the endpoint's words. Servers often repeat what they were
// sent, and sometimes what they have granted.

// secrets are the credentials of a request: the client's secret, and the values of parameters, of header
// fields and in the endpoint's query, which can be API keys. What says who asks where for what stays
// readable.
func (r Request) secrets() mask.Secrets {
	s := mask.Secrets{Certain: append([]string{r.ClientSecret}, r.Hidden...)}
	if r.ClientSecret != "" { // as in HTTP Basic, which is also cut off in places where no whole character is
		s.Certain = append(s.Certain,
			base64.StdEncoding.EncodeToString([]byte(r.ClientID+":"+r.ClientSecret)),
			base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(r.ClientID)+":"+url.QueryEscape(r.ClientSecret))))
	}
	for name, values := range r.Params {
		switch {
		case namesType(name):
		case slices.Contains(credentialParams, name):
			s.Certain = append(s.Certain, values...)
		default:
			s.Possible = append(s.Possible, values...)
		}
	}
	for _, values := range r.Headers {
		for _, value := range values {
			s.Possible = append(append(s.Possible, value), schemeCredentials(value)...)
		}
	}
	s.Possible = append(s.Possible, queryValues(r.Endpoint)...)
	if r.Grant != nil {
		s.Possible = slices.AppendSeq(s.Possible, maps.Values(r.Grant.Claims))
	}
	s.Public = slices.Concat([]string{r.ClientID}, r.Scopes, r.Audience, r.Resource, publicParts(r.Endpoint), publicParts(r.Issuer))
	s.Public = slices.DeleteFunc(s.Public, func(public string) bool {
		return slices.ContainsFunc(r.Hidden, func(hidden string) bool { return strings.Contains(public, hidden) })
	})
	return s
}

// credentialParams are the parameters that have a credential by their definition (RFC 6749 §4.3.2 and §6, RFC 8693 §2.1).
var credentialParams = []string{"password", "refresh_token", "subject_token", "actor_token"}

// schemeCredentials returns what is secret in the value of a header field of the form of Authorization (RFC
// 9110 §11.4): what follows the scheme, and the password of HTTP Basic.
func schemeCredentials(value string) []string {
	scheme, credentials, found := strings.Cut(strings.TrimSpace(value), " ")
	if !found {
		return nil
	}
	credentials = strings.TrimSpace(credentials)
	if !strings.EqualFold(scheme, "Basic") {
		return []string{credentials}
	}
	plain, _ := base64.StdEncoding.DecodeString(credentials)
	_, password, _ := strings.Cut(string(plain), ":")
	return []string{credentials, string(plain), password}
}

// queryValues returns the values in a URL's query, as they are written and as they are read. A name without a
// value counts as one.
func queryValues(raw string) []string {
	raw, _, _ = strings.Cut(raw, "#")
	_, query, _ := strings.Cut(raw, "?")
	pairs := strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' })
	values := make([]string, 0, 2*len(pairs))
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if value == "" {
			value = name
		}
		plain, _ := url.QueryUnescape(value)
		values = append(values, value, plain)
	}
	return values
}

// publicParts returns what everyone may see of a URL: without its query, and the domains that it is in.
func publicParts(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil
	}
	parts := []string{DisplayURL(u), u.Host, u.EscapedPath(), u.Path}
	for domain := u.Hostname(); ; {
		_, rest, found := strings.Cut(domain, ".")
		if !found || !strings.Contains(rest, ".") {
			return parts
		}
		domain = rest
		parts = append(parts, domain, "."+domain+"/")
	}
}

// maxTokens bounds the search for tokens in an answer.
const maxTokens = 16

// tokensIn returns the tokens in an answer. There can be more than an access token, and they can be anywhere. If
// tokenName is not empty, the members with this name have tokens, too.
func tokensIn(body []byte, tokenName string) (tokens []string) {
	// JSON is searched and not read, as all of it would take many times its memory.
	var named []string // those of tokenName, which others must not crowd out
	for rest := body; len(tokens) < maxTokens || tokenName != "" && len(named) < maxTokens; {
		found := jsonMember.FindSubmatchIndex(rest)
		if found == nil {
			break
		}
		var value string
		name, raw := string(rest[found[2]:found[3]]), rest[found[4]:found[5]]
		switch isToken := namesToken(name); {
		case name != tokenName && (!isToken || len(tokens) >= maxTokens) || json.Unmarshal(raw, &value) != nil:
		case name == tokenName && len(named) < maxTokens:
			named = append(named, value)
		case isToken && len(tokens) < maxTokens:
			tokens = append(tokens, value)
		}
		rest = rest[found[5]:]
	}
	if tokens = append(named, tokens...); len(tokens) > 0 {
		return tokens
	}
	form, _ := url.ParseQuery(strings.TrimSpace(string(body))) // what could be read of it
	for name, values := range form {
		if namesToken(name) {
			tokens = append(tokens, values...)
		}
	}
	return tokens[:min(len(tokens), maxTokens)]
}

// stringsIn returns the first strings in a JSON value.
func stringsIn(value json.RawMessage) (list []string) {
	decoder := json.NewDecoder(bytes.NewReader(value))
	for len(list) < maxTokens {
		token, err := decoder.Token()
		if err != nil {
			break
		}
		if text, ok := token.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

// jsonMember finds a member of an object with a string for a value.
var jsonMember = regexp.MustCompile(`"([A-Za-z0-9_. -]{1,64})"\s*:\s*("(?:[^"\\]|\\.)*")`)

// namesToken reports whether a member of this name has a token or another credential.
func namesToken(name string) bool {
	name = strings.ToLower(separators.Replace(name))
	return slices.ContainsFunc([]string{"token", "secret", "assertion", "password", "apikey", "jwt"}, func(end string) bool { return strings.HasSuffix(name, end) })
}
