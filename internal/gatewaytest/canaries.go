package gatewaytest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// Canaries are secrets by what they are, each with the parts of it that no encoding of text
// changes, so that it is found in whatever form it comes out.
type Canaries struct {
	mu         sync.Mutex
	parts      map[string][]string
	signatures map[string]bool // of assertions, of which there are many
}

// Awkward are characters that encodings treat in ways of their own.
const Awkward = `:+%&=/"<>\é ~`

// Secret makes one whose first and last part are letters and digits.
func (c *Canaries) Secret(name, between string) string {
	sum := sha256.Sum256([]byte(name))
	parts := []string{"Canary" + hex.EncodeToString(sum[:8]), "Yranac" + hex.EncodeToString(sum[8:16])}
	c.Add(name, parts...)
	return parts[0] + between + parts[1]
}

// Add is for a secret that is made elsewhere.
func (c *Canaries) Add(name string, parts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parts == nil {
		c.parts = make(map[string][]string)
	}
	c.parts[name] = parts
}

// AddKey is for the private part of a key.
func (c *Canaries) AddKey(name string, key *ecdsa.PrivateKey) {
	scalar, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	c.Add(name, string(scalar))
}

// WantNone fails if a secret is in the text: as it is or percent-encoded, in JSON or HTML, in
// base64 at any place of either alphabet, or in hexadecimal.
func (c *Canaries) WantNone(t testing.TB, where, text string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == "" {
		t.Errorf("%s: there is nothing to look at", where)
	}
	for _, word := range longWord.FindAllString(text, -1) {
		if c.signatures[word] {
			t.Errorf("%s: the signature of an assertion comes out: %s", where, word)
		}
	}
	for name, parts := range c.parts {
		for _, part := range parts {
			for form, needle := range disguises(part) {
				if at := strings.Index(text, needle); at >= 0 {
					t.Errorf("%s: %s comes out %s: …%q…", where, name, form, text[max(0, at-300):min(len(text), at+len(needle)+50)])
				}
			}
		}
	}
}

var longWord = regexp.MustCompile(`[\w-]{40,}`)

// addAssertion is for what a client has signed.
func (c *Canaries) addAssertion(jwt string) {
	header, rest, _ := strings.Cut(jwt, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	c.Add("an assertion's header", header)
	c.Add("an assertion", payload, signature)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signatures == nil {
		c.signatures = make(map[string]bool)
	}
	c.signatures[signature] = true
}

// disguises are what can be found of a text in an encoding.
func disguises(text string) map[string]string {
	forms := map[string]string{"as it is": text, "in hexadecimal": hex.EncodeToString([]byte(text))}
	forms["in hexadecimal capitals"] = strings.ToUpper(forms["in hexadecimal"])
	for before := range 3 {
		bits := 8 * before
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + text))
		encoded = encoded[(bits+5)/6 : (bits+8*len(text))/6] // what comes before and after has no influence on
		place := " at place " + strconv.Itoa(before)
		forms["in base64"+place] = encoded
		forms["in base64url"+place] = strings.NewReplacer("+", "-", "/", "_").Replace(encoded)
	}
	return forms
}

// SpokenForms are how an endpoint can write what it was sent.
var SpokenForms = []func(string) string{
	func(s string) string { return s },
	url.QueryEscape,
	url.PathEscape,
	func(s string) string {
		return lowerCasePercents.ReplaceAllStringFunc(url.QueryEscape(s), strings.ToLower)
	},
	func(s string) string { return html.EscapeString(s) },
	strconv.QuoteToASCII,
	func(s string) string { text, _ := json.Marshal(s); return string(text) },
	func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	func(s string) string { return base64.StdEncoding.EncodeToString([]byte("x" + s)) },
	func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("xx" + s)) },
	func(s string) string { return hex.EncodeToString([]byte(s)) },
}

var lowerCasePercents = regexp.MustCompile(`%[0-9A-F]{2}`)

// Parrot is a token endpoint that repeats what it was sent.
type Parrot struct {
	*httptest.Server
	*Canaries

	mu      sync.Mutex
	heard   []string // the parts of the last request
	say     func(w http.ResponseWriter, heard []string)
	granted int
}

