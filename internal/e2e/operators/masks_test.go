package operators

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// mimic is a token endpoint that repeats what is secret of the client whose path is asked, in one way after the
// other and in different places of its answer.
type mimic struct {
	secrets map[string]string // by path
	echo    atomic.Pointer[func(string) string]
	place   atomic.Int32
}

// mimicPlaces are where its answer has the secret.
var mimicPlaces = []func(w http.ResponseWriter, text string){
	gatewaytest.Perches[0], gatewaytest.Perches[1], gatewaytest.Perches[2], gatewaytest.Perches[3],
	func(w http.ResponseWriter, text string) { // in another form than OAuth's
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"title": "no", "detail": text}}})
	},
	func(w http.ResponseWriter, text string) { // in a form
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, url.Values{"error": {"invalid_request"}, "error_description": {text}}.Encode())
	},
	func(w http.ResponseWriter, text string) { // in no form
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("WWW-Authenticate", "Basic realm="+strconv.QuoteToASCII(text))
		w.Header().Set("Retry-After", strconv.QuoteToASCII(text))
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, text)
	},
}

func (m *mimic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mimicPlaces[int(m.place.Load())%len(mimicPlaces)](w, (*m.echo.Load())(m.secrets[r.URL.Path]))
}

// mimicSite has a client for each awkward secret, which is its client_secret or a parameter.
func mimicSite(t *testing.T, m *mimic, endpoint string) string {
	var site strings.Builder
	folder := t.TempDir()
	for i, kind := range slices.Sorted(maps.Keys(servertest.AwkwardSecrets)) {
		secret := servertest.AwkwardSecrets[kind]
		name := filepath.Join(folder, strconv.Itoa(i))
		servertest.WriteFile(t, name, secret)
		option := "auth_method client_secret_post\nclient_secret {file." + name + "}"
		if i%3 == 2 {
			option = "auth_method none\nparam key {file." + name + "}"
		}
		path := "/" + strconv.Itoa(i)
		m.secrets[path] = secret
		fmt.Fprintf(&site, "handle %s {\noauth_cc %s%s {\nclient_id app%s\nrefresh_ahead off\n%s\n}\nrespond fine\n}\n", path, endpoint, path, strings.ReplaceAll(path, "/", "-"), option)
	}
	return site.String()
}

// TestNoRunOfARepeatedSecretComesOut has an endpoint repeat each awkward secret in all ways, and looks for
// parts of it in the log, at the admin endpoint, in events and in what a check prints.
func TestNoRunOfARepeatedSecretComesOut(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	m := &mimic{secrets: make(map[string]string)}
	endpoint := httptest.NewServer(m)
	t.Cleanup(endpoint.Close)
	site := mimicSite(t, m, endpoint.URL)
	config := gatewaytest.CaddyfileWith(t, site)
	gatewaytest.ForgetEvents()
	g := gatewaytest.StartWithAdmin(t, "")
	g.Events = "events {\non * oauth_cc_test\n}"
	g.Reload(site)
	var printed strings.Builder
	tokens := g.Tokens()
	ask := func(echo func(string) string) {
		m.echo.Store(&echo)
		n := int(m.place.Add(1))
		for i, token := range tokens {
			if (i+n)%2 == 0 { // to save time; the next echo is for the others
				g.Ask(http.MethodPost, "tokens/"+token.ID+"/refresh")
			}
		}
		if n%4 == 0 {
			flags := []string{"--config", config}
			if n%8 == 0 {
				flags = append(flags, "--json")
			}
			out, _ := gatewaytest.CheckCommand(t, flags...)
			printed.WriteString(out)
		}
	}
	for range 2 * len(mimicPlaces) {
		ask(func(string) string { return "no echo" })
	}
	harmless := printed.String() + spoken(g.Logs.All(), "") + gatewaytest.EventText() + g.Ask(http.MethodGet, "tokens").Body
	printed.Reset()
	for _, name := range slices.Sorted(maps.Keys(servertest.Echoes)) {
		ask(servertest.Echoes[name])
	}
	words := slices.Compact(slices.Sorted(strings.FieldsSeq(gatewaytest.EventText())))
	events, listed := strings.Join(words, " "), g.Ask(http.MethodGet, "tokens").Body
	for path, secret := range m.secrets {
		client := "app-" + path[1:]
		for where, text := range map[string]string{
			"the log":    spoken(g.Logs.All(), client),
			"the check":  ownLines(printed.String(), client),
			"the events": events, "the admin endpoint": listed,
		} {
			if text == "" {
				t.Errorf("%s: there is nothing of %s", where, client)
			}
			if run := servertest.LeakedRun(text, secret, harmless); run != "" {
				at := strings.Index(strings.ToLower(text), run)
				t.Errorf("%s shows %q of %q: …%s…", where, run, secret, text[max(0, at-200):min(len(text), max(0, at)+100)])
			}
		}
	}
}

// spoken is what was logged of a client by the handler, or of all clients if it is empty. What was said again
// and again is in it once.
func spoken(log, client string) string {
	said := make(map[string]bool)
	for line := range strings.Lines(log) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["logger"] == "http.handlers.oauth_cc" && (client == "" || entry["client_id"] == client) {
			for name, value := range entry {
				said[name+" "+fmt.Sprint(value)] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(said)), "\n")
}

// ownLines are those of a check about a client, in a table or in JSON, with those that follow them.
func ownLines(printed, client string) string {
	var text strings.Builder
	isOwn := false
	for line := range strings.Lines(printed) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "http://"):
			isOwn = len(fields) > 1 && fields[1] == client
		case strings.HasPrefix(line, `    "client_id"`):
			isOwn = strings.Contains(line, strconv.Quote(client))
		}
		if isOwn {
			text.WriteString(line)
		}
	}
	return text.String()
}
