package operators

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// outcomes tells in short what came of each grant: the client that got a token, the names that are missing, or the
// detail.
func outcomes(results []check.Result) []string {
	list := make([]string, len(results))
	for i, r := range results {
		switch {
		case r.Result == tokencache.ResultOK:
			list[i] = r.ClientID
		case r.MissingValues != nil:
			list[i] = "needs " + strings.Join(r.MissingValues, " ")
		default:
			list[i] = r.Detail
		}
	}
	return list
}

// clientOf is an oauth_cc with this client.
func clientOf(s *gatewaytest.TokenServer, id string, more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nclient_id " + id + "\nclient_secret s3cret-canary\n" + strings.Join(more, "\n") + "\n}\n"
}

const emptyTenant = "client_id: placeholder {tenant} is empty: the map of {http.request.header.X-Tenant} has no output for this value, or an empty one"

func TestCheckGoesThroughMaps(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_ORCHARD", "orchard-17")
	endpoint := gatewaytest.StartTokenServer(t)
	const byTenant = "map {header.X-Tenant} {tenant} {\nacme orchard\nbolt harbor\n}\n"
	ofTenant := clientOf(endpoint, "{tenant}")
	for name, test := range map[string]struct {
		site   string
		values []string
		want   []string
	}{
		"a tenant":                        {byTenant + ofTenant, []string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"another tenant":                  {byTenant + ofTenant, []string{"{http.request.header.X-Tenant}=bolt"}, []string{"harbor"}},
		"an unknown tenant":               {byTenant + ofTenant, []string{"header.X-Tenant=who"}, []string{emptyTenant}},
		"no tenant":                       {byTenant + ofTenant, []string{"header.X-Tenant="}, []string{emptyTenant}},
		"no value":                        {byTenant + ofTenant, nil, []string{"needs http.request.header.X-Tenant"}},
		"what comes out of the map":       {byTenant + ofTenant, []string{"tenant=other"}, []string{"other"}},
		"what goes in and what comes out": {byTenant + ofTenant, []string{"header.X-Tenant=acme", "tenant=other"}, []string{"other"}},
		"an empty one given":              {byTenant + ofTenant, []string{"header.X-Tenant=acme", "tenant="}, []string{"client_id: placeholder {tenant} is empty"}},

		"an empty default":   {"map {header.X-Tenant} {tenant} {\nacme orchard\ndefault \"\"\n}\n" + ofTenant, []string{"header.X-Tenant=who"}, []string{emptyTenant}},
		"a default":          {"map {header.X-Tenant} {tenant} {\nacme orchard\ndefault guest\n}\n" + ofTenant, []string{"header.X-Tenant=who"}, []string{"guest"}},
		"a variable":         {"map {header.X-Tenant} {tenant} {\nacme {env.OAUTH_CC_TEST_ORCHARD}\n}\n" + ofTenant, []string{"header.X-Tenant=acme"}, []string{"orchard-17"}},
		"regular expression": {"map {header.X-Tenant} {tenant} {\n~^(a.*)$ of-$1\n}\n" + ofTenant, []string{"header.X-Tenant=acme"}, []string{"of-acme"}},
		"several outputs": {"map {header.X-Tenant} {tenant} {part} {\nacme orchard 1\nbolt harbor -\ndefault x 9\n}\n" + clientOf(endpoint, "{tenant}-{part}"),
			[]string{"header.X-Tenant=bolt"}, []string{"harbor-9"}},
		"several inputs": {"map {header.X-Tenant}/{host} {tenant} {\nacme/a.example.com orchard\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme", "host=a.example.com"}, []string{"orchard"}},
		"several inputs, of which one is missing": {"map {header.X-Tenant}/{host} {tenant} {\nacme/a.example.com orchard\n}\n" + ofTenant,
			[]string{"host=a.example.com"}, []string{"needs http.request.header.X-Tenant"}},
		"a map of a map": {"map {header.X-Tenant} {region} {\nacme eu\n}\nmap {region} {tenant} {\neu orchard\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"a map of a map, without a value": {"map {header.X-Tenant} {region} {\nacme eu\n}\nmap {region} {tenant} {\neu orchard\n}\n" + ofTenant,
			nil, []string{"needs http.request.header.X-Tenant"}},
		"an output with more of the request": {"map {header.X-Tenant} {tenant} {\nacme of-{host}\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme", "host=a"}, []string{"of-a"}},
		"an output with more of the request, without a value": {"map {header.X-Tenant} {tenant} {\nacme of-{host}\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme"}, []string{"needs http.request.host"}},
		"an output that is not reached": {"map {header.X-Tenant} {tenant} {\nacme of-{host}\nbolt harbor\n}\n" + ofTenant,
			[]string{"header.X-Tenant=bolt"}, []string{"harbor"}},
		"a map, and a placeholder of its own": {byTenant + clientOf(endpoint, "{tenant}-{header.X-Part}"),
			[]string{"header.X-Tenant=acme"}, []string{"needs http.request.header.X-Part"}},

		"maps in a circle": {"map {header.X-Tenant} {region} {\nacme {tenant}\n}\nmap {region} {tenant} {\neu orchard\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme"}, []string{"needs tenant"}},
		"an output with a circle": {"map {header.X-Tenant} {tenant} {\nacme of-{region}\n}\nmap {region} {region} {\neu x\n}\n" + ofTenant,
			[]string{"header.X-Tenant=acme"}, []string{"needs region"}},
		"an output of which the request decides": {"route {\nmap /x/* {host} {region} {\na eu\n}\nmap {host} {region} {\na us\n}\n" +
			"map {header.X-Tenant} {tenant} {\nacme of-{region}\n}\n" + ofTenant + "}",
			[]string{"header.X-Tenant=acme", "host=a"}, []string{"needs region"}},

		"a map around":            {"route {\n" + byTenant + "handle {\nroute {\n" + ofTenant + "}\n}\n}", []string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"a map in a route before": {"route {\nroute {\n" + byTenant + "}\n" + ofTenant + "}", []string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"the first map of two":    {"route {\n" + byTenant + "map {header.X-Tenant} {tenant} {\nacme never\n}\n" + ofTenant + "}", []string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"a map behind the handler": {"route {\nroute /x {\n" + byTenant + "}\n" + ofTenant + "map {host} {tenant} {\nacme never\n}\n}",
			[]string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"no map of another handle": {"handle /x {\n" + byTenant + "respond ok\n}\nhandle {\nmap {host} {tenant} {\nacme mine\n}\n" + ofTenant + "}",
			[]string{"host=acme"}, []string{"mine"}},
		// Whether the request passes the map is not known, but without it there would be no token.
		"a map with a matcher": {"map /x/* {header.X-Tenant} {tenant} {\nacme orchard\n}\n" + ofTenant, []string{"header.X-Tenant=acme"}, []string{"orchard"}},
		"maps with matchers": {"route {\nmap /x/* {header.X-Tenant} {tenant} {\nacme orchard\n}\nmap /y/* {host} {tenant} {\nacme harbor\n}\n" + ofTenant + "}",
			[]string{"header.X-Tenant=acme"}, []string{"needs tenant"}},
		"maps with matchers, and what comes out": {"route {\nmap /x/* {header.X-Tenant} {tenant} {\nacme orchard\n}\nmap {host} {tenant} {\nacme harbor\n}\n" + ofTenant + "}",
			[]string{"tenant=other"}, []string{"other"}},
		"a map with the handler's matcher": {"route {\nmap /x/* {header.X-Tenant} {tenant} {\nacme orchard\n}\nmap {host} {tenant} {\nacme harbor\n}\nroute /x/* {\n" + ofTenant + "}\n}",
			[]string{"header.X-Tenant=acme"}, []string{"orchard"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--config", gatewaytest.CaddyfileWith(t, test.site)}
			for _, value := range test.values {
				args = append(args, "--value", value)
			}
			results, err := gatewaytest.CheckJSON(t, args...)
			if got := outcomes(results); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q (%v)", got, test.want, err)
			}
		})
	}
}

// The maps of a site are those of its own handlers, also where other handlers have the same options.
func TestCheckTellsTheMapsOfSitesApart(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	const a, b = "map {header.X-Tenant} {tenant} {\nacme orchard\n}\n", "map {header.X-Tenant} {tenant} {\nacme harbor\n}\n"
	site := func(name, content string) string {
		return "http://" + name + ".example.com:1 {\nbind 127.0.0.1\n" + content + "\n}\n"
	}
	ofTenant := clientOf(endpoint, "{tenant}")
	named := "&(partner) {\n" + ofTenant + "}\n"
	for name, test := range map[string]struct {
		config string
		value  string
		want   []string
	}{
		"two sites":                   {site("a", a+ofTenant) + site("b", b+ofTenant), "header.X-Tenant=acme", []string{"harbor", "orchard"}},
		"two sites with the same map": {site("a", a+ofTenant) + site("b", a+ofTenant), "header.X-Tenant=acme", []string{"orchard"}},
		"other maps, same client": {site("a", a+ofTenant) + site("b", "map {host} {tenant} {\nacme orchard\n}\n"+ofTenant), "header.X-Tenant=acme",
			[]string{"needs http.request.host", "orchard"}},
		"a named route":              {named + site("a", a+"invoke partner"), "header.X-Tenant=acme", []string{"orchard"}},
		"a named route with the map": {"&(tenants) {\n" + a + "}\n" + site("a", "route {\ninvoke tenants\n"+ofTenant+"}"), "header.X-Tenant=acme", []string{"orchard"}},
		"a named route with two ways to it": {named + site("a", "handle /a {\n"+a+"invoke partner\n}\nhandle {\n"+b+"invoke partner\n}\n"), "header.X-Tenant=acme",
			[]string{"needs tenant"}},
		"a named route that is used twice": {named + site("a", a+"handle /a {\ninvoke partner\n}\nhandle {\ninvoke partner\n}\n"), "header.X-Tenant=acme", []string{"orchard"}},
		"a named route that invokes itself": {"&(partner) {\nroute {\n" + ofTenant + "invoke partner\n}\n}\n" + site("a", a+"invoke partner"), "header.X-Tenant=acme",
			[]string{"orchard"}},
		"an error route, and a map before the failure": {site("a", "handle {\n"+b+"}\nhandle_errors {\n"+a+ofTenant+"}"), "header.X-Tenant=acme", []string{"needs tenant"}},
		"a map before the failure":                     {site("a", "handle {\n"+a+"}\nhandle_errors {\n"+ofTenant+"}"), "header.X-Tenant=acme", []string{"orchard"}},
		"an error route":                               {site("a", "handle_errors {\n"+a+ofTenant+"}"), "header.X-Tenant=acme", []string{"orchard"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "Caddyfile")
			servertest.WriteFile(t, file, "{\nauto_https off\n}\n"+test.config)
			before := endpoint.Count()
			results, err := gatewaytest.CheckJSON(t, "--config", file, "--value", test.value)
			got := outcomes(results)
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q (%v)", got, test.want, err)
			}
			if asked := len(slices.DeleteFunc(slices.Clone(test.want), func(s string) bool { return strings.HasPrefix(s, "needs") })); endpoint.Count()-before != asked {
				t.Errorf("%d token requests, want %d", endpoint.Count()-before, asked)
			}
		})
	}
}

