package oauthcc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// canaries are secrets by what they are, each with the parts of it that no encoding of text
// changes, so that it is found in whatever form it comes out.
type canaries struct {
	mu         sync.Mutex
	parts      map[string][]string
	signatures map[string]bool // of assertions, of which there are many
}

// awkward are characters that encodings treat in ways of their own.
const awkward = `:+%&=/"<>\é ~`

// secret makes one whose first and last part are letters and digits.
func (c *canaries) secret(name, between string) string {
	sum := sha256.Sum256([]byte(name))
	parts := []string{"Canary" + hex.EncodeToString(sum[:8]), "Yranac" + hex.EncodeToString(sum[8:16])}
	c.add(name, parts...)
	return parts[0] + between + parts[1]
}

// add is for a secret that is made elsewhere.
func (c *canaries) add(name string, parts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parts == nil {
		c.parts = make(map[string][]string)
	}
	c.parts[name] = parts
}

// addKey is for the private part of a key.
func (c *canaries) addKey(name string, key *ecdsa.PrivateKey) {
	scalar, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	c.add(name, string(scalar))
}

// wantNone fails if a secret is in the text: as it is or percent-encoded, in JSON or HTML, in
// base64 at any place of either alphabet, or in hexadecimal.
func (c *canaries) wantNone(t testing.TB, where, text string) {
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
func (c *canaries) addAssertion(jwt string) {
	header, rest, _ := strings.Cut(jwt, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	c.add("an assertion's header", header)
	c.add("an assertion", payload, signature)
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

// spokenForms are how an endpoint can write what it was sent.
var spokenForms = []func(string) string{
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

// parrot is a token endpoint that repeats what it was sent.
type parrot struct {
	*httptest.Server
	*canaries

	mu      sync.Mutex
	heard   []string // the parts of the last request
	say     func(w http.ResponseWriter, heard []string)
	granted int
}

func startParrot(t testing.TB, c *canaries) *parrot {
	p := &parrot{canaries: c}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	value := p.secret(fmt.Sprint("access token ", p.granted), `-._~+/:%&=<>"\`)
	tokenType := "Bearer"
	if r.Header.Get(proofHeader) != "" {
		tokenType = typeDPoP
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
	for _, name := range []string{"Authorization", "X-Api-Key", proofHeader} {
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

// says has it answer so from now on; nil lets it grant.
func (p *parrot) says(say func(w http.ResponseWriter, heard []string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say = say
}

func (p *parrot) parts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.heard)
}

// perches are where an answer can have a text.
var perches = []func(w http.ResponseWriter, text string){
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

// speeches are answers with all that was heard at once, of which nothing is to be seen.
var speeches = []func(w http.ResponseWriter, text string){
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

// aviary is a gateway with a secret of every kind.
type aviary struct {
	*gateway
	*canaries
	parrot *parrot
	api    *httptest.Server
	root   string // of the storage
	seen   strings.Builder
}

// tenantSecret is the header in which tenants send theirs.
const tenantSecret = "X-Tenant-Secret"

// quoted is an argument of a Caddyfile.
func quoted(text string) string { return "`" + text + "`" }

// route is one with a grant of its own.
func (a *aviary) route(name, options string) string {
	query := "?key=" + url.QueryEscape(a.secret("endpoint's query of "+name, awkward))
	return "handle /" + name + "/* {\noauth_cc " + a.parrot.URL + "/" + name + query + " {\nclient_id app\n" + options + "\n}\n" +
		"handle /*/down {\nreverse_proxy 127.0.0.1:1\n}\n" + proxyTo(a.api, dialAnew) + "}\n"
}

func (a *aviary) site(keyFile string) string {
	secret := func(name string) string {
		return "client_secret " + quoted(a.secret("client secret of "+name, awkward)) + "\n"
	}
	var site strings.Builder
	site.WriteString("log\nlog_append oauth_status {http.oauth_cc.status}\nlog_append oauth_error {http.oauth_cc.error}\nlog_append why {http.error.message}\n" +
		"tracing {\nspan gateway\n}\nhandle_errors {\nrespond \"{err.status_code} {err.status_text} {err.message} {err.trace} {err.id} " +
		"{http.oauth_cc.error} {http.oauth_cc.status} {http.request.header.X-Api-Token}\"\n}\nhandle /metrics {\nmetrics\n}\n")
	for name, options := range map[string]string{
		"basic": secret("basic") + "param api_key " + quoted(a.secret("parameter", awkward)) + "\nrequest_header X-Api-Key " + quoted(a.secret("request header", awkward)) + "\nscope orders",
		"raw":   "auth_method client_secret_basic_raw\n" + secret("raw"),
		"post":  "auth_method client_secret_post\n" + secret("post"),
		"json":  "auth_method client_secret_post\nrequest_format json\n" + secret("json"),
		"jwt":   "auth_method client_secret_jwt\n" + secret("jwt"),
		"key":   "auth_method private_key_jwt\nsigning_key " + keyFile,
		"mask":  "token_header X-Api-Token\nmask_rejection\n" + secret("mask"),
		"bound": "dpop " + a.api.URL + "\n" + secret("bound"),
		"store": "storage file_system " + a.root + "\n" + secret("store"),
	} {
		site.WriteString(a.route(name, options))
	}
	site.WriteString(strings.Replace(a.route("tenant", "client_secret {http.request.header."+tenantSecret+"}"), "client_id app", "client_id {http.request.header.X-Tenant}", 1))
	return site.String()
}

var aviaryRoutes = []string{"basic", "raw", "post", "json", "jwt", "key", "mask", "bound", "store", "tenant"}

// visit sends a request to a route, and looks at the answer unless the API repeats the token
// in it.
func (a *aviary) visit(route, path string) answer {
	a.t.Helper()
	req := clientRequest(a.t, http.MethodPost, a.url("/"+route+"/"+path), strings.NewReader("payload"))
	req.Header.Set("Authorization", "Bearer "+a.secret("client's own token", awkward))
	if route == "tenant" {
		req.Header.Set("X-Tenant", "acme")
		req.Header.Set(tenantSecret, a.secret("tenant's secret", `:+%&=/"<>\ ~`))
	}
	got := a.do(req)
	if path != "rejected" {
		a.note(got)
	}
	return got
}

func (a *aviary) note(got answer) {
	fmt.Fprintln(&a.seen, got.status, got.header, got.body, got.trailer)
}

// operate asks the admin endpoint.
func (a *aviary) operate(method, path string) answer {
	a.t.Helper()
	got := a.ask(method, path)
	a.note(got)
	return got
}

func startAviary(t *testing.T) *aviary {
	c := new(canaries)
	a := &aviary{canaries: c, parrot: startParrot(t, c), root: t.TempDir()}
	a.api = startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/rejected") {
			return
		}
		for _, name := range []string{"Authorization", "X-Api-Token"} {
			sent := r.Header.Get(name)
			w.Header().Add("X-Echo", sent)
			w.Header().Add("WWW-Authenticate", "Bearer error="+strconv.QuoteToASCII(sent)+", error_description="+strconv.QuoteToASCII(sent))
		}
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, r.Header)
	})
	key := testKeys()["P-256"].(*ecdsa.PrivateKey)
	c.addKey("signing key", key)
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	writeFile(t, keyFile, pkcs8(t, key))
	c.holdProofKey(t)
	seenEvents.mu.Lock()
	seenEvents.events, seenEvents.hold = nil, nil
	seenEvents.mu.Unlock()
	a.gateway = startGatewayWithAdmin(t, "")
	a.events = "events {\non * oauth_cc_test\n}\nmetrics"
	a.reload(a.site(keyFile))
	return a
}