func StartParrot(t testing.TB, c *Canaries) *Parrot {
	p := &Parrot{Canaries: c}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *Parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	heard, assertion := partsOf(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if assertion != "" {
		p.addAssertion(assertion)
	}
	p.heard = heard
	if p.say != nil {
		p.say(w, heard)
		return
	}
	p.granted++
	value := p.Secret(fmt.Sprint("access token ", p.granted), `-._~+/:%&=<>"\`)
	tokenType := "Bearer"
	if r.Header.Get(dpop.Header) != "" {
		tokenType = endpoint.TypeDPoP
	}
	sendJSON(w, http.StatusOK, map[string]any{"access_token": value, "token_type": tokenType, "expires_in": 3600})
}

func sendJSON(w http.ResponseWriter, status int, members map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(members)
}

// partsOf takes a token request apart: what has credentials in it, as it is and decoded.
func partsOf(r *http.Request) (parts []string, assertion string) {
	body, _ := io.ReadAll(r.Body)
	parts = append(parts, r.URL.RawQuery, string(body))
	for _, name := range []string{"Authorization", "X-Api-Key", dpop.Header} {
		parts = append(parts, r.Header.Get(name))
	}
	if id, secret, ok := r.BasicAuth(); ok {
		parts = append(parts, id+":"+secret)
	}
	form, _ := url.ParseQuery(string(body))
	var members map[string]any
	_ = json.Unmarshal(body, &members)
	for name, value := range members {
		form.Set(name, fmt.Sprint(value))
	}
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if !slices.Contains([]string{"grant_type", "client_id", "client_assertion_type"}, name) {
			parts = append(parts, form.Get(name))
		}
	}
	for _, values := range r.URL.Query() {
		parts = append(parts, values...)
	}
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" }), form.Get("client_assertion")
}

// Says has it answer so from now on; nil lets it grant.
func (p *Parrot) Says(say func(w http.ResponseWriter, heard []string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say = say
}

func (p *Parrot) Parts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.heard)
}

// Perches are where an answer can have a text.
var Perches = []func(w http.ResponseWriter, text string){
	func(w http.ResponseWriter, text string) {
		sendJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_request", "error_description": text})
	},
	func(w http.ResponseWriter, text string) {
		sendJSON(w, http.StatusUnauthorized, map[string]any{"error": text})
	},
	func(w http.ResponseWriter, text string) {
		w.Header().Set("Location", (&url.URL{Scheme: "https", Host: "login.example.com", Path: "/" + text}).String())
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
	func(w http.ResponseWriter, text string) {
		sendJSON(w, http.StatusOK, map[string]any{"access_token": "abc", "token_type": text, "scope": text})
	},
}

// Speeches are answers with all that was heard at once, of which nothing is to be seen.
var Speeches = []func(w http.ResponseWriter, text string){
	func(w http.ResponseWriter, text string) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<html>%s", text)
	},
	func(w http.ResponseWriter, text string) {
		w.Header().Set("WWW-Authenticate", "Basic realm="+strconv.QuoteToASCII(text)+", error="+strconv.QuoteToASCII(text))
		w.WriteHeader(http.StatusUnauthorized)
	},
	func(w http.ResponseWriter, text string) {
		w.Header().Set("Location", "https://login.example.com/?"+url.QueryEscape(text)+"#"+url.QueryEscape(text))
		w.WriteHeader(http.StatusFound)
	},
	func(w http.ResponseWriter, text string) { fmt.Fprint(w, text) },
	func(w http.ResponseWriter, text string) {
		sendJSON(w, http.StatusOK, map[string]any{"access_token": text, "token_type": "Bearer", "expires_in": text})
	},
	func(w http.ResponseWriter, text string) { // what an upload of tokens could be mistaken for
		sendJSON(w, http.StatusOK, map[string]any{"access_token": "abc", "token_type": []string{text}, "scope": []string{text}, "error": map[string]string{text: text}})
	},
}

// TenantSecret is the header in which tenants send theirs.
const TenantSecret = "X-Tenant-Secret"

// Quoted is an argument of a Caddyfile.
func Quoted(text string) string { return "`" + text + "`" }

// WithoutRepeats returns the log without what Caddy logs by its own design. At debug level, reverse_proxy logs all
// header fields but those that it knows to be secret. Access logs have the clients' header fields. Both have what the
// API itself repeats in its answer. At debug level, automatic HTTPS logs the configuration as it is written, without
// the values of placeholders.
func WithoutRepeats(g *Gateway) string {
	g.T.Helper()
	var kept strings.Builder
	for line := range strings.Lines(g.Logs.All()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			g.T.Fatalf("%v in %s", err, line)
		}
		logger, _ := entry["logger"].(string)
		if logger == "http.auto_https" && entry["msg"] == "adjusted config" {
			continue
		}
		fromProxy, isAccess := logger == "http.handlers.reverse_proxy", strings.HasPrefix(logger, "http.log.")
		if request, ok := entry["request"].(map[string]any); ok && (fromProxy || isAccess) {
			header, _ := request["headers"].(map[string]any)
			delete(header, TenantSecret)
			if fromProxy {
				delete(header, "X-Api-Token")
				delete(header, dpop.Header)
			}
		}
		for name, by := range map[string]bool{"headers": fromProxy, "resp_headers": isAccess} {
			if header, ok := entry[name].(map[string]any); ok && by {
				delete(header, "X-Echo")
				delete(header, "Www-Authenticate")
			}
		}
		text, err := json.Marshal(entry)
		if err != nil {
			g.T.Fatal(err)
		}
		kept.Write(append(text, '\n'))
	}
	return kept.String()
}