// Where only the maps tell handlers apart, the servers are in the order of their names.
func TestCheckKeepsTheOrderOfServersWithMaps(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	var sites strings.Builder
	var want []string
	for i := range 8 {
		client := fmt.Sprintf("client-%d", i)
		want = append(want, client)
		fmt.Fprintf(&sites, "http://127.0.0.1:%d {\nmap {header.X-Tenant} {tenant} {\nacme %s\n}\n%s}\n", 1+i, client, clientOf(endpoint, "{tenant}"))
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	servertest.WriteFile(t, file, sites.String())
	results, err := gatewaytest.CheckJSON(t, "--config", file, "--value", "header.X-Tenant=acme")
	if got := outcomes(results); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q (%v)", got, want, err)
	}
}

// A client that is refused is not tried again, whatever map it comes from; another one is.
func TestCheckTellsClientsOfMapsApart(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	var site strings.Builder
	for i, client := range []string{"orchard", "orchard", "harbor"} {
		fmt.Fprintf(&site, "handle /%d {\nmap {header.X-Tenant} {tenant} {\nacme %s\n}\n%s}\n", i, client, clientOf(endpoint, "{tenant}", fmt.Sprintf("scope scope-%d", i)))
	}
	results, _ := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, site.String()), "--value", "header.X-Tenant=acme")
	var got []string
	for _, r := range results {
		got = append(got, r.Result)
	}
	if want := []string{"invalid_client", "not_checked", "invalid_client"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A secret that comes out of a map is used, and not printed.
func TestCheckSendsTheSecretOfAMap(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "s3cret-canary\n")
	config := gatewaytest.CaddyfileWith(t, "map {http.auth.user.id} {endpoint} {id} {secret} {\norchard "+endpoint.URL+"/eu orchard-17 {file."+file+"}\n}\n"+
		"oauth_cc {endpoint} {\nclient_id {id}\nclient_secret {secret}\n}")
	out, err := gatewaytest.CheckCommand(t, "--config", config, "--value", "http.auth.user.id=orchard")
	if err != nil || !strings.Contains(out, endpoint.URL+"/eu  orchard-17") || strings.Contains(out, "canary") {
		t.Errorf("got %v and\n%s", err, out)
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("orchard-17:s3cret-canary"))
	if recorded := endpoint.Recorded(); len(recorded) != 1 || recorded[0].Header.Get("Authorization") != want {
		t.Errorf("sent %+v", recorded)
	}
	out, err = gatewaytest.CheckCommand(t, "--config", config)
	if err != nil || !strings.Contains(out, "to check it, add --value http.auth.user.id=…\n") {
		t.Errorf("got %v and\n%s", err, out)
	}
	_, err = gatewaytest.CheckCommand(t, "--config", config, "--value", "http.auth.user.idd=orchard")
	if err == nil || err.Error() != "--value: no grant depends on the placeholder {http.auth.user.idd}; there is {http.auth.user.id}, {endpoint}, {id}, {secret}" {
		t.Errorf("got %v", err)
	}
}

func TestCheckTellsThatTheRequestDecidesWhichMapCounts(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	config := gatewaytest.CaddyfileWith(t, "route {\nmap /x/* {header.X-Tenant} {tenant} {\nacme orchard\n}\nmap /y/* {host} {tenant} {\nacme harbor\n}\n"+clientOf(endpoint, "{tenant}")+"}")
	results, err := gatewaytest.CheckJSON(t, "--config", config, "--value", "host=acme")
	want := []string{
		"the grant differs from request to request; to check it, add --value tenant=…",
		"the request decides which map sets {tenant}; give what comes out of it",
	}
	if err != nil || !slices.Equal(results[0].Notes, want) {
		t.Errorf("got %+v, %v", results, err)
	}
	gatewaytest.WantFetched(t, endpoint, 0)
}