// holdProofKey has the process use a key of the test's for proofs.
func (c *canaries) holdProofKey(t *testing.T) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, known, err := proofKeys.LoadOrNew(proofKeyName, func() (caddy.Destructor, error) { return proofKeyOf(private) })
	if err != nil || known {
		t.Fatalf("%v, or another test has left its key", err)
	}
	t.Cleanup(func() { _ = releaseProofKey() })
	c.addKey("key of proofs", private)
}

// logged is what was logged, but for what Caddy logs of headers by its own design:
// reverse_proxy at debug level all but those that it knows to be secret, access logs those of
// clients, and both what the API itself repeats in its answer. Likewise at debug level
// automatic HTTPS logs the configuration as it is written; what placeholders stand for is not
// in that.
func (g *gateway) logged() string {
	g.t.Helper()
	var kept strings.Builder
	for line := range strings.Lines(g.logs.all()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			g.t.Fatalf("%v in %s", err, line)
		}
		logger, _ := entry["logger"].(string)
		if logger == "http.auto_https" && entry["msg"] == "adjusted config" {
			continue
		}
		fromProxy, isAccess := logger == "http.handlers.reverse_proxy", strings.HasPrefix(logger, "http.log.")
		if request, ok := entry["request"].(map[string]any); ok && (fromProxy || isAccess) {
			header, _ := request["headers"].(map[string]any)
			delete(header, tenantSecret)
			if fromProxy {
				delete(header, "X-Api-Token")
				delete(header, proofHeader)
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
			g.t.Fatal(err)
		}
		kept.Write(append(text, '\n'))
	}
	return kept.String()
}

