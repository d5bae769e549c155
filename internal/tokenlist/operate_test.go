package tokenlist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
)

// fakeAPI answers each request with what it has for the method and the path.
type fakeAPI map[string]func(w http.ResponseWriter, r *http.Request)

func (a fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if answer := a[r.Method+" "+r.URL.Path]; answer != nil {
		answer(w, r)
		return
	}
	http.NotFound(w, r)
}

func says(status int, text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}
}

const oneToken = `{"tokens":[{"id":"9e1f","endpoint":"https://a.test/token","client_id":"app","state":"fresh","token":"0a9d00b6","fetches":1}],"handlers":1}`

// operatorFor is an operator of the API, and what it prints.
func operatorFor(t *testing.T, api http.Handler) (Operator, *strings.Builder, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	gateway, err := NewGateway(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	out := new(strings.Builder)
	return Operator{Gateway: gateway, Out: out, Err: out, Filter: Filter{Limit: DefaultLimit}}, out, server
}

func TestErrorsAreToldInWords(t *testing.T) {
	list := func(o Operator) error { return o.List(t.Context()) }
	refresh := func(o Operator) error { return o.Refresh(t.Context(), "9e1f") }
	forget := func(o Operator) error { return o.Forget(t.Context(), "9e1f") }
	const get, post, remove = "GET /oauth_cc/tokens", "POST /oauth_cc/tokens/9e1f/refresh", "DELETE /oauth_cc/tokens/9e1f"
	const gone = `no such token; the list may have changed, see "caddy oauth-cc tokens"`
	tenants := says(200, `{"tokens":[{"id":"9e1f.1"},{"id":"9e1f.2"}],"omitted":5}`)
	for name, test := range map[string]struct {
		do   func(Operator) error
		api  fakeAPI
		want string // HOST is the address
	}{
		"no oauth_cc":      {list, fakeAPI{}, "the Caddy at HOST has no oauth_cc"},
		"refused":          {list, fakeAPI{get: says(403, `{"error":"host not allowed: x\u001b"}`)}, "host not allowed: x  (HTTP status 403)"},
		"another server":   {list, fakeAPI{get: says(200, `hello`)}, "what answers at HOST is no Caddy with oauth_cc"},
		"other JSON":       {list, fakeAPI{get: says(200, `{}`)}, "what answers at HOST is no Caddy with oauth_cc"},
		"a broken server":  {list, fakeAPI{get: says(500, `<html>`)}, "what answers at HOST is no Caddy with oauth_cc (HTTP status 500)"},
		"gone before":      {refresh, fakeAPI{get: says(200, `{"tokens":[]}`)}, gone},
		"ambiguous":        {refresh, fakeAPI{get: tenants}, "7 tokens have an id that begins with 9e1f: 9e1f.1, 9e1f.2, …; write more of it"},
		"gone meanwhile":   {refresh, fakeAPI{get: says(200, oneToken), post: says(404, `{"error":"x"}`)}, gone},
		"a tenant's":       {refresh, fakeAPI{get: says(200, oneToken), post: says(409, `{"error":"x"}`)}, `this is a tenant's token, and only a request tells who the tenant is; run "caddy oauth-cc tokens forget 9e1f", and the tenant's next request gets another token`},
		"a foreign id":     {refresh, fakeAPI{get: says(200, `{"tokens":[{"id":"9e1f\u001b[2J"}]}`), "POST /oauth_cc/tokens/9e1f\x1b[2J/refresh": says(409, `{"error":"x"}`)}, `this is a tenant's token, and only a request tells who the tenant is; run "caddy oauth-cc tokens forget 9e1f [2J", and the tenant's next request gets another token`},
		"not granted":      {refresh, fakeAPI{get: says(200, oneToken), post: says(502, `{"error":"no access token: invalid_client"}`)}, "no access token: invalid_client; the current token stays in use"},
		"not granted, nor": {refresh, fakeAPI{get: says(200, strings.Replace(oneToken, "fresh", "none", 1)), post: says(503, `{"error":"no access token: unreachable"}`)}, "no access token: unreachable"},
		"not in time":      {refresh, fakeAPI{get: says(200, strings.Replace(oneToken, "fresh", "expired", 1)), post: says(504, `{"error":"no access token: timeout"}`)}, "no access token: timeout"},
		"refused refresh":  {refresh, fakeAPI{get: says(200, oneToken), post: says(403, `{"error":"not allowed"}`)}, "not allowed (HTTP status 403)"},
		"forgotten before": {forget, fakeAPI{get: says(200, oneToken), remove: says(404, `{"error":"x"}`)}, gone},
		"refused to":       {forget, fakeAPI{get: says(200, oneToken), remove: says(403, `{"error":"not allowed"}`)}, "not allowed (HTTP status 403)"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, server := operatorFor(t, test.api)
			want := strings.ReplaceAll(test.want, "HOST", server.Listener.Addr().String())
			if err := test.do(o); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

func TestEmptyIDNamesNoToken(t *testing.T) {
	o, _, _ := operatorFor(t, fakeAPI{"GET /oauth_cc/tokens": says(200, oneToken)})
	if err := o.Forget(t.Context(), ""); !errors.Is(err, errNoSuchToken) {
		t.Errorf("got %v", err)
	}
}

// A failed refresh shows what the gateway knows now, not what it knew before.
func TestFailedRefreshShowsWhy(t *testing.T) {
	failed := false
	o, out, _ := operatorFor(t, fakeAPI{
		"GET /oauth_cc/tokens": func(w http.ResponseWriter, r *http.Request) {
			if failed {
				fmt.Fprint(w, `{"tokens":[{"id":"9e1f","state":"none","fetches":1,"failing":true,"last_error":{"error":"invalid_client","status":401,"hint":"try this"}}]}`)
				return
			}
			fmt.Fprint(w, oneToken)
		},
		"POST /oauth_cc/tokens/9e1f/refresh": func(w http.ResponseWriter, r *http.Request) {
			failed = true
			says(502, `{"error":"no access token: invalid_client"}`)(w, r)
		},
	})
	if err := o.Refresh(t.Context(), "9"); err == nil || err.Error() != "no access token: invalid_client" || !strings.Contains(out.String(), "    hint: try this\n") {
		t.Errorf("got %v and %s", err, out)
	}
}

func TestGatewayThatIsNotThere(t *testing.T) {
	o, _, server := operatorFor(t, fakeAPI{})
	server.Close()
	err := o.List(t.Context())
	if prefix := "no gateway answers at " + server.Listener.Addr().String() + " (see --address): "; err == nil || !strings.HasPrefix(err.Error(), prefix) || strings.Contains(err.Error(), "http://") {
		t.Errorf("got %v", err)
	}
	if err := o.Watch(t.Context(), time.Hour); err == nil {
		t.Error("it was waited for")
	}
	const url = " is a URL; write host:port, such as localhost:2019, or unix//path"
	for address, want := range map[string]string{
		"127.0.0.1:1-2": "--address: 127.0.0.1:1-2 has several ports; write one", "127.0.0.1:http": "--address: ",
		"http://localhost:2019": "--address: http://localhost:2019" + url, "unix:///run/admin.sock": "--address: unix:///run/admin.sock" + url,
	} {
		if _, err := NewGateway(address); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
	}
}

// hanging is a gateway that lists a token, and answers nothing else.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(oneToken))}, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestGatewayThatHangsIsNotWaitedForForEver(t *testing.T) {
	for what, test := range map[string]struct {
		do   func(o Operator, ctx context.Context, id string) error
		want time.Duration
	}{
		"refresh": {Operator.Refresh, 5 * time.Minute}, "forget": {Operator.Forget, 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			o := Operator{Gateway: &Gateway{address: "a.test:2019", origin: "http://a.test:2019", client: http.Client{Transport: hanging{}}}, Out: io.Discard}
			want := fmt.Sprintf("the gateway at a.test:2019 has not answered for %s; if it still does what it was asked, \"caddy oauth-cc tokens\" shows that", test.want)
			if err := test.do(o, t.Context(), "9e1f"); err == nil || err.Error() != want || time.Since(began) != test.want {
				t.Errorf("%s: got %v after %s", what, err, time.Since(began))
			}
		})
	}
}

func TestInterruptEndsARequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o, _, _ := operatorFor(t, fakeAPI{"GET /oauth_cc/tokens": func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}})
	if err := o.List(ctx); err == nil || err.Error() != "interrupted" {
		t.Errorf("got %v", err)
	}
}

