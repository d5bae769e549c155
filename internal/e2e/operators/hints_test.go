package operators

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// hintSymptom is a usual mistake: a stand-in for an endpoint at which it is one, options that
// make it, and those that don't, with which there is a token.
type hintSymptom struct {
	name         string
	endpoint     http.HandlerFunc // grants if it answers nothing
	wrong, right string
	hint         string // begins so
}

func answerWith(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// parametersOf are those of a request in either format.
func parametersOf(r *http.Request) url.Values {
	body, _ := io.ReadAll(r.Body)
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
		values, _ := url.ParseQuery(string(body))
		return values
	}
	var members map[string]string
	_ = json.Unmarshal(body, &members)
	values := url.Values{}
	for name, value := range members {
		values.Set(name, value)
	}
	return values
}

func sendsJSON(r *http.Request) bool { return r.Header.Get("Content-Type") == "application/json" }

const (
	basicOptions = "client_id app\nclient_secret s3cret-canary\n"
	postOptions  = basicOptions + "auth_method client_secret_post\n"
	jwtOptions   = "client_id app\nclient_secret s3cret-canary-s3cret-canary-s3cret-canary\nauth_method client_secret_jwt\n"
)

const passwordGrant = "param grant_type password\nparam username user\n"

var hintSymptoms = []hintSymptom{
	{"the body, and says what is missing", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_id") == "" {
			answerWith(w, 400, `{"error":"invalid_request","error_description":"Missing parameter: client_id"}`)
		}
	}, basicOptions, postOptions, "the endpoint may look for the credential in the body alone; try auth_method client_secret_post, or find out with --try-methods"},
	{"the body, and refuses the client", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_secret") == "" {
			answerWith(w, 401, `{"error":"invalid_client","error_description":"The client_secret is required."}`)
		}
	}, basicOptions, postOptions, "the endpoint may look for the credential in the body alone; try auth_method client_secret_post, or find out with --try-methods"},
	{"Basic, and challenges for it", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="token"`)
			answerWith(w, 401, `{"error":"invalid_client"}`)
		}
	}, postOptions, basicOptions, "the endpoint asks for HTTP Basic and may not look into the body; try auth_method client_secret_basic, or find out with --try-methods"},
	{"another method, by name", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_secret") == "" {
			answerWith(w, 401, `{"error":"invalid_client","error_description":"The client supports 'client_secret_post', but 'client_secret_basic' was requested."}`)
		}
	}, basicOptions, postOptions, "the endpoint speaks of another method of client authentication; try auth_method client_secret_post, or find out with --try-methods"},
	{"white space", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_secret") != "s3cret-canary" {
			answerWith(w, 401, `{"error":"invalid_client"}`)
		}
	}, "client_id app\nclient_secret \"s3cret-canary \"\nauth_method client_secret_post\n", postOptions, "the client_secret begins or ends with white space"},
	{"reserved characters", func(w http.ResponseWriter, r *http.Request) {
		if _, secret, _ := r.BasicAuth(); secret != "s3cret+canary" {
			answerWith(w, 401, `{"error":"invalid_client"}`)
		}
	}, "client_id app\nclient_secret s3cret+canary\n", "client_id app\nclient_secret s3cret+canary\nauth_method client_secret_basic_raw\n",
		"the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic_raw, or find out with --try-methods"},
	{"a scope that it knows", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("scope") != "orders:read" {
			answerWith(w, 400, `{"error":"invalid_scope"}`)
		}
	}, basicOptions + "scope orders:raed stock\n", basicOptions + "scope orders:read\n", "asked for was orders:raed stock; check the spelling"},
	{"a scope at all", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("scope") == "" {
			answerWith(w, 400, `{"error":"invalid_scope"}`)
		}
	}, basicOptions, basicOptions + "scope orders:read\n", "no scope was asked for, and the endpoint may need one"},
	{"JSON, 415", func(w http.ResponseWriter, r *http.Request) {
		if !sendsJSON(r) {
			answerWith(w, 415, `{"title":"Unsupported Media Type"}`)
		}
	}, basicOptions, basicOptions + "request_format json\n", "the endpoint may want JSON; try request_format json"},
	{"JSON, 400, and does not say so", func(w http.ResponseWriter, r *http.Request) {
		if !sendsJSON(r) {
			answerWith(w, 400, `{"status":400,"error":"Bad Request"}`)
		}
	}, basicOptions, basicOptions + "request_format json\n", "the endpoint does not say what is wrong, and may want the secret or the whole body in another way; --try-methods finds out which"},
	{"JSON, 400, and says so", func(w http.ResponseWriter, r *http.Request) {
		if !sendsJSON(r) {
			answerWith(w, 400, `{"message":"Unexpected token 'g' in JSON at position 0"}`)
		}
	}, basicOptions, basicOptions + "request_format json\n", "the endpoint may want JSON; try request_format json"},
	{"JSON, 422, and finds nothing", func(w http.ResponseWriter, r *http.Request) {
		if !sendsJSON(r) {
			answerWith(w, 422, `{"errors":[{"detail":"grant_type is missing"}]}`)
		}
	}, basicOptions, basicOptions + "request_format json\n", "the endpoint may want JSON; try request_format json"},
	{"something else, 400, in its own words", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"message":"unknown tenant"}`)
	}, basicOptions, "", ""},
	{"another client, 400, in its own words", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"status":400,"message":"invalid client"}`)
	}, postOptions, "", "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"},
	{"the header, in its own words", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			answerWith(w, 400, `{"response":{"errors":[{"code":"10400","message":"Invalid/Missing Authorization Header"}]}}`)
		}
	}, postOptions, basicOptions, "the endpoint looks for the credential in the header Authorization; try auth_method client_secret_basic, or find out with --try-methods"},
	{"a form, 400, but refuses the client", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"message":"invalid client"}`)
	}, basicOptions + "request_format json\n", "", "the id or the secret may be wrong"},
	{"no byte order mark", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_secret") != "s3cret-canary" {
			answerWith(w, 401, `{"error":"invalid_client"}`)
		}
	}, "client_id app\nclient_secret \xef\xbb\xbfs3cret-canary\nauth_method client_secret_post\n", postOptions, "the client_secret begins with a byte order mark; save the file that it comes from as UTF-8 without one"},
	{"no line of an environment file", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("client_secret") != "s3cret-canary" {
			answerWith(w, 401, `{"error":"unauthorized_client"}`)
		}
	}, "client_id app\nclient_secret PARTNER_SECRET=s3cret-canary\nauth_method client_secret_post\n", postOptions, "the client_secret has the form NAME=value, as a line of an environment file; keep the value alone in the file that it comes from"},
	{"no line of an environment file, with a signature", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client"}`)
	}, strings.Replace(jwtOptions, "s3cret", "PARTNER_SECRET=s3cret", 1), "", "the client_secret has the form NAME=value"},
	{"a credential for the proxy", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="corp"`)
		w.WriteHeader(407)
	}, basicOptions, "", "a proxy wants its own credential; write it into transport { network_proxy url http://<user>:<password>@<host>:<port> }"},
	{"an assertion in time", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}`)
	}, jwtOptions, "", "the client's assertion was not within its time when it arrived; compare the clocks of both sides"},
	{"a key that it knows", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application."}`)
	}, jwtOptions, "", "Entra ID does not find the key of the client's assertion"},
	{"a certificate that has not ended", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS700027: Client assertion contains an invalid signature. [Reason - The key used is expired., Thumbprint of key used by client: 'AB'."}`)
	}, jwtOptions, "", "the certificate of the client's assertion has ended; make a new one"},
	{"the key of the certificate", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS700027: Client assertion contains an invalid signature. [Reason - The provided signature value did not match the expected signature value."}`)
	}, jwtOptions, "", "Entra ID has the certificate of the client's assertion, but its signature does not match; see that signing_key is the certificate's key"},
	{"the value of the secret", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}`)
	}, basicOptions, "", "the secret is wrong; Entra ID shows a secret's ID beside its value, and the value is what client_secret needs"},
	{"a secret that has not ended", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}`)
	}, basicOptions, "", "the secret has ended; make a new one for the app registration in Entra ID"},
	{"a tenant that exists", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"invalid_request","error_description":"AADSTS90002: Tenant 'x' not found."}`)
	}, basicOptions, "", "there is no such tenant; compare the tenant in the endpoint's URL with the directory (tenant) ID in Entra ID"},
	{"a resource that exists", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named x was not found in the tenant."}`)
	}, basicOptions, "", "there is no such API in this tenant; compare the part of scope before /.default (or resource) with the API's Application ID URI"},
	{"a form, 415", func(w http.ResponseWriter, r *http.Request) {
		if sendsJSON(r) {
			answerWith(w, 415, ``)
		}
	}, basicOptions + "request_format json\n", basicOptions, "the endpoint may want a form, as OAuth has it; remove request_format json"},
	{"a form, by the standard", func(w http.ResponseWriter, r *http.Request) {
		if sendsJSON(r) {
			answerWith(w, 400, `{"error":"invalid_request","error_description":"grant_type is missing"}`)
		}
	}, basicOptions + "request_format json\n", basicOptions, "the endpoint may want a form, as OAuth has it; remove request_format json"},
	{"a form, and no other grant", func(w http.ResponseWriter, r *http.Request) {
		if sendsJSON(r) {
			answerWith(w, 400, `{"error":"unsupported_grant_type"}`)
		}
	}, basicOptions + "request_format json\n", basicOptions, "the endpoint may want a form, as OAuth has it; remove request_format json"},
	{"a client that may", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"unauthorized_client"}`)
	}, basicOptions, "", "the client may not be allowed to use the client-credentials grant; have it turned on for this client at the authorization server"},
	{"a client that may, or another secret", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"unauthorized_client"}`)
	}, basicOptions, "", "the client may not be allowed to use the client-credentials grant; have it turned on for this client at the authorization server (some servers answer so to a wrong secret as well), or find out with --try-methods"},
	{"another grant", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"unsupported_grant_type"}`)
	}, basicOptions, "", "the client may not be allowed to use the client-credentials grant"},
	{"the usual name of the grant", func(w http.ResponseWriter, r *http.Request) {
		if parametersOf(r).Get("grant_type") != "client_credentials" {
			answerWith(w, 400, `{"error":"unsupported_grant_type"}`)
		}
	}, basicOptions + "param grant_type client_credential\n", basicOptions, "the endpoint may know the grant by another name than that of param grant_type"},
	{"another path", func(w http.ResponseWriter, r *http.Request) {
		http.NotFound(w, r)
	}, basicOptions, "", "there may be no token endpoint at this URL; compare token_endpoint with the API's documentation"},
	{"another method of HTTP", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "GET")
		w.WriteHeader(405)
	}, basicOptions, "", "there may be no token endpoint at this URL"},
	{"a browser", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><title>Sign in</title>")
	}, basicOptions, "", "there may be a web page at this URL"},
	{"a browser, and says 400", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(400)
	}, basicOptions, "", "there may be a web page at this URL"},
	{"a clock like its own", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		answerWith(w, 401, `{"error":"invalid_client"}`)
	}, jwtOptions, "", "this machine's clock is 1h0m"},
	{"another assertion", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client"}`)
	}, jwtOptions, "", "the client's assertion was refused; check the clocks of both sides"},
	{"another secret", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 401, `{"error":"invalid_client"}`)
	}, basicOptions, "", "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"},
	{"another resource, of which there is no hint", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"invalid_target"}`)
	}, basicOptions, "", ""},
	{"another place for the token", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 200, `{"data":{"ticket":"token-canary","lives":60}}`)
	}, basicOptions, basicOptions + "response_field access_token data.ticket\n", "the answer may have the token elsewhere"},
	{"another path", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 200, `{"data":{"ticket":"token-canary","lives":60}}`)
	}, basicOptions + "response_field access_token data.token\n", basicOptions + "response_field access_token data.ticket\nresponse_field expires_in data.lives\n",
		"compare the path of response_field with an answer"},
	{"another password", func(w http.ResponseWriter, r *http.Request) {
		if password := parametersOf(r).Get("password"); password != "right-canary" {
			answerWith(w, 400, `{"error":"invalid_grant","error_description":"no user has `+password+`"}`)
		}
	}, basicOptions + passwordGrant + "param password wrong-canary\n", basicOptions + passwordGrant + "param password right-canary\n", "the user name or the password may be wrong"},
	{"a refresh token that has not ended", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"invalid_grant"}`)
	}, basicOptions + "param grant_type refresh_token\nparam refresh_token canary\n", "", "the refresh token has ended"},
	{"a firewall", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(403)
	}, basicOptions, "", "the answer is a web page, perhaps of a firewall"},
	{"other parameters", func(w http.ResponseWriter, r *http.Request) {
		answerWith(w, 400, `{"error":"invalid_request","error_description":"tenant is missing"}`)
	}, basicOptions, "", "a parameter may be missing"},
	{"patience", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(503)
	}, basicOptions, "", ""},
}

