package requests

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// startNamingServer runs a token endpoint whose tokens name the client and the scope that they are for.
func startNamingServer(t *testing.T) *gatewaytest.TokenServer {
	s := gatewaytest.StartTokenServer(t)
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		form, _ := url.ParseQuery(s.Recorded()[n-1].Body)
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, tokenOf(form.Get("client_id"), form.Get("scope")))
	})
	return s
}

// tokenOf is the token for a client and a scope.
func tokenOf(client, scope string) string {
	return hex.EncodeToString([]byte(client)) + "." + hex.EncodeToString([]byte(scope))
}

// Values that look alike are different tenants, each with a token of its own.
func TestTenantsThatLookAlike(t *testing.T) {
	endpoint, upstream := startNamingServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {query.a}\nauth_method none\nscope {query.b}\n}\n"+upstream.Proxy())
	type tenant struct{ a, b string }
	tenants := []tenant{{"a", "bc"}, {"ab", "c"}, {"a\x00", "bc"}, {"a", "\x00bc"}, {"a\x00b", "c"}, {"A", "bc"}, {"a ", "bc"}, {"a\t", "bc"}, {" a", "bc"}, {"a,a", "bc"}, {"a, a", "bc"}, {"bc", "a"}}
	for _, lookalike := range []string{"é", "e\u0301", "É", "ａ", "а", "a\u200b", "a\u00a0", "a\u00ad", "\ufeffa", "ſ", "s", "\u212a", "K", "k", "ß", "ss", "İ", "i̇", "a/", "a%", "%61", "+a", "a\n", "a\r\n", "\U0001F600", "\ufffd"} {
		tenants = append(tenants, tenant{lookalike, "bc"})
	}
	for range 2 { // the second time from the cache
		var all sync.WaitGroup
		for _, each := range tenants {
			all.Go(func() {
				path := "/?" + url.Values{"a": {each.a}, "b": {each.b}}.Encode()
				a, err := gatewaytest.Exchange(gatewaytest.Client, gatewaytest.ClientRequest(t, http.MethodGet, g.URL(path), nil))
				if want := " with " + tokenOf(each.a, each.b); err != nil || a.Status != 200 || !strings.HasSuffix(a.Body, want) {
					t.Errorf("%q got %d %q, %v; want%s", each, a.Status, a.Body, err, want)
				}
			})
		}
		all.Wait()
		gatewaytest.WantFetched(t, endpoint, len(tenants))
	}
	for _, bad := range []string{"", "\xff", "\xe9", "\xed\xa0\x80", "a\xc0\x80", "\xc1\xa1", strings.Repeat("a", 8<<10+1)} {
		gatewaytest.CheckAnswer(t, g.Get("/?"+url.Values{"a": {bad}, "b": {"bc"}}.Encode()), 502, "")
	}
	gatewaytest.WantFetched(t, endpoint, len(tenants))
}

// A header that is sent twice, or that is empty, is not one of both tenants.
func TestTenantHeaderInOddForms(t *testing.T) {
	endpoint, upstream := startNamingServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {header.X-Tenant}\nauth_method none\n}\n"+upstream.Proxy())
	for _, test := range []struct {
		lines []string
		want  string // empty: 502
	}{
		{[]string{"X-Tenant: a"}, "a"}, {[]string{"x-tenant:a"}, "a"}, {[]string{"X-Tenant:  a \t"}, "a"}, {[]string{"X-TENANT: A"}, "A"},
		{[]string{"X-Tenant: a", "X-Tenant: a"}, "a,a"}, {[]string{"X-Tenant: a", "X-Tenant: b"}, "a,b"}, {[]string{"X-Tenant: b", "x-tenant: a"}, "b,a"},
		{[]string{"X-Tenant: a, b"}, "a, b"}, {[]string{"X-Tenant: a", "X-Tenant:"}, "a,"}, {[]string{"X-Tenant:", "X-Tenant: a"}, ",a"},
		{[]string{"X-Tenant:"}, ""}, {[]string{"X-Tenant: \t "}, ""}, {nil, ""}, {[]string{"X_Tenant: a"}, ""}, {[]string{"X.Tenant: a"}, ""},
		{[]string{"X-Tenant: \xff"}, ""}, {[]string{"X-Tenant: a\xe9"}, ""}, {[]string{"X-Tenant: " + strings.Repeat("a", 9<<10)}, ""},
	} {
		a := gatewaytest.SendRaw(t, g.Addr, "GET /", append(test.lines, "Connection: close", "", "")...)
		switch {
		case test.want == "" && a.Status != 502:
			t.Errorf("%.80q got %d %q, want 502", test.lines, a.Status, a.Body)
		case test.want != "" && (a.Status != 200 || a.Body != "GET / with "+tokenOf(test.want, "")):
			t.Errorf("%.80q got %d %q, want the token of %q", test.lines, a.Status, a.Body, test.want)
		}
	}
}

// Names that a stranger makes up, and that get no token, do not displace the tokens of others.
func TestMadeUpTenantsDisplaceNoTokens(t *testing.T) {
	secrets := map[string]string{"a": "s3cret-canary", "b": "s3cret-canary"}
	server, upstream := gatewaytest.StartTenantServer(t, secrets), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+server.URL+"/token {\nclient_id {header.X-Tenant}\nclient_secret s3cret-canary\nmax_tokens 8\n}\n"+upstream.Proxy())
	for _, tenant := range []string{"a", "b"} {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 200, "GET / with of-"+tenant+"-1")
	}
	for n := range 40 {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, fmt.Sprint("stranger-", n)), 502, "")
	}
	before := server.Count()
	for _, tenant := range []string{"a", "b"} {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 200, "GET / with of-"+tenant+"-1")
	}
	gatewaytest.WantFetched(t, server.TokenServer, before)
}