// Caddy wants to know where a request comes from, unless that is a socket.
func TestRequestsAreThoseOfCaddysOwnCommands(t *testing.T) {
	var origin, host string
	note := func(w http.ResponseWriter, r *http.Request) {
		origin, host = r.Header.Get("Origin"), r.Host
		fmt.Fprint(w, oneToken)
	}
	o, out, server := operatorFor(t, fakeAPI{"GET /oauth_cc/tokens": note})
	if err := o.List(t.Context()); err != nil || origin != server.URL || host != server.Listener.Addr().String() {
		t.Errorf("%v, from %q to %q", err, origin, host)
	}
	listed := out.String()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	socket := httptest.NewUnstartedServer(fakeAPI{"GET /oauth_cc/tokens": note})
	socket.Listener.Close()
	socket.Listener = listener
	socket.Start()
	t.Cleanup(socket.Close)
	for _, address := range []string{"unix/" + path, "unix/" + path + "|0222"} {
		out.Reset()
		if o.Gateway, err = NewGateway(address); err != nil {
			t.Fatal(err)
		}
		if err := o.List(t.Context()); err != nil || origin != "" || host != "127.0.0.1" || out.String() != listed {
			t.Errorf("%s: %v, from %q to %q: %s", address, err, origin, host, out)
		}
	}
}