func TestHintsFollowTheSymptom(t *testing.T) {
	mux := http.NewServeMux()
	for i, symptom := range hintSymptoms {
		mux.HandleFunc(fmt.Sprintf("/%d/", i), func(w http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			symptom.endpoint(answer, r)
			if answer.Body.Len() > 0 || answer.Code != 200 {
				maps.Copy(w.Header(), answer.Header())
				w.WriteHeader(answer.Code)
				_, _ = w.Write(answer.Body.Bytes())
				return
			}
			answerWith(w, 200, `{"access_token":"token-canary","token_type":"Bearer","expires_in":60}`)
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	var site strings.Builder
	for i, symptom := range hintSymptoms {
		for kind, options := range map[string]string{"wrong": symptom.wrong, "right": symptom.right} {
			if options != "" {
				fmt.Fprintf(&site, "route /%s%d {\noauth_cc %s/%d/%s {\n%s}\n}\n", kind, i, server.URL, i, kind, options)
			}
		}
	}
	results, _ := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, site.String()))
	for i, symptom := range hintSymptoms {
		t.Run(symptom.name, func(t *testing.T) {
			of := func(kind string) check.Result {
				at := slices.IndexFunc(results, func(r check.Result) bool { return r.Endpoint == fmt.Sprintf("%s/%d/%s", server.URL, i, kind) })
				if at < 0 {
					t.Fatalf("not asked with what is %s", kind)
				}
				return results[at]
			}
			wrong := of("wrong")
			if wrong.Result == tokencache.ResultOK || !strings.HasPrefix(wrong.Hint, symptom.hint) || (wrong.Hint == "") != (symptom.hint == "") {
				t.Errorf("got %+v, want the hint %q", wrong, symptom.hint)
			}
			if strings.Contains(wrong.Hint, "canary") {
				t.Errorf("a secret is in %q", wrong.Hint)
			}
			if symptom.right != "" && of("right").Result != tokencache.ResultOK {
				t.Errorf("what is right gives %+v", of("right"))
			}
		})
	}
}

// The log of a gateway has the same hints.
func TestHintIsInTheLog(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { answerWith(w, 415, "") })
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	if told := g.Logs.With("no token obtained"); len(told) != 1 || gatewaytest.WithoutHelp(told[0]["hint"]) != "the endpoint may want JSON; try request_format json" {
		t.Errorf("the log says %v", told)
	}
}

