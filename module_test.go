package oauthcc

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// The secret of the configurations below, which no message may quote.
const configCanary = "s3cret-canary"

// configAt is a Caddyfile directive for an endpoint, complete but for what the
// endpoint is and what options add.
func configAt(endpoint string, options ...string) string {
	return "oauth_cc {\ntoken_endpoint " + endpoint + "\nclient_id app\nclient_secret " + configCanary + "\n" + strings.Join(options, "\n") + "\n}"
}

func configWith(options ...string) string {
	return configAt("https://auth.example.com/token", options...)
}

// configWithClient leaves the client's authentication to the options.
func configWithClient(options ...string) string {
	return "oauth_cc https://auth.example.com/token {\n" + strings.Join(options, "\n") + "\n}"
}

// jsonWith is for values that the Caddyfile's parser does not let through.
func jsonWith(member string) string {
	return `{"token_endpoint":"https://auth.example.com/token","client_id":"app","client_secret":"` + configCanary + `",` + member + `}`
}

// handlerFromConfig reads a Caddyfile directive or the handler's JSON.
func handlerFromConfig(t testing.TB, config string) *Handler {
	t.Helper()
	if strings.HasPrefix(config, "{") {
		return strictHandler(t, []byte(config))
	}
	adapted, err := gatewaytest.Adapt(":80 {\n" + config + "\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	return strictHandler(t, gatewaytest.AdaptedHandlers(t, string(adapted))[0])
}

// provisionConfig provisions a handler for the time of the test.
func provisionConfig(t testing.TB, config string) (*Handler, error) {
	t.Helper()
	h := handlerFromConfig(t, config)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(func() {
		cleanUpConfig(t, h)
		cancel()
	})
	return h, h.Provision(ctx)
}

func provisionedConfig(t testing.TB, config string) *Handler {
	t.Helper()
	h, err := provisionConfig(t, config)
	if err != nil {
		t.Fatalf("%v in\n%s", err, config)
	}
	return h
}

func cleanUpConfig(t testing.TB, h *Handler) {
	t.Helper()
	if err := h.Cleanup(); err != nil {
		t.Errorf("cleaning up: %v", err)
	}
}

func checkGrantUsers(t *testing.T, key endpoint.GrantKey, want int) {
	t.Helper()
	if got, exists := grants.References(key); got != want || exists != (want > 0) {
		t.Errorf("the token has %d users (in the pool: %t), want %d", got, exists, want)
	}
}

// configSecrets makes an empty file and one with the canary, and names one that is not
// there. It also sets variables.
func configSecrets(t *testing.T) (empty, full, missing string) {
	dir := t.TempDir()
	empty, full, missing = filepath.Join(dir, "empty"), filepath.Join(dir, "full"), filepath.Join(dir, "missing")
	servertest.WriteFile(t, empty, "")
	servertest.WriteFile(t, full, configCanary+"\n")
	t.Setenv("OAUTH_CC_TEST_EMPTY", "")
	t.Setenv("OAUTH_CC_TEST_SECRET", configCanary)
	t.Setenv("OAUTH_CC_TEST_BRACES", "{env.HOME}\\{}")
	t.Setenv("OAUTH_CC_TEST_LATIN", "caf\xe9")
	t.Setenv("OAUTH_CC_TEST_LINES", configCanary+"\r\nX-Injected: 1")
	t.Setenv("OAUTH_CC_TEST_HTTP", "http://auth.example.com/token")
	return empty, full, missing
}

func TestProvisionRefuses(t *testing.T) {
	empty, _, missing := configSecrets(t)
	// Caddy reads 1 MiB of a file, and then takes the end of a line away from what it has.
	cut, cutAtLine := filepath.Join(filepath.Dir(empty), "cut"), filepath.Join(filepath.Dir(empty), "cut-at-line")
	servertest.WriteFile(t, cut, strings.Repeat(configCanary, 1<<20/len(configCanary)+1))
	servertest.WriteFile(t, cutAtLine, strings.Repeat("a", 1<<20-2)+"\r\n"+configCanary)
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, keyFile, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	otherCertificate, _ := servertest.NewCA(t).Client(t, "other")
	withKey := func(options ...string) string {
		return configWithClient(append([]string{"client_id app", "auth_method private_key_jwt"}, options...)...)
	}
	withIssuer := func(issuer string) string {
		return "oauth_cc {\nissuer " + issuer + "\nclient_id app\nclient_secret " + configCanary + "\n}"
	}
	for _, test := range []struct {
		name   string
		config string
		says   []string // the first is how the message begins
	}{
		// The endpoint.
		{"no endpoint", "oauth_cc {\nclient_id app\nclient_secret " + configCanary + "\n}", []string{"token_endpoint: missing", "give the URL", "https://"}},
		{"empty endpoint", "oauth_cc \"\" {\nclient_id app\n}", []string{"token_endpoint: missing", "give the URL"}},
		{"endpoint that is a path", configAt("/token"), []string{"token_endpoint: not an absolute", "https://auth.example.com/oauth/token"}},
		{"endpoint without a scheme", configAt("auth.example.com/token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint without a scheme but a port", configAt("auth.example.com:443/token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint relative to a scheme", configAt("//auth.example.com/token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint without a host", configAt("https:///token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint with nothing but a port", configAt("https://:8443/token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint with a wrong port", configAt("https://auth.example.com:https/token"), []string{"token_endpoint: not an absolute"}},
		{"endpoint with a space", configAt(`"https://auth.example.com /token"`), []string{"token_endpoint: not an absolute"}},
		{"ftp", configAt("ftp://auth.example.com/token"), []string{"token_endpoint: not an absolute http or https URL"}},
		{"unix socket", configAt("unix//run/auth.sock"), []string{"token_endpoint: not an absolute http or https URL"}},
		{"user info", configAt("https://app:" + configCanary + "@auth.example.com/token"), []string{"token_endpoint: the URL has user info", "use client_id and client_secret"}},
		{"user without a password", configAt("https://app@auth.example.com/token"), []string{"token_endpoint: the URL has user info"}},
		{"fragment", configAt("https://auth.example.com/token#" + configCanary), []string{"token_endpoint: the URL has a fragment", "remove it"}},
		{"empty fragment", configAt(`"https://auth.example.com/token#"`), []string{"token_endpoint: the URL has a fragment"}},
		{"cleartext", configAt("http://auth.example.com/token"), []string{"token_endpoint: http would show", "use https", "insecure_http"}},
		{"cleartext on a private address", configAt("http://10.0.0.1/token"), []string{"token_endpoint: http would show"}},
		{"cleartext on all addresses", configAt("http://0.0.0.0/token"), []string{"token_endpoint: http would show"}},
		{"cleartext on an IPv6 address", configAt("http://[fe80::1]/token"), []string{"token_endpoint: http would show"}},
		{"cleartext on a name like an address", configAt("http://127.0.0.1.example.com/token"), []string{"token_endpoint: http would show"}},
		{"cleartext on a name like localhost", configAt("http://localhost.example.com/token"), []string{"token_endpoint: http would show"}},
		{"cleartext on a name ending like localhost", configAt("http://notlocalhost/token"), []string{"token_endpoint: http would show"}},
		{"cleartext from a placeholder", configAt("{env.OAUTH_CC_TEST_HTTP}"), []string{"token_endpoint: http would show"}},
		{"insecure_http is for http alone", configAt("ftp://auth.example.com/token", "insecure_http"), []string{"token_endpoint: not an absolute"}},

		// The client's authentication.
		{"basic without an id", configWithClient("client_secret " + configCanary), []string{"client_id: missing", "client_secret_basic needs one"}},
		{"basic without a secret", configWithClient("client_id app"), []string{"client_secret: missing", "client_secret_basic needs one"}},
		{"raw basic without an id", configWithClient("client_secret "+configCanary, "auth_method client_secret_basic_raw"), []string{"client_id: missing", "client_secret_basic_raw needs one"}},
		{"raw basic without a secret", configWithClient("client_id app", "auth_method client_secret_basic_raw"), []string{"client_secret: missing", "client_secret_basic_raw needs one"}},
		{"raw basic with a colon in the id", configWithClient("client_id urn:app", "client_secret "+configCanary, "auth_method client_secret_basic_raw"), []string{"client_id: contains a colon", "use client_secret_basic"}},
		{"post without an id", configWithClient("client_secret "+configCanary, "auth_method client_secret_post"), []string{"client_id: missing", "client_secret_post needs one"}},
		{"post without a secret", configWithClient("client_id app", "auth_method client_secret_post"), []string{"client_secret: missing", "client_secret_post needs one"}},
		{"secret that is not used", configWith("auth_method none"), []string{"client_secret: auth_method none sends no secret", "remove it", "client_secret_basic"}},
		{"unknown method", jsonWith(`"auth_method":"client_secret"`), []string{"auth_method: unknown method \"client_secret\"", "use one of client_secret_basic, client_secret_basic_raw, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, none"}},

		{"short secret for an assertion", configWith("auth_method client_secret_jwt"), []string{"client_secret: HS256 needs one of 32 bytes or more", "have the authorization server issue a longer one"}},
		{"alg of a key for a secret", configWith("auth_method client_secret_jwt", "signing_key {\nalg ES256\n}"), []string{"signing_key: alg ES256 does not fit auth_method client_secret_jwt", "use HS256, HS384, HS512"}},
		{"file beside a secret", configWith("auth_method client_secret_jwt", "signing_key "+keyFile), []string{"signing_key: auth_method client_secret_jwt signs with the client_secret", "remove the file, or use private_key_jwt"}},
		{"assertion without a secret", configWithClient("client_id app", "auth_method client_secret_jwt"), []string{"client_secret: missing", "client_secret_jwt needs one"}},
		{"assertion without an id", configWithClient("auth_method private_key_jwt", "signing_key "+keyFile), []string{"client_id: missing", "private_key_jwt needs one"}},
		{"assertion without a key", withKey(), []string{"signing_key: missing", "needs the file with the private key"}},
		{"assertion without a file", withKey("signing_key {\nalg ES256\n}"), []string{"signing_key: no file", "signing_key <file>"}},
		{"key and secret", withKey("signing_key "+keyFile, "client_secret "+configCanary), []string{"client_secret: auth_method private_key_jwt signs with signing_key", "remove it, or use client_secret_jwt"}},
		{"key that is not used", configWith("signing_key " + keyFile), []string{"signing_key: auth_method client_secret_basic signs nothing", "use private_key_jwt, or remove it"}},
		{"key that is missing", withKey("signing_key " + missing), []string{"signing_key: " + missing + ": no such file"}},
		{"key that is empty", withKey("signing_key " + empty), []string{"signing_key: " + empty + ": the file is empty"}},
		{"alg of another key", withKey("signing_key " + keyFile + " {\nalg PS256\n}"), []string{"signing_key: " + keyFile + ": alg PS256 does not fit the key", "use ES256, or another key"}},
		{"certificate of another key", withKey("signing_key " + keyFile + " {\ncertificate " + otherCertificate + "\n}"), []string{"signing_key: certificate: " + otherCertificate + ": the certificate is not that of the key", "give the one"}},
		{"certificate of a secret", configWith("auth_method client_secret_jwt", "signing_key {\ncertificate "+otherCertificate+"\n}"), []string{"signing_key: certificate: the client signs with its secret", "remove it"}},
		{"x5c without a certificate", jsonWith(`"signing_key":{"x5c":true},"auth_method":"client_secret_jwt"`), []string{"signing_key: x5c: no certificate", "certificate <file> x5c"}},
		{"path in place of an assertion", configWithClient("client_assertion /var/run/secrets/token"), []string{"client_assertion: a path, and no JWT", "write {file./path/to/file}"}},
		{"secret in place of an assertion", configWithClient("client_assertion " + configCanary), []string{"client_assertion: not a signed JWT"}},
		{"assertion without a value", jsonWith(`"client_assertion":{}`), []string{"client_assertion: missing", "{file./path/to/file}"}},
		{"assertion and another method", configWithClient("client_id app", "auth_method client_secret_post", "client_assertion e30.e30.eA"), []string{"client_assertion: auth_method client_secret_post does not send one", "use private_key_jwt"}},
		{"assertion and a key", configWithClient("client_id app", "signing_key "+keyFile, "client_assertion e30.e30.eA"), []string{"client_assertion: signing_key is given as well", "remove one"}},
		{"assertion and a secret", configWithClient("client_secret "+configCanary, "client_assertion e30.e30.eA"), []string{"client_secret: client_assertion is what the client authenticates with", "remove one"}},
		{"assertion of an unknown type", jsonWith(`"client_assertion":{"value":"e30.e30.eA","type":"jwt-spiffe"},"auth_method":"private_key_jwt"`), []string{"client_assertion: the type is not a URI", "write one such as urn:"}},
		{"assertion and storage", configWithClient("client_assertion e30.e30.eA", "storage"), []string{"storage: ", "client_assertion", "remove storage"}},
		{"assertion of a variable that is not set", configWithClient("client_assertion {env.OAUTH_CC_TEST_NOTHING}"), []string{"client_assertion: placeholder {env.OAUTH_CC_TEST_NOTHING} is empty", "set the variable"}},
		{"assertion of two placeholders", configWithClient("client_assertion {file." + missing + "}{http.request.header.X-A}"), []string{"client_assertion: a placeholder has something beside it", "write one placeholder alone"}},
		{"scope_claim without a scope", configWithClient("client_id app", "signing_key "+keyFile, "grant jwt_bearer {\nscope_claim\n}"), []string{"grant: scope_claim: there is no scope", "write scope"}},
		{"file without a path", configWithClient("client_id app", "client_secret {http.request.uri.path.file.secret}"), []string{"client_secret: placeholder {file.secret} is short for a part of the request's path", "write its path: {file./path/to/secret} or {file./secret}"}},
		{"placeholder of nothing in an assertion", configWithClient("client_assertion {nothing}"), []string{"client_assertion: unknown placeholder"}},

		{"grant of another kind", jsonWith(`"grant":{"type":"saml2_bearer"}`), []string{"grant: unknown type \"saml2_bearer\"", "use jwt_bearer"}},
		{"grant without a key", configWithClient("client_id app", "grant jwt_bearer"), []string{"signing_key: missing", "signing_key <file>"}},
		{"grant without an issuer", configWithClient("signing_key "+keyFile, "grant jwt_bearer"), []string{"signing_key: " + keyFile + ": the file names no issuer", "give it in the block of grant"}},
		{"grant without an endpoint", "oauth_cc {\nclient_id app\nsigning_key " + keyFile + "\ngrant jwt_bearer\n}", []string{"signing_key: " + keyFile + ": the file names no token endpoint", "Google", "give the URL in token_endpoint"}},
		{"grant of a client that signs with its secret", configWith("auth_method client_secret_jwt", "signing_key "+keyFile, "grant jwt_bearer"), []string{"auth_method: with grant jwt_bearer", "use another method"}},
		{"grant and an audience of the client's assertion", configWithClient("client_id app", "signing_key "+keyFile+" {\naudience x\n}", "grant jwt_bearer"), []string{"signing_key: audience is for an assertion that the client doesn't send", "write it into the block of grant"}},
		{"grant and a lifetime of the client's assertion", configWithClient("client_id app", "signing_key "+keyFile+" {\nlifetime 1m\n}", "grant jwt_bearer"), []string{"signing_key: lifetime is for an assertion that the client doesn't send", "write it into the block of grant"}},
		{"grant and its type", configWithClient("client_id app", "signing_key "+keyFile, "grant jwt_bearer", "param grant_type x"), []string{"param: grant_type is written by grant jwt_bearer", "remove one"}},
		{"claim of the gateway's", configWithClient("client_id app", "signing_key "+keyFile, "grant jwt_bearer {\nclaim exp 1\n}"), []string{"grant: claim: exp is written by the gateway itself"}},
		{"placeholder that is empty in a grant", configWithClient("client_id app", "signing_key "+keyFile, "grant jwt_bearer {\nsubject {env.OAUTH_CC_TEST_NOTHING}\n}"), []string{"grant.subject: placeholder {env.OAUTH_CC_TEST_NOTHING} is empty"}},
		{"lifetime of an assertion below a second", withKey("signing_key " + keyFile + " {\nlifetime 10ms\n}"), []string{"signing_key: lifetime: ", "use at least 1s"}},
		{"key_id that is not set", withKey("signing_key " + keyFile + " {\nkey_id {env.OAUTH_CC_TEST_UNSET}\n}"), []string{"signing_key.key_id: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"assertion as JSON", withKey("signing_key "+keyFile, "request_format json"), []string{"request_format: auth_method private_key_jwt is defined for forms alone", "use form"}},
		{"mutual TLS without a certificate", configWithClient("client_id app", "auth_method tls_client_auth"), []string{"transport: auth_method tls_client_auth needs a client certificate", "write transport { tls_client_auth <certificate> <key> }"}},
		{"mutual TLS with a secret", configWith("auth_method tls_client_auth", "transport {\ntls_client_auth a b\n}"), []string{"client_secret: auth_method tls_client_auth uses the client certificate", "remove it"}},
		{"mutual TLS without an id", configWithClient("auth_method tls_client_auth", "transport {\ntls_client_auth a b\n}"), []string{"client_id: missing"}},
		{"mutual TLS over cleartext", "oauth_cc http://localhost/token {\nclient_id app\nauth_method tls_client_auth\ntransport {\ntls_client_auth a b\n}\n}", []string{"auth_method: tls_client_auth needs TLS", "https"}},
		{"certificate that is missing", configWithClient("client_id app", "auth_method tls_client_auth", "transport {\ntls_client_auth "+missing+" "+missing+"\n}"), []string{"transport: ", missing}},

		// The issuer.
		{"endpoint and issuer", configWith("issuer https://auth.example.com"), []string{"issuer: token_endpoint is given as well", "keep one of them"}},
		{"issuer that is a path", withIssuer("/tenant"), []string{"issuer: not an absolute", "https://auth.example.com"}},
		{"issuer without a host", withIssuer("https:///tenant"), []string{"issuer: not an absolute"}},
		{"issuer over ftp", withIssuer("ftp://auth.example.com"), []string{"issuer: not an absolute http or https URL"}},
		{"issuer with user info", withIssuer("https://app:" + configCanary + "@auth.example.com"), []string{"issuer: the URL has user info", "use client_id"}},
		{"issuer with a query", withIssuer("https://auth.example.com/?tenant=" + configCanary), []string{"issuer: the URL has a query or a fragment", "remove it"}},
		{"issuer with a fragment", withIssuer("https://auth.example.com/#a"), []string{"issuer: the URL has a query or a fragment"}},
		{"issuer over cleartext", withIssuer("http://auth.example.com"), []string{"issuer: over http anyone", "use https, or set insecure_http"}},
		{"URL of the metadata", withIssuer("https://auth.example.com/.well-known/openid-configuration"), []string{"issuer: give the issuer itself"}},
		{"issuer that is not set", withIssuer("{env.OAUTH_CC_TEST_UNSET}"), []string{"issuer: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},

		// Proofs.
		{"origin with a path", configWith("dpop https://api.example.com/v1"), []string{"dpop: an origin has no path", "write one such as https://api.example.com"}},
		{"origin with a query", configWith("dpop https://api.example.com?a"), []string{"dpop: an origin has no user info, query or fragment"}},
		{"origin with user info", configWith("dpop https://" + configCanary + "@api.example.com"), []string{"dpop: an origin has no user info"}},
		{"origin without a scheme", configWith("dpop api.example.com"), []string{"dpop: not an http or https origin", "such as https://api.example.com"}},
		{"origin from a placeholder of the request", configWith("dpop https://{http.request.host}"), []string{"dpop: placeholder {http.request.host} differs from request to request", "use {env.*}"}},
		{"storage with dpop", configWith("storage", "dpop https://api.example.com"), []string{"storage: with dpop tokens are bound to a key of this process", "remove one of them"}},
		{"storage without a credential", configWithClient("client_id app", "auth_method none", "storage"), []string{"storage: tokens are encrypted with the client's credential, and auth_method none has none", "remove storage"}},
		{"storage that is none", jsonWith(`"storage":"redis"`), []string{"storage: not a storage module", "write an object"}},
		{"storage that is not there", jsonWith(`"storage":{"module":"abacus"}`), []string{"storage: ", "caddy.storage.abacus"}},
		{"storage without a module", jsonWith(`"storage":{"root":"/mnt"}`), []string{"storage: ", "module"}},
		{"dpop with another header", configWith("dpop https://api.example.com", "token_header X-Token"), []string{"dpop: the token travels in Authorization", "remove token_header"}},
		{"header DPoP", configWith("request_header DPoP a"), []string{"request_header: Dpop is written by the gateway itself"}},

		// Placeholders.
		{"variable that is not set", configWithClient("client_id app", "client_secret {env.OAUTH_CC_TEST_UNSET}"), []string{"client_secret: placeholder {env.OAUTH_CC_TEST_UNSET} is empty", "set the variable"}},
		{"empty variable", configWithClient("client_id {env.OAUTH_CC_TEST_EMPTY}", "client_secret "+configCanary), []string{"client_id: placeholder {env.OAUTH_CC_TEST_EMPTY} is empty", "set the variable"}},
		{"variable amid text", configAt("https://{env.OAUTH_CC_TEST_UNSET}.example.com/token"), []string{"token_endpoint: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"unreadable file", configWithClient("client_id app", "client_secret {file."+missing+"}"), []string{"client_secret: placeholder {file." + missing + "} is empty", "make the file readable"}},
		{"empty file", configWithClient("client_id app", "client_secret {file."+empty+"}"), []string{"client_secret: placeholder {file." + empty + "} is empty", "not empty"}},
		{"cut file", configWithClient("client_id app", "client_secret {file."+cut+"}"), []string{"client_secret: placeholder {file." + cut + "} has 1 MiB or more", "name a smaller file"}},
		{"file cut amid text", configWith("param a b{file." + cutAtLine + "}"), []string{"param a: placeholder {file." + cutAtLine + "} has 1 MiB or more"}},
		{"folder for a file", configWithClient("client_id app", "client_secret {file."+filepath.Dir(empty)+"}"), []string{"client_secret: placeholder {file.", "is empty"}},
		{"scope", configWith("scope {env.OAUTH_CC_TEST_UNSET}"), []string{"scope: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"audience", configWith("audience {env.OAUTH_CC_TEST_UNSET}"), []string{"audience: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"resource", configWith("resource {env.OAUTH_CC_TEST_UNSET}"), []string{"resource: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"param", configWith("param tenant {env.OAUTH_CC_TEST_UNSET}"), []string{"param tenant: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"request_header", configWith("request_header X-Key {env.OAUTH_CC_TEST_UNSET}"), []string{"request_header X-Key: placeholder {env.OAUTH_CC_TEST_UNSET} is empty"}},
		{"placeholder of the time", configWith("param now {time.now}"), []string{"param now: unknown placeholder {time.now}", `\{`}},
		{"braces in a secret", configWithClient("client_id app", "client_secret a{"+configCanary+"}z"), []string{"client_secret: unknown placeholder", "use {env.*}, {file.", `write \{ for a literal brace`}},
		{"empty braces in a secret", configWithClient("client_id app", "client_secret "+configCanary+"{}"), []string{"client_secret: unknown placeholder", `\{`}},

		// The token request.
		{"unknown format", jsonWith(`"request_format":"xml"`), []string{"request_format: unknown format \"xml\"", "use form or json"}},
		{"relative resource", configWith("resource /orders"), []string{"resource: \"/orders\" is not an absolute URI", "write one such as https://"}},
		{"resource with a fragment", configWith("resource https://api.example.com/#orders"), []string{"resource: ", "without fragment"}},
		{"empty resource", jsonWith(`"resource":[""]`), []string{"resource: \"\" is not an absolute URI"}},
		{"param without a name", jsonWith(`"params":{"":["1"]}`), []string{"param: \"\" can't be the name", "param <name> <value>"}},
		{"placeholder as a param's name", configWith("param {env.HOME} 1"), []string{"param: ", "has no placeholders"}},
		{"empty scope", jsonWith(`"scopes":[""]`), []string{"scope, audience: a value is empty", "remove it"}},
		{"empty audience", jsonWith(`"audience":["a",""]`), []string{"scope, audience: a value is empty", "remove it"}},
		{"request_header in two spellings", jsonWith(`"request_headers":{"X-A":["1"],"x-a":["2"]}`), []string{"request_header: X-A is given in several spellings", "use one"}},
		{"brace that is not closed", configWithClient("client_id app", "client_secret {env.OAUTH_CC_TEST_SECRET"), []string{"client_secret: a brace is not closed", `\{`}},
		{"replay_buffer without retry_status", configWith("retry_status off", "replay_buffer 1MiB"), []string{"replay_buffer: without retry_status", "name the statuses"}},
		{"TLS options for cleartext", configAt("http://localhost/token", "transport {\ntls\n}"), []string{"transport: TLS options have no effect", "use https"}},
		{"param client_id", configWith("param client_id app"), []string{"param: client_id has an option of its own", "use client_id"}},
		{"param client_secret", configWith("param client_secret " + configCanary), []string{"param: client_secret has an option of its own", "use client_secret"}},
		{"param client_assertion", configWith("param client_assertion " + configCanary), []string{"param: client_assertion "}},
		{"param client_assertion_type", configWith("param client_assertion_type a"), []string{"param: client_assertion_type "}},
		{"param scope", configWith("param scope a"), []string{"param: scope has an option of its own", "use scope"}},
		{"param audience", configWith("param audience a"), []string{"param: audience has an option of its own", "use audience"}},
		{"param resource", configWith("param resource a"), []string{"param: resource has an option of its own", "use resource"}},
		{"header name with a space", configWith(`request_header "X Key" 1`), []string{"request_header: \"X Key\" is not a valid header name", "use letters, digits and hyphens"}},
		{"header name with a colon", configWith("request_header X-Key: 1"), []string{"request_header: \"X-Key:\" is not a valid header name"}},
		{"header without a name", jsonWith(`"request_headers":{"":["1"]}`), []string{"request_header: \"\" is not a valid header name"}},
		{"client id that is no UTF-8", configWithClient("client_id {env.OAUTH_CC_TEST_LATIN}", "client_secret x"), []string{"client_id: not UTF-8", "in UTF-8"}},
		{"issuer that is no UTF-8", withIssuer("https://auth.example.com/{env.OAUTH_CC_TEST_LATIN}"), []string{"issuer: not UTF-8", "in UTF-8"}},
		{"header value with line breaks", configWith("request_header X-Key {env.OAUTH_CC_TEST_LINES}"), []string{"request_header: the value of X-Key has characters", "remove line breaks"}},
		{"header Content-Type", configWith("request_header content-type text/plain"), []string{"request_header: Content-Type is written by the gateway itself", "remove it", "request_format"}},
		{"header Content-Length", configWith("request_header Content-Length 5"), []string{"request_header: Content-Length is written"}},
		{"header Host", configWith("request_header Host example.com"), []string{"request_header: Host is written"}},
		{"header Transfer-Encoding", configWith("request_header Transfer-Encoding chunked"), []string{"request_header: Transfer-Encoding is written"}},
		{"header Connection", configWith("request_header Connection close"), []string{"request_header: Connection is written"}},
		{"header Expect", configWith("request_header Expect 100-continue"), []string{"request_header: Expect is written"}},
		{"header Authorization beside basic", configWith("request_header authorization " + configCanary), []string{"request_header: Authorization carries the credential of auth_method client_secret_basic", "use client_secret_post or none"}},
		{"header Authorization beside raw basic", configWith("auth_method client_secret_basic_raw", "request_header Authorization "+configCanary), []string{"request_header: Authorization carries the credential of auth_method client_secret_basic_raw"}},

		// The upstream.
		{"token_header with a space", configWith(`token_header "X Token"`), []string{"token_header: \"X Token\" is not a valid header name", "use letters, digits and hyphens"}},
		{"token_header with a colon", configWith("token_header Authorization:"), []string{"token_header: \"Authorization:\" is not a valid header name"}},
		{"token_header outside ASCII", configWith("token_header X-Tökén"), []string{"token_header: \"X-Tökén\" is not a valid header name"}},
		{"token_header without a name", jsonWith(`"token_header":{"scheme":"Bearer"}`), []string{"token_header: \"\" is not a valid header name"}},
		{"token_header with a placeholder", configWith("token_header {env.HOME}"), []string{"token_header: \"{env.HOME}\" is not a valid header name"}},
		{"scheme with a space", configWith(`token_header Authorization "Bearer "`), []string{"token_header: \"Bearer \" is not a valid authentication scheme", "use a single word such as Bearer"}},
		{"scheme with a line break", jsonWith(`"token_header":{"name":"Authorization","scheme":"Bearer\r\nX: "}`), []string{"token_header: \"Bearer\\r\\nX: \" is not a valid authentication scheme"}},
		{"token_header connection", configWith("token_header connection Bearer"), []string{"token_header: Connection belongs to the connection", "use another header"}},
		{"token_header Proxy-Authorization", configWith("token_header Proxy-Authorization Bearer"), []string{"token_header: Proxy-Authorization belongs to the connection"}},
		{"token_header TE", configWith("token_header TE"), []string{"token_header: Te belongs to the connection"}},
		{"token_header Upgrade", configWith("token_header upgrade"), []string{"token_header: Upgrade belongs to the connection"}},
		{"token_header Host", configWith("token_header Host"), []string{"token_header: Host belongs to the connection"}},
		{"retry_status below the range", jsonWith(`"retry_status":[401,299]`), []string{"retry_status: 299 is not a status of a rejection", "use one from 300 to 599"}},
		{"retry_status above the range", jsonWith(`"retry_status":[600]`), []string{"retry_status: 600 is not"}},
		{"mask_rejection below the range", jsonWith(`"mask_rejection":302`), []string{"mask_rejection: 302 is not a status of an error", "use one from 400 to 599"}},
		{"mask_rejection above the range", jsonWith(`"mask_rejection":600`), []string{"mask_rejection: 600 is not"}},
		{"negative mask_rejection", jsonWith(`"mask_rejection":-1`), []string{"mask_rejection: -1 is not"}},
		{"mask_rejection of nothing", configWith("mask_rejection", "retry_status off"), []string{"mask_rejection: without retry_status nothing counts as a rejection", "name the statuses in retry_status"}},
		{"negative size per request", jsonWith(`"replay_buffer":{"per_request":-1}`), []string{"replay_buffer: sizes must be greater than zero", "use retry_status off"}},
		{"negative total size", jsonWith(`"replay_buffer":{"total":-1}`), []string{"replay_buffer: sizes must be greater than zero"}},
		{"total smaller than the size per request", configWith("replay_buffer 2MiB 1MiB"), []string{"replay_buffer: the total is smaller", "make it at least as large"}},
		{"total smaller than the default per request", jsonWith(`"replay_buffer":{"total":1024}`), []string{"replay_buffer: the total is smaller"}},

		// Where an answer has what.
		{"a response field of another name", jsonWith(`"response_fields":{"id_token":"a"}`), []string{"response_field: \"id_token\" can't have another place", "use one of access_token, expires_in, token_type"}},
		{"a response field without a path", jsonWith(`"response_fields":{"access_token":""}`), []string{"response_field: \"\" is not a path", "such as data.accessToken"}},
		{"a response field in a list", jsonWith(`"response_fields":{"expires_in":"tokens[0].expires"}`), []string{"response_field: \"tokens[0].expires\" is not a path", "such as data.accessToken"}},

		// Times and the way to the endpoint.
		{"negative timeout", jsonWith(`"timeout":-1`), []string{"timeout: must be longer than zero", "such as 10s"}},
		{"refresh_ahead as a number", jsonWith(`"refresh_ahead":"30"`), []string{"refresh_ahead: \"30\" is not a time ahead", "use a duration such as 2m", "or off"}},
		{"negative refresh_ahead", jsonWith(`"refresh_ahead":"-5m"`), []string{"refresh_ahead: \"-5m\" is not a time ahead", "such as 25%"}},
		{"refresh_ahead of the whole life", jsonWith(`"refresh_ahead":"100%"`), []string{"refresh_ahead: \"100%\" is not a time ahead", "up to 90%"}},
		{"negative default_ttl", jsonWith(`"default_ttl":"-5m"`), []string{"default_ttl: must be longer than zero", "such as 5m"}},
		{"negative ttl", jsonWith(`"ttl":"-5m"`), []string{"ttl: must be longer than zero", "such as 1h"}},
		{"ttl and default_ttl", configWith("ttl 1h", "default_ttl 5m"), []string{"ttl: default_ttl is given as well", "remove default_ttl"}},
		{"transport with proxy_protocol", configWith("transport {\nproxy_protocol v2\n}"), []string{"transport: proxy_protocol needs a client's connection", "remove it"}},
		{"transport with an unknown version", configWith("transport {\nversions 4\n}"), []string{"transport: unsupported HTTP version"}},
		{"transport with a missing CA", configWith("transport {\ntls_trust_pool file {\npem_file " + missing + "\n}\n}"), []string{"transport: ", missing}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := provisionConfig(t, test.config)
			if err == nil {
				t.Fatalf("was accepted:\n%s", test.config)
			}
			wantMessage(t, err, test.says)
			if h.holds.grant || h.tokens.source != nil {
				t.Error("a token was acquired all the same")
			}
			cleanUpConfig(t, h)
			if _, held := proofKeys.References(proofKeyName); held {
				t.Error("the key of the proofs is still held")
			}
		})
	}
}

// wantMessage checks an error: it begins with the first text, has the others in it and quotes
// no secret.
func wantMessage(t *testing.T, err error, says []string) {
	t.Helper()
	message := err.Error()
	if !strings.HasPrefix(message, says[0]) {
		t.Errorf("the message is %q, which does not begin with %q", message, says[0])
	}
	for _, part := range says[1:] {
		if !strings.Contains(message, part) {
			t.Errorf("the message is %q, which does not say %q", message, part)
		}
	}
	if strings.Contains(message, configCanary) {
		t.Errorf("%q quotes a secret", message)
	}
}

func TestProvisionAccepts(t *testing.T) {
	_, full, _ := configSecrets(t)
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, keyFile, servertest.PKCS8(t, servertest.Keys()["RSA"]))
	certificate, certificateKey := servertest.NewCA(t).Client(t, "app")
	t.Setenv("OAUTH_CC_TEST_KEY", keyFile)
	t.Setenv("OAUTH_CC_TEST_LONG_SECRET", servertest.LongSecret)
	withKey := func(options ...string) string {
		return configWithClient(append([]string{"client_id app", "auth_method private_key_jwt"}, options...)...)
	}
	for _, config := range []string{
		withKey("signing_key " + keyFile),
		withKey("signing_key {env.OAUTH_CC_TEST_KEY} {\nalg PS384\nkey_id a\n}"),
		configWithClient("client_id app", "auth_method client_secret_jwt", "client_secret {env.OAUTH_CC_TEST_LONG_SECRET}"),
		configWithClient("client_id app", "auth_method client_secret_jwt", "client_secret {env.OAUTH_CC_TEST_LONG_SECRET}", "signing_key {\nalg HS512\n}"),
		configWithClient("client_id app", "auth_method tls_client_auth", "transport {\ntls_client_auth "+certificate+" "+certificateKey+"\n}"),
		"oauth_cc {\nissuer https://auth.example.com/tenant/\nclient_id app\nauth_method none\n}",
		"oauth_cc {\nissuer http://localhost:8443\nclient_id app\nauth_method none\n}",
		"oauth_cc {\nissuer http://auth.example.com\nclient_id app\nauth_method none\ninsecure_http\n}",
		configWith("dpop https://API.example.com:443/"),
		configWith("dpop http://api.internal:8080", "retry_status off"),
		configWith("dpop http://api.internal:8080", "retry_status off", "replay_buffer 2MiB"),
		"oauth_cc https://auth.example.com/token {\nclient_id app\nclient_secret " + configCanary + "\n}",
		configAt("HTTPS://auth.example.com:8443/token?tenant=42"),
		configAt("http://localhost/token"),
		configAt("http://LOCALHOST.:8080/token"),
		configAt("http://auth.localhost:9090/token"),
		configAt("http://127.0.0.1:9090/token"),
		configAt("http://127.1.2.3/token"),
		configAt("http://[::1]:9090/token"),
		configAt("http://auth.example.com/token", "insecure_http"),
		configAt("{env.OAUTH_CC_TEST_HTTP}", "insecure_http"),
		configWith("auth_method client_secret_basic"),
		configWith("auth_method client_secret_basic_raw"),
		configWith("auth_method client_secret_post", "request_header Authorization Gateway"),
		configWithClient("client_id urn:app", "client_secret "+configCanary),
		configWithClient("client_id app", "auth_method none"),
		configWithClient("auth_method none"),
		configWithClient("client_id app", "client_secret {file."+full+"}"),
		configWith("resource urn:example:orders"),
		configWith("param grant_type client_credential"),
		configWith("retry_status off"),
		configWith("retry_status 300 599", "mask_rejection 599"),
		configWith("replay_buffer 100MiB"),
		configWith("replay_buffer 1MiB 1MiB"),
		configWith("token_header X-Api-Token"),
		configWith(`token_header X-Api-Token ""`),
		configWith("transport {\nversions 2 1.1\ndial_timeout 1s\n}"),
		jsonWith(`"retry_status":[],"timeout":0`),
	} {
		h := provisionedConfig(t, config)
		checkGrantUsers(t, h.tokens.key, 1)
		cleanUpConfig(t, h)
		checkGrantUsers(t, h.tokens.key, 0)
	}
}

func TestPlaceholdersAreResolvedOnceAndBracesCanBeEscaped(t *testing.T) {
	_, full, _ := configSecrets(t)
	for written, want := range map[string]string{
		configCanary:                 configCanary,
		"{env.OAUTH_CC_TEST_SECRET}": configCanary,
		"{file." + full + "}":        configCanary,
		"a-{env.OAUTH_CC_TEST_SECRET}-z{file." + full + "}": "a-" + configCanary + "-z" + configCanary,
		"{env.OAUTH_CC_TEST_BRACES}":                        "{env.HOME}\\{}",
		`a\{b\}c`:                                           "a{b}c",
		`"a\{b}c"`:                                          "a{b}c",
		`\{env.OAUTH_CC_TEST_SECRET\}`:                      "{env.OAUTH_CC_TEST_SECRET}",
		"a}b":                                               "a}b",
		`a\b`:                                               `a\b`,
	} {
		h := provisionedConfig(t, configWithClient("client_id app", "client_secret "+written))
		request, err := h.request.resolve(nil)
		if err != nil {
			t.Errorf("%s: %v", written, err)
		}
		if request.ClientSecret != want {
			t.Errorf("%s is resolved to %q, want %q", written, request.ClientSecret, want)
		}
	}
}

func TestEveryOptionTogetherIsProvisioned(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, secret, strings.Repeat("long enough ", 3))
	site := readGoldens(t, filepath.Join(adaptDir, "everything"+goldenExtension))[0].input
	site = strings.ReplaceAll(site, "/run/secrets/client", secret)
	const assertion, grant = "client_assertion {file./run/secrets/assertion}", "grant jwt_bearer {\n\t\t\tsubject 42\n\t\t}"
	for _, excluded := range [][]string{ // of options that exclude each other
		{" https://auth.example.com/token", "token_header X-Api-Token Bearer", "max_tokens 500", "storage file_system /mnt/tokens", "default_ttl 10m", assertion, grant},
		{"issuer https://auth.example.com", "dpop https://api.example.com", "max_tokens 500", "ttl 1h", assertion, grant},
		{"issuer https://auth.example.com", "dpop https://api.example.com", "max_tokens 500", "ttl 1h", "storage file_system /mnt/tokens",
			"client_secret {file." + secret + "}", "auth_method client_secret_jwt", "signing_key {\n\t\t\talg HS256\n\t\t\ttyp JWT\n\t\t}", grant},
	} {
		allowed := site
		for _, text := range excluded {
			if !strings.Contains(allowed, text) {
				t.Fatalf("no %q in\n%s", text, site)
			}
			allowed = strings.Replace(allowed, text, "", 1)
		}
		if err := validateCaddyfile(t, allowed); err != nil {
			t.Error(err)
		}
	}
}

// validateCaddyfile is what caddy validate does.
func validateCaddyfile(t testing.TB, text string) error {
	t.Helper()
	adapted, err := gatewaytest.Adapt(text)
	if err != nil {
		t.Fatal(err)
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(adapted, config); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(config)
}

// The pool gives way to whoever releases, so a release too many would take the token
// away from the configuration that runs.
func TestFailedProvisionReleasesNothing(t *testing.T) {
	config := configWith("transport {\nproxy_protocol v1\n}")
	h, err := provisionConfig(t, config)
	if err == nil || h.tokens.key == (endpoint.GrantKey{}) {
		t.Fatalf("want a failure after the key was known, got %v", err)
	}
	if _, err := acquireGrant(h.tokens.key, tokencache.NewGrant); err != nil { // as another configuration would
		t.Fatal(err)
	}
	for range 2 {
		cleanUpConfig(t, h)
		checkGrantUsers(t, h.tokens.key, 1)
	}
	if err := releaseGrant(h.tokens.key); err != nil {
		t.Fatal(err)
	}
	checkGrantUsers(t, h.tokens.key, 0)
}

func TestCleanupIsSafeBeforeProvisionAndTwice(t *testing.T) {
	cleanUpConfig(t, new(Handler))
	cleanUpConfig(t, handlerFromConfig(t, configWith("transport {\nversions 1.1\n}")))

	config := configWith("dpop https://api.example.com")
	running, other := provisionedConfig(t, config), provisionedConfig(t, config)
	checkGrantUsers(t, running.tokens.key, 2)
	for range 2 {
		cleanUpConfig(t, other)
		checkGrantUsers(t, running.tokens.key, 1)
		if users, _ := proofKeys.References(proofKeyName); users != 1 {
			t.Errorf("the key of the proofs has %d users", users)
		}
	}
	if isReleased(t, running.tokens.source.grant) {
		t.Error("the token was destroyed while in use")
	}
	cleanUpConfig(t, running)
	checkGrantUsers(t, running.tokens.key, 0)
	if !isReleased(t, running.tokens.source.grant) {
		t.Error("the token was not destroyed after its last use")
	}
}

// As Caddy does when it loads, and unloads, a configuration.
func TestUnloadedConfigurationLeavesNothingBehind(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	loaded, err := ctx.LoadModuleByID("http.handlers.oauth_cc", json.RawMessage(jsonWith(`"scopes":["orders:read"]`)))
	if err != nil {
		t.Fatal(err)
	}
	key := loaded.(*Handler).tokens.key
	checkGrantUsers(t, key, 1)
	_, err = ctx.LoadModuleByID("http.handlers.oauth_cc", json.RawMessage(jsonWith(`"scopes":["orders:read"],"timeout":-1`)))
	if err == nil || !strings.Contains(err.Error(), "timeout: must be longer than zero") {
		t.Errorf("got %v", err)
	}
	checkGrantUsers(t, key, 1)
	_, err = ctx.LoadModuleByID("http.handlers.oauth_cc", json.RawMessage(jsonWith(`"scope":["orders:read"]`)))
	if err == nil || !strings.Contains(err.Error(), `unknown field "scope"`) {
		t.Errorf("got %v", err)
	}
	cancel()
	checkGrantUsers(t, key, 0)
}

func TestEqualGrantsAreShared(t *testing.T) {
	configSecrets(t)
	all := "scope a b\naudience c\nresource urn:d\nparam e f\nparam e g\nrequest_header X-H i\ntransport {\nversions 1.1\n}"
	base := configWith(all)
	for name, config := range map[string]string{
		"the same once more":                 base,
		"another order of the options":       configWith(strings.Replace(all, "scope a b\naudience c", "audience c\nscope a\nscope b", 1)),
		"the default method by name":         configWith(all, "auth_method client_secret_basic"),
		"the default format by name":         configWith(all, "request_format form"),
		"another timeout":                    configWith(all, "timeout 3s"),
		"another default_ttl":                configWith(all, "default_ttl 3s"),
		"another refresh_ahead":              configWith(all, "refresh_ahead 50%"),
		"another token_header":               configWith(all, "token_header X-Api-Token"),
		"another origin":                     "",
		"keep_client_authorization":          configWith(all, "keep_client_authorization"),
		"other statuses":                     configWith(all, "retry_status 403"),
		"another replay_buffer":              configWith(all, "replay_buffer 1KiB"),
		"mask_rejection":                     configWith(all, "mask_rejection"),
		"allow_without_token":                configWith(all, "allow_without_token"),
		"insecure_http that is not needed":   configWith(all, "insecure_http"),
		"the same variable for the secret":   "",
		"the same endpoint, as the argument": strings.Replace(base, "oauth_cc {\ntoken_endpoint https://auth.example.com/token\n", "oauth_cc https://auth.example.com/token {\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			first, second := base, config
			if name == "another origin" {
				first, second = configWith(all, "dpop https://a.example.com"), configWith(all, "dpop https://b.example.com")
			} else if config == "" {
				first = strings.ReplaceAll(base, configCanary, "{env.OAUTH_CC_TEST_SECRET}")
				second = first
			}
			a, b := provisionedConfig(t, first), provisionedConfig(t, second)
			if a.tokens.source.grant != b.tokens.source.grant {
				t.Errorf("no shared token for\n%s\nand\n%s", first, second)
			}
			checkGrantUsers(t, a.tokens.key, 2)
		})
	}
}

func TestDifferentGrantsAreNotShared(t *testing.T) {
	_, full, _ := configSecrets(t)
	t.Setenv("OAUTH_CC_TEST_A", "a")
	t.Setenv("OAUTH_CC_TEST_LONG_SECRET", servertest.LongSecret)
	t.Setenv("OAUTH_CC_TEST_ENDPOINT", "https://auth.example.com/token")
	base := configWith("scope a", "audience a", "resource urn:a", "param a a", "request_header X-A a", "transport {\nversions 1.1\n}")
	change := func(from, to string) string {
		changed := strings.Replace(base, from, to, 1)
		if changed == base {
			t.Fatalf("no %q in\n%s", from, base)
		}
		return changed
	}
	configs := map[string]string{
		"base":              base,
		"endpoint's path":   change("/token\n", "/token2\n"),
		"endpoint's query":  change("/token\n", "/token?tenant=1\n"),
		"client_id":         change("client_id app", "client_id app2"),
		"client_secret":     change(configCanary, configCanary+"2"),
		"secret's source":   change(configCanary, "{env.OAUTH_CC_TEST_SECRET}"),
		"another source":    change(configCanary, "{file."+full+"}"),
		"method":            change("scope a", "scope a\nauth_method client_secret_post"),
		"raw method":        change("scope a", "scope a\nauth_method client_secret_basic_raw"),
		"no authentication": strings.Replace(change("scope a", "scope a\nauth_method none"), "client_secret "+configCanary+"\n", "", 1),
		"format":            change("scope a", "scope a\nrequest_format json"),
		"scope":             change("scope a", "scope b"),
		"one more scope":    change("scope a", "scope a b"),
		"no scope":          change("scope a\n", ""),
		"audience":          change("audience a", "audience b"),
		"no audience":       change("audience a\n", ""),
		"resource":          change("resource urn:a", "resource urn:b"),
		"no resource":       change("resource urn:a\n", ""),
		"param's name":      change("param a a", "param b a"),
		"param's value":     change("param a a", "param a b"),
		"two values":        change("param a a", "param a a\nparam a b"),
		"no param":          change("param a a\n", ""),
		"header's name":     change("request_header X-A a", "request_header X-B a"),
		"header's value":    change("request_header X-A a", "request_header X-A b"),
		"no header":         change("request_header X-A a\n", ""),
		"issuer":            change("token_endpoint https://auth.example.com/token", "issuer https://auth.example.com/token"),
		"insecure issuer":   change("token_endpoint https://auth.example.com/token", "issuer https://auth.example.com/token\ninsecure_http"),
		"proofs":            change("scope a", "scope a\ndpop https://api.example.com"),
		"signed":            strings.Replace(change("scope a", "scope a\nauth_method client_secret_jwt"), configCanary, "{env.OAUTH_CC_TEST_LONG_SECRET}", 1),
		"signed with alg":   strings.Replace(change("scope a", "scope a\nauth_method client_secret_jwt\nsigning_key {\nalg HS512\n}"), configCanary, "{env.OAUTH_CC_TEST_LONG_SECRET}", 1),
		"signed for":        strings.Replace(change("scope a", "scope a\nauth_method client_secret_jwt\nsigning_key {\naudience a\n}"), configCanary, "{env.OAUTH_CC_TEST_LONG_SECRET}", 1),
		"signed as":         strings.Replace(change("scope a", "scope a\nauth_method client_secret_jwt\nsigning_key {\ntyp JWT\n}"), configCanary, "{env.OAUTH_CC_TEST_LONG_SECRET}", 1),
		"transport":         change("versions 1.1", "versions 1.1\ntls_insecure_skip_verify"),
		"ttl":               change("scope a", "scope a\nttl 1h"),
		"another ttl":       change("scope a", "scope a\nttl 2h"),
		"token elsewhere":   change("scope a", "scope a\nresponse_field access_token a"),
		"expiry elsewhere":  change("scope a", "scope a\nresponse_field expires_in a"),
		"no transport":      change("transport {\nversions 1.1\n}", ""),

		// They would part as soon as the variable changes.
		"endpoint's source": change("https://auth.example.com/token", "{env.OAUTH_CC_TEST_ENDPOINT}"),
		"scope's source":    change("scope a", "scope {env.OAUTH_CC_TEST_A}"),
		"audience's source": change("audience a", "audience {env.OAUTH_CC_TEST_A}"),
		"resource's source": change("resource urn:a", "resource urn:{env.OAUTH_CC_TEST_A}"),
		"param's source":    change("param a a", "param a {env.OAUTH_CC_TEST_A}"),
		"header's source":   change("request_header X-A a", "request_header X-A {env.OAUTH_CC_TEST_A}"),
	}
	names := make(map[endpoint.GrantKey]string)
	for name, config := range configs {
		h := provisionedConfig(t, config)
		if other, taken := names[h.tokens.key]; taken {
			t.Errorf("%s and %s share a token", name, other)
		}
		names[h.tokens.key] = name
	}
}

// A certificate that was written over is another credential: a reload then ends the pauses
// that the old one led to, and its tokens may be bound to it.
func TestAnotherCertificateIsAnotherGrant(t *testing.T) {
	ca := servertest.NewCA(t)
	certificate, key := ca.Client(t, "app")
	config := configWithClient("client_id app", "auth_method tls_client_auth", "transport {\ntls_client_auth "+certificate+" "+key+"\n}")
	first, same := provisionedConfig(t, config).tokens.key, provisionedConfig(t, config).tokens.key
	renewed, renewedKey := ca.Client(t, "app")
	for from, to := range map[string]string{renewed: certificate, renewedKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if first != same || first == provisionedConfig(t, config).tokens.key {
		t.Error("the certificate is not told apart")
	}
}

// Without lengths before the fields, text that moves from one into the next would go
// unnoticed.
func TestGrantKeyTellsNeighbouringFieldsApart(t *testing.T) {
	one := func(name string, values ...string) map[string][]string { return map[string][]string{name: values} }
	requests := []endpoint.Request{
		{},
		{ClientID: "ab", AuthMethod: "c"},
		{ClientID: "a", AuthMethod: "bc"},
		{ClientID: "abc"},
		{Endpoint: "a", ClientID: "bc"},
		{AuthMethod: "ab", Format: "c"},
		{AuthMethod: "a", Format: "bc"},
		{Format: "a", Scopes: []string{"bc"}},
		{Format: "abc"},
		{Scopes: []string{"abc"}},
		{Scopes: []string{"ab", "c"}},
		{Scopes: []string{"a", "bc"}},
		{Scopes: []string{"abc", ""}},
		{Scopes: []string{"ab"}, Audience: []string{"c"}},
		{Scopes: []string{"a"}, Audience: []string{"b", "c"}},
		{Scopes: []string{"a", "b"}, Audience: []string{"c"}},
		{Audience: []string{"abc"}},
		{Audience: []string{"ab"}, Resource: []string{"c"}},
		{Resource: []string{"abc"}},
		{Params: one("a", "bc")},
		{Params: one("ab", "c")},
		{Params: one("a", "b", "c")},
		{Params: map[string][]string{"a": {"b"}, "c": nil}},
		{Params: map[string][]string{"a": {"b"}, "c": {"1"}}},
		{Params: one("a", "b", "c", "1")},
		{Params: one("a", "b"), Headers: one("a", "b")},
		{Headers: one("a", "bc")},
		{Headers: one("ab", "c")},
		{Resource: []string{"a", "1", "b"}},
		{Params: one("a", "b")},
		{Headers: one("a", "b")},
	}
	seen := make(map[endpoint.GrantKey]string)
	for _, request := range requests {
		key, err := (&tokenRequest{h: new(Handler)}).grantKey(request)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%+v", request)
		if other, taken := seen[key]; taken {
			t.Errorf("one key for\n%s\nand\n%s", other, text)
		}
		seen[key] = text
	}
}