// script is a gateway that answers one thing after the other. After the last the watch is interrupted.
func script(cancel context.CancelFunc, answers ...func(http.ResponseWriter, *http.Request)) fakeAPI {
	n := 0
	return fakeAPI{"GET /oauth_cc/tokens": func(w http.ResponseWriter, r *http.Request) {
		if n == len(answers) {
			cancel()
			<-r.Context().Done()
			return
		}
		n++
		answers[n-1](w, r)
	}}
}

// A terminal that scrolls shows neither the heading nor the first tokens.
func TestScreenFitsTheTerminal(t *testing.T) {
	tokens := make([]Token, 30)
	for i := range tokens {
		tokens[i] = Token{ID: fmt.Sprintf("9e1f0c7a35d2.%012d", i), Endpoint: "https://a.test/token", ClientID: "app", State: states()[i%5], Fetches: 1, Failing: true,
			LastError: &Failure{Error: "invalid_client", Status: 401, Hint: strings.Repeat("some words ", 20)}}
	}
	for _, n := range []int{1, 30} {
		list := List{Tokens: tokens[:n], Omitted: 12345, Handlers: 1}
		for width := 20; width <= 130; width++ {
			s := table.Style{Width: width, Moves: true, Colors: true}
			var text strings.Builder
			text.WriteString(list.summary(Filter{}))
			if err := list.write(&text, now, s); err != nil {
				t.Fatal(err)
			}
			text.WriteString("no gateway answers: " + strings.Repeat("another word ", 9) + strings.Repeat("x", 150))
			for _, s.Height = range []int{2, 3, 5, 11, 24, 60} {
				drawn := sequences.ReplaceAllString(screen(text.String(), time.Minute, s, true), "")
				lines := strings.Split(drawn, "\n")
				if len(lines) > s.Height { // with that of the cursor
					t.Fatalf("%d by %d: %d lines:\n%s", width, s.Height, len(lines), drawn)
				}
				for _, line := range lines {
					if utf8.RuneCountInString(line) > width {
						t.Fatalf("%d by %d: %q", width, s.Height, line)
					}
				}
				tells := strings.Contains(strings.Join(strings.Fields(drawn), " "), "more lines;")
				if isCut := strings.Count(drawn, "x") < 150; isCut != tells && s.Height > 10 {
					t.Fatalf("%d by %d: it is cut: %t\n%s", width, s.Height, isCut, drawn)
				}
			}
		}
	}
}

// A terminal that has written its last column erases that, if it is asked to erase the rest of the line.
func TestScreenErasesALineBeforeItIsWritten(t *testing.T) {
	const full = "abcdefghijklmnopqrst"
	if got := screen(full+"\n", time.Minute, table.Style{Width: len(full), Moves: true}, false); !strings.HasSuffix(got, "\n\x1b[K"+full+"\n\x1b[J") {
		t.Errorf("got %q", got)
	}
}

// sequences are what is not seen on a terminal.
var sequences = regexp.MustCompile(`\x1b\[[0-9]*[A-Za-z]`)

func TestWatchOutlivesFailures(t *testing.T) {
	ends := says(http.StatusInternalServerError, `{"error":"going away"}`)
	const list = `1 token: 1 fresh
ENDPOINT              CLIENT  STATE  EXPIRES  NEXT TRY  ID
https://a.test/token  app     fresh  -        -         9e1f
`
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		o, out, _ := operatorFor(t, script(cancel, says(200, oneToken+"\n"), says(200, oneToken+"\n"), ends, says(200, oneToken+"\n")))
		var failures strings.Builder
		o.JSON, o.Err = asJSON, &failures
		if err := o.Watch(ctx, time.Millisecond); err != nil {
			t.Errorf("got %v", err)
		}
		const lost = "going away (HTTP status 500); trying again\n"
		want, wantFailures := list+"\n"+list+"\n"+lost+"\n"+list, ""
		if asJSON {
			want, wantFailures = strings.Repeat(oneToken+"\n", 3), lost
		}
		wantText(t, out.String(), want)
		wantText(t, failures.String(), wantFailures)
	}
}