// The schemes of a URL and a port don't go together, or its certificate is not trusted.
func TestSchemeAndCertificateHints(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	plain, secure := httptest.NewServer(http.NotFoundHandler()), httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	nginx := gatewaytest.StartTokenServer(t)
	nginx.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(400)
		_, _ = io.WriteString(w, "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n")
	})
	for _, test := range []struct{ endpoint, hint, detail string }{
		{strings.Replace(secure.URL, "https", "http", 1), "the endpoint speaks TLS on this port; use https", ""},
		{nginx.URL, "the endpoint speaks TLS on this port; use https", ""},
		{strings.Replace(plain.URL, "http", "https", 1), "", "the endpoint speaks plain HTTP on this port, and not TLS"},
		{secure.URL, "", "the certificate is signed by an unknown authority; trust its CA with transport { tls_trust_pool … }"},
	} {
		results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, "oauth_cc "+test.endpoint+"/token {\n"+basicOptions+"timeout 2s\n}"))
		if err == nil || results[0].Hint != test.hint || results[0].Detail != test.detail {
			t.Errorf("%s: got %+v, %v", test.endpoint, results, err)
		}
	}
}

func TestClockThatIsOffIsTold(t *testing.T) {
	for _, test := range []struct {
		ahead time.Duration // of the endpoint
		note  string        // begins so
		skew  int64
	}{
		{-time.Hour, "this machine's clock is 1h0m0s ahead of the endpoint's", -3600},
		{90 * time.Second, "this machine's clock is 1m30s behind the endpoint's", 90},
		{-20 * time.Second, "", 0},
		{20 * time.Second, "", 0},
	} {
		for _, status := range []int{200, 403} {
			endpoint := gatewaytest.StartTokenServer(t)
			endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
				// In whole seconds, so that by now the time is a little more.
				w.Header().Set("Date", time.Now().Add(test.ahead).UTC().Format(http.TimeFormat))
				answerWith(w, status, `{"access_token":"x","expires_in":60}`)
			})
			results, _ := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options()))
			r := results[0]
			// A second is lost in the header, and what the answer took.
			if off := r.ClockSkew - test.skew; off < -2 || off > 0 {
				t.Errorf("%s, %d: got %d", test.ahead, status, r.ClockSkew)
			}
			words := strings.NewReplacer("1h0m1s", "1h0m0s", "1h0m2s", "1h0m0s", "1m29s", "1m30s", "1m28s", "1m30s").Replace(strings.Join(r.Notes, "|"))
			if !strings.HasPrefix(words, test.note) || (words == "") != (test.note == "") {
				t.Errorf("%s, %d: got %q", test.ahead, status, r.Notes)
			}
		}
	}
}

