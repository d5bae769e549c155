package endpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// grantRequest is a token request by the JWT bearer grant.
func grantRequest(t testing.TB, grant JWTGrant) Request {
	t.Helper()
	if err := grant.Complete(); err != nil {
		t.Fatal(err)
	}
	r := keyRequest(t, "RSA", AssertionOptions{KeyID: "k1"})
	r.AuthMethod, r.ClientID, r.Grant = AuthNone, "", &grant
	r.Params, r.Headers, r.Audience, r.Resource = nil, nil, nil, nil
	return r
}

func TestGrantIsSentAsRFC7523Says(t *testing.T) {
	withIssuer := func(r Request) Request {
		r.Issuer, r.Endpoint = "https://auth.example.com", "https://auth.example.com/token"
		return r
	}
	withSecret := func(r Request) Request {
		r.AuthMethod, r.ClientID, r.ClientSecret = AuthSecretPost, "app", "s3cret"
		return r
	}
	for name, test := range map[string]struct {
		request Request
		claims  map[string]any // beside iat, exp and jti
		form    string         // beside assertion
		life    float64
	}{
		"least":   {request: grantRequest(t, JWTGrant{Issuer: "app"}), claims: map[string]any{"iss": "app", "aud": "https://auth.example.com/token?key=query-canary"}, form: "grant_type scope=", life: 60},
		"subject": {request: grantRequest(t, JWTGrant{Issuer: "app", Subject: "u@example.com", Audience: "auth.example.com", Lifetime: 45e9}), claims: map[string]any{"iss": "app", "sub": "u@example.com", "aud": "auth.example.com"}, form: "grant_type scope=", life: 45},
		"scope":   {request: grantRequest(t, JWTGrant{Issuer: "app", ScopeClaim: true}), claims: map[string]any{"iss": "app", "aud": "https://auth.example.com/token?key=query-canary", "scope": "orders:read orders:write"}, form: "grant_type", life: 60},
		"claims":  {request: grantRequest(t, JWTGrant{Issuer: "app", Claims: map[string]string{"box_sub_type": "enterprise"}}), claims: map[string]any{"iss": "app", "aud": "https://auth.example.com/token?key=query-canary", "box_sub_type": "enterprise"}, form: "grant_type scope=", life: 60},
		"secret":  {request: withSecret(grantRequest(t, JWTGrant{Issuer: "app"})), claims: map[string]any{"iss": "app", "aud": "https://auth.example.com/token?key=query-canary"}, form: "client_id=app client_secret=s3cret grant_type scope=", life: 60},
		"issuer":  {request: withIssuer(grantRequest(t, JWTGrant{Issuer: "app"})), claims: map[string]any{"iss": "app", "aud": "https://auth.example.com"}, form: "grant_type scope=", life: 60},
	} {
		t.Run(name, func(t *testing.T) {
			test.request.Scopes = []string{"orders:read", "orders:write"}
			assertion, err := test.request.Grant.sign(test.request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := servertest.OpenJWT(t, assertion, servertest.Keys()["RSA"].Public())
			if header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != "k1" {
				t.Errorf("the header is %v", header)
			}
			id, _ := claims["jti"].(string)
			if claims["exp"].(float64)-claims["iat"].(float64) != test.life || claims["iat"] != float64(testTime.Unix()) || len(id) < 16 || len(id) > 128 {
				t.Errorf("the claims are %v", claims)
			}
			for _, own := range []string{"exp", "iat", "jti"} {
				delete(claims, own)
			}
			if !maps.Equal(claims, test.claims) {
				t.Errorf("the claims are %v, want %v", claims, test.claims)
			}
			if test.request.Issuer != "" {
				return // onWire has no metadata
			}
			form := sentAssertion(t, onWire(t, test.request, servertest.AnyToken)[0])
			if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(form.Get("assertion"), ".") != 2 {
				t.Errorf("sent %v", form)
			}
			delete(form, "assertion")
			form.Set("grant_type", "")
			want := strings.ReplaceAll(test.form, "scope=", "scope=orders:read orders:write")
			if got := strings.ReplaceAll(listForm(form), "grant_type=", "grant_type"); got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
		})
	}
}

func listForm(form map[string][]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(form)) {
		list = append(list, name+"="+strings.Join(form[name], ","))
	}
	return strings.Join(list, " ")
}