// TestNoSecretComesOut has everything happen to a gateway of which its operators and clients
// are told.
func TestNoSecretComesOut(t *testing.T) {
	spans := collectSpans(t)
	a := startAviary(t)
	for _, route := range aviaryRoutes {
		for _, path := range []string{"ok", "rejected", "rejected", "down"} {
			a.visit(route, path)
		}
	}
	a.operate(http.MethodGet, "tokens")
	for _, s := range a.list() {
		a.endure(s)
	}
	a.operate(http.MethodGet, "tokens")
	a.operate(http.MethodGet, "ready")
	a.parrot.says(nil)
	for _, s := range a.list() {
		a.operate(http.MethodDelete, "tokens/"+s.ID)
	}
	for _, route := range aviaryRoutes {
		if got := a.visit(route, "ok"); got.status != http.StatusOK {
			t.Errorf("%s: got %d", route, got.status)
		}
	}
	a.operate(http.MethodGet, "tokens")
	a.wantNone(t, "an answer", a.seen.String())
	a.wantNone(t, "the metrics", a.get("/metrics").body)
	a.wantNone(t, "the log", a.logged())
	awaitCondition(t, "the token is stored", func() bool { return len(stored(t, a.root)) > 0 })
	a.wantNone(t, "the storage", fmt.Sprint(stored(t, a.root)))
	a.wantNone(t, "the traces", spans.text())
	a.wantNone(t, "the events", eventText())
}

// endure has the endpoint of a grant repeat all that it is sent, in all ways.
func (a *aviary) endure(s tokenStatus) {
	a.t.Helper()
	again := func() {
		if s.Values == nil {
			a.operate(http.MethodPost, "tokens/"+s.ID+"/refresh")
			return
		}
		a.operate(http.MethodDelete, "tokens/"+s.ID)
		a.visit("tenant", "ok")
	}
	for _, speak := range speeches {
		a.parrot.says(func(w http.ResponseWriter, heard []string) { speak(w, strings.Join(heard, " ")) })
		again()
	}
	forms := spokenForms
	if s.Values != nil { // one client_secret is like another
		forms = forms[:3]
	}
	for _, perch := range perches {
		for part := range a.parrot.parts() {
			for _, form := range forms {
				a.parrot.says(func(w http.ResponseWriter, heard []string) { perch(w, form(heard[part])) })
				again()
			}
		}
	}
}

func (c *spanCollector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var text strings.Builder
	for _, span := range c.spans {
		fmt.Fprintln(&text, span.Name, span.Attributes, span.Events, span.Status, span.Resource)
	}
	return text.String()
}

func eventText() string {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	var text strings.Builder
	for _, event := range seenEvents.events {
		fmt.Fprintln(&text, event.Name(), event.Data)
	}
	return text.String()
}