func TestTokenThatIsNoneIsTold(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.Lifetime = 0
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options()))
	if err != nil || results[0].Lifetime != 1 || len(results[0].Notes) != 1 || !strings.HasPrefix(results[0].Notes[0], "the token has expired already when it is granted") {
		t.Errorf("got %+v, %v", results, err)
	}
}

// A proxy between has an answer of its own, to CONNECT for an https endpoint. It is no answer of the endpoint's.
func TestProxyThatRefusesIsNamed(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	for _, test := range []struct {
		scheme        string
		status        int
		result        string
		detail, hint  string // begin so
		want, already int
	}{
		{"https", 407, "invalid_response", "a proxy did not connect to the endpoint, but answered with status 407", "a proxy wants its own credential", 407, 1},
		{"http", 407, "invalid_response", "", "a proxy wants its own credential", 407, 1},
		{"https", 403, "unreachable", "a proxy did not connect to the endpoint, but answered with status 403", "", 0, 3},
		{"https", 502, "unreachable", "a proxy did not connect to the endpoint, but answered with status 502", "", 0, 3},
	} {
		asked := 0
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked++
			w.Header().Set("Proxy-Authenticate", `Basic realm="canary"`)
			w.WriteHeader(test.status)
		}))
		t.Cleanup(proxy.Close)
		results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t,
			"oauth_cc "+test.scheme+"://auth.example.com/token {\n"+basicOptions+"insecure_http\ntransport {\nnetwork_proxy url "+proxy.URL+"\n}\n}"))
		if r := results[0]; err == nil || r.Result != test.result || r.Status != test.want ||
			!strings.HasPrefix(r.Detail, test.detail) || !strings.HasPrefix(r.Hint, test.hint) || (r.Hint == "") != (test.hint == "") {
			t.Errorf("%s, %d: got %+v, %v", test.scheme, test.status, results, err)
		}
		if asked != test.already {
			t.Errorf("%s, %d: asked %d times, want %d", test.scheme, test.status, asked, test.already)
		}
	}
}