func TestGrantThatMakesNoSenseIsRefusedWithARemedy(t *testing.T) {
	for want, grant := range map[string]JWTGrant{
		"lifetime: must be longer than zero": {Lifetime: -1},
		"in whole seconds; use at least 1s":  {Lifetime: 1e6},
		"iss is written by the gateway":      {Claims: map[string]string{"iss": "x"}},
		"remove one of them":                 {Claims: map[string]string{"scope": "x"}, ScopeClaim: true},
		"can't be the name of a claim":       {Claims: map[string]string{"{env.X}": "x"}},
	} {
		if err := grant.Complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	fine := grantRequest(t, JWTGrant{Issuer: "app"})
	for want, change := range map[string]func(*Request){
		"grant: issuer: missing": func(r *Request) { r.Grant = &JWTGrant{} },
		"signing_key: missing":   func(r *Request) { r.Assertion = Assertion{} },
		"not UTF-8":              func(r *Request) { r.Grant = &JWTGrant{Issuer: "app", Subject: "\xff"} },
		"param: grant_type is written by grant jwt_bearer": func(r *Request) { r.Params = map[string][]string{"grant_type": {"x"}} },
		"param: assertion is written by grant jwt_bearer":  func(r *Request) { r.Params = map[string][]string{"assertion": {"x"}} },
	} {
		r := fine
		change(&r)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What a grant is for makes another token. So do its key and its way to ask.
func TestGrantsAreToldApart(t *testing.T) {
	keys := make(map[GrantKey]string)
	add := func(name string, r Request) {
		if other, isThere := keys[r.Key()]; isThere {
			t.Errorf("%s is the same grant as %s", name, other)
		}
		keys[r.Key()] = name
	}
	plain := grantRequest(t, JWTGrant{Issuer: "app"})
	plain.Grant = nil
	add("client credentials", plain)
	for name, grant := range map[string]JWTGrant{
		"jwt": {Issuer: "app"}, "issuer": {Issuer: "app2"}, "subject": {Issuer: "app", Subject: "u"}, "audience": {Issuer: "app", Audience: "a"},
		"scope": {Issuer: "app", ScopeClaim: true}, "claim": {Issuer: "app", Claims: map[string]string{"a": "b"}}, "lifetime": {Issuer: "app", Lifetime: 2e9},
	} {
		add(name, grantRequest(t, grant))
	}
}

// A gateway without the key can't read the tokens that others share, as it could not get them.
func TestGrantIsSharedWithItsKey(t *testing.T) {
	a := grantRequest(t, JWTGrant{Issuer: "app"})
	credential, err := a.Credential()
	if err != nil || len(credential) < 100 {
		t.Errorf("got %d bytes, %v", len(credential), err)
	}
	a.Grant, a.Assertion = nil, Assertion{}
	if _, err := a.Credential(); err == nil {
		t.Error("a client without a credential has one")
	}
}

func TestRefusedGrantIsExplained(t *testing.T) {
	request := grantRequest(t, JWTGrant{Issuer: "app", Subject: "u@example.com", Audience: "login.example.com"})
	request.Scopes = nil
	for answer, want := range map[string]string{
		`{"error":"invalid_grant","error_description":"the assertion is not valid"}`: "it had iss app, sub u@example.com, aud login.example.com; check these",
		`{"error":"unauthorized_client"}`:                                            "JWT bearer grant",
		`{"error":"unsupported_grant_type"}`:                                         "JWT bearer grant",
	} {
		_, failure := askOnce(t, servertest.Answer{Status: 400, Body: answer}, request)
		if failure == nil || !strings.Contains(failure.Hint, want) {
			t.Errorf("%s: the hint is %q", answer, failure.Hint)
		}
	}
}

// What operators must not see is not in the hint either: the endpoint's query, and what a tenant's secret chooses.
func TestRefusedGrantShowsNothingHidden(t *testing.T) {
	refusal := servertest.Answer{Status: 400, Body: `{"error":"invalid_grant","error_description":"no account hidden-canary-1"}`}
	request := grantRequest(t, JWTGrant{Issuer: "app", Subject: "hidden-canary-1"})
	request.Hidden = []string{"hidden-canary-1"}
	_, failure := askOnce(t, refusal, request)
	if want := "it had iss app, sub ***, aud https://auth.example.com/token; check these"; !strings.Contains(failure.Hint, want) {
		t.Errorf("the hint is %q", failure.Hint)
	}
	if strings.Contains(failure.Said, "hidden-canary") {
		t.Errorf("the log has %q", failure.Said)
	}
}

// A storage's records need all that a token request needs.
func TestCredentialOfAGrantHasTheSecretAndTheKey(t *testing.T) {
	request := grantRequest(t, JWTGrant{Issuer: "app"})
	request.AuthMethod, request.ClientID, request.ClientSecret = AuthSecretPost, "app", "s3cret"
	both, err := request.Credential()
	if err != nil || !strings.HasPrefix(string(both), "s3cret") || len(both) < 100 {
		t.Errorf("%d bytes, %v", len(both), err)
	}
	request.Grant, request.Assertion = nil, Assertion{}
	if alone, err := request.Credential(); err != nil || string(alone) != "s3cret" {
		t.Errorf("got %q, %v", alone, err)
	}
}

// A file without what the configuration leaves to it is not taken in place of one that has it.
func TestKeyFileHasToSayWhatIsLeftToIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.json")
	write := func(tokenEndpoint string) {
		text, err := json.Marshal(map[string]string{
			"type": "service_account", "private_key": servertest.PKCS8(t, servertest.Keys()["RSA"]), "client_email": "a@example.com", "token_uri": tokenEndpoint,
		})
		if err != nil {
			t.Fatal(err)
		}
		servertest.WriteFile(t, file, string(text))
	}
	write("https://oauth2.example.com/token")
	f := &KeyFile{Path: file, NamesEndpoint: true, NamesIssuer: true}
	first, _, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	for want, replace := range map[string]func(){
		"names no token endpoint":          func() { servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-256"])) },
		"token_endpoint: http would show":  func() { write("http://oauth2.example.com/token") },
		"token_endpoint: not an absolute ": func() { write("oauth2.example.com") },
	} {
		replace()
		if key, stale, err := f.Read(); key != first || err != nil || stale == nil || !strings.Contains(stale.Error(), want) {
			t.Errorf("got %v, %v; want %q", stale, err, want)
		}
	}
}

func TestServiceAccountKeyFileIsReadAsItIs(t *testing.T) {
	file := map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": "k9", "private_key": servertest.PKCS8(t, servertest.Keys()["RSA"]),
		"client_email": "gateway@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
	}
	write := func(change string, value any) []byte {
		members := make(map[string]any)
		for name, text := range file {
			members[name] = text
		}
		if change != "" {
			members[change] = value
		}
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	key, err := ParsePrivateKey(write("", nil))
	if err != nil {
		t.Fatal(err)
	}
	email, tokenEndpoint := key.ServiceAccount()
	if email != file["client_email"] || tokenEndpoint != file["token_uri"] || key.keyID != "k9" || key.alg != "RS256" {
		t.Errorf("got %s, %s, %s, %s", email, tokenEndpoint, key.keyID, key.alg)
	}
	for _, test := range []struct {
		change string
		value  any
		want   string
	}{
		{"private_key", "", "no private_key"},
		{"client_email", nil, "no client_email"},
		{"private_key", "canary", "the service account's private_key: the file is neither PEM nor a JWK"},
		{"type", "authorized_user", "a credential file without a private key"},
		{"type", "external_account", "a credential file without a private key"},
	} {
		if _, err := ParsePrivateKey(write(test.change, test.value)); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s %v: got %v", test.change, test.value, err)
		}
	}
}
