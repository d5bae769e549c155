package providers

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// Stand-ins for providers whose clients send a signed assertion, their own or one that somebody else has made.

// openSigned verifies a JWT and returns its header and its claims, or nil if the signature is not of that key.
func openSigned(text string, key any) (header, claims map[string]any) {
	parsed, err := jose.ParseSigned(text, servertest.SigningAlgs)
	if err != nil {
		return nil, nil
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		return nil, nil
	}
	first, _, _ := strings.Cut(text, ".")
	protected, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil || json.Unmarshal(protected, &header) != nil || json.Unmarshal(payload, &claims) != nil {
		return nil, nil
	}
	return header, claims
}

// open opens the assertion of a token request with the key that the provider has for the client.
func (s *providerStandIn) open(form url.Values) (header, claims map[string]any) {
	key := servertest.Keys()[s.key].Public()
	if s.flaw == "key" {
		key = servertest.Keys()["P-384"].Public()
	}
	return openSigned(form.Get(s.signed), key)
}

// withOtherSignature changes the signature of a JWT.
func withOtherSignature(text string) string {
	at := strings.LastIndex(text, ".") + 1
	other := "A"
	if text[at] == 'A' {
		other = "B"
	}
	return text[:at] + other + text[at+1:]
}

// lives reports whether an assertion is made at that time, and for no longer than that.
func lives(claims map[string]any, atMost time.Duration, now time.Time) bool {
	issued, _ := claims["iat"].(float64)
	ends, _ := claims["exp"].(float64)
	clock := float64(now.Unix())
	return issued > clock-60 && issued <= clock+1 && ends > clock && ends-issued <= atMost.Seconds()
}

// now is what the provider's clock shows.
func (s *providerStandIn) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.at.IsZero():
		return s.at
	case s.flaw == "clock":
		return time.Now().Add(10 * time.Minute)
	}
	return time.Now()
}

// setClock stops the provider's clock at a time. The zero time lets it go on.
func (s *providerStandIn) setClock(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

// writeFiles writes what the client reads, and returns where, by the path that the page has. An empty one is missing.
func (s *providerStandIn) writeFiles(t testing.TB) map[string]string {
	t.Helper()
	written := make(map[string]string)
	if s.files == nil {
		return written
	}
	folder := t.TempDir()
	for path, content := range s.files(t, s) {
		written[path] = filepath.Join(folder, filepath.Base(path))
		if content != "" {
			servertest.WriteFile(t, written[path], content)
		}
	}
	return written
}

// rsaKeyFile is for clients that read an RSA key.
func rsaKeyFile(path string) func(testing.TB, *providerStandIn) map[string]string {
	return func(t testing.TB, _ *providerStandIn) map[string]string {
		return map[string]string{path: servertest.PKCS8(t, servertest.Keys()["RSA"])}
	}
}

// signedByOther is an assertion that somebody else has signed for the client.
func signedByOther(t testing.TB, claims map[string]any, lifetime time.Duration) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: servertest.Keys()["P-256"]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claims["exp"] = time.Now().Add(lifetime).Unix()
	claims["iat"] = time.Now().Add(min(lifetime-time.Hour, 0)).Unix()
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	jwtBearerAssertion  = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	grantTypeJWTBearer  = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantTypeExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeOfAccessTokens  = "urn:ietf:params:oauth:token-type:access_token"
	typeOfSubjectTokens = "urn:ietf:params:oauth:token-type:jwt"
)

const podOfGateway = "system:serviceaccount:shop:gateway"

// Microsoft Entra ID, with a certificate.

const (
	entraKeyFile         = "/etc/gateway/gateway.key"
	entraCertificateFile = "/etc/gateway/gateway.crt"
)

// certificateUntil is a certificate of the RSA key.
func certificateUntil(t testing.TB, notAfter time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: notAfter}
	key := servertest.Keys()["RSA"]
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// The ends of the two certificates.
var (
	entraStillValid = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
	entraHasEnded   = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
)

// hasThumbprints reports whether the header of an assertion names a certificate as Entra ID and AD FS want it.
func hasThumbprints(header map[string]any, certificate *x509.Certificate) bool {
	by256, by1 := sha256.Sum256(certificate.Raw), sha1.Sum(certificate.Raw)
	encode := base64.RawURLEncoding.EncodeToString
	return header["x5t#S256"] == encode(by256[:]) && header["x5t"] == encode(by1[:]) && header["x5c"] == nil
}

// "Certificate credentials" and "OAuth 2.0 client credentials flow".
var entraCertificate = &providerSpec{
	name: "entra-id", heading: "With a certificate", variables: "ENTRA_", idName: "CLIENT_ID",
	path: entraID.path, lifetime: entraID.lifetime, unknown: entraID.unknown, granted: entraID.granted,
	id: entraID.id, signed: "client_assertion", key: "RSA",
	files: func(t testing.TB, s *providerStandIn) map[string]string {
		end := entraStillValid
		if s.flaw == "ended" {
			end = entraHasEnded
		}
		certificate := certificateUntil(t, end)
		s.known = certificate
		return map[string]string{
			entraKeyFile:         servertest.PKCS8(t, servertest.Keys()["RSA"]),
			entraCertificateFile: servertest.PEM("CERTIFICATE", certificate.Raw),
		}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		const configured = "Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '" + entraApplication + "'."
		form := formOf(body)
		if refused := entraKnows(s, form); refused != nil {
			return refused
		}
		header, claims := s.open(form)
		id, _ := claims["jti"].(string)
		thumbprint := fmt.Sprintf("%X", sha1.Sum(s.known.Raw))
		switch {
		case header["alg"] != "PS256" || header["typ"] != "JWT":
			return &unlikeDocumented
		case s.flaw == "unregistered" || !hasThumbprints(header, s.known):
			return entraRefuses(401, "invalid_client", "700027", "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '"+thumbprint+"', "+configured+"]")
		case s.now().After(s.known.NotAfter):
			return entraRefuses(401, "invalid_client", "700027", "Client assertion contains an invalid signature. [Reason - The key used is expired., Thumbprint of key used by client: '"+thumbprint+"', Found key 'Start=01/01/2024 00:00:00, End=01/01/2025 00:00:00', "+configured+"]")
		case !lives(claims, 10*time.Minute, s.now()):
			return entraRefuses(401, "invalid_client", "700024", "Client assertion is not within its valid time range. Current time: 2026-01-31T10:15:30.0000000Z, assertion valid from 2026-01-31T10:05:30.0000000Z, expiry time of assertion 2026-01-31T10:06:30.0000000Z. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .")
		case claims["iss"] != s.id || claims["sub"] != s.id || id == "":
			return &unlikeDocumented
		case claims["aud"] != s.endpoint.URL+s.path:
			return entraRefuses(401, "invalid_client", "700023", "Client assertion audience claim does not match Realm issuer. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .")
		}
		return entraGrants(r, form, s.signed)
	},
	mistakes: []pageMistake{
		{row: "the certificate is not registered, or is another application's", flaw: "unregistered"},
		{row: "the certificate has expired", flaw: "ended"},
		{row: "the clock of this machine", flaw: "clock"},
		{row: "`audience` in the block of `signing_key` is not the token endpoint", replace: []string{"\t\t\talg PS256\n", "\t\t\talg PS256\n\t\t\taudience https://login.microsoftonline.com\n"}},
	},
}

// entraGrants is for what Entra ID wants beside an assertion that it takes.
func entraGrants(r *http.Request, form url.Values, signed string) *endpointRefusal {
	scope := form.Get("scope")
	if refused := entraScope(scope); refused != nil {
		return refused
	}
	if r.Header["Authorization"] != nil || !has(form, "grant_type", clientCredentials, "scope", scope, "client_id", form.Get("client_id"),
		"client_assertion_type", jwtBearerAssertion, signed, form.Get(signed)) {
		return &unlikeDocumented
	}
	return nil
}

// "Microsoft Entra Workload ID", in a pod.

const (
	entraTokenFile    = "/var/run/secrets/azure/tokens/azure-identity-token"
	entraExchange     = "api://AzureADTokenExchange"
	issuerOfCluster   = "https://oidc.cluster.example.com/"
	anotherPod        = "system:serviceaccount:shop:default"
	federationDetails = "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
)

// podToken is the token of a pod's service account, with what is wrong with it.
func podToken(t testing.TB, flaw, audience string) string {
	claims := map[string]any{"iss": issuerOfCluster, "sub": podOfGateway, "aud": []string{audience}}
	lifetime := time.Hour
	switch flaw {
	case "missing":
		return ""
	case "ended":
		lifetime = -time.Hour
	case "subject":
		claims["sub"] = anotherPod
	case "issuer":
		claims["iss"] = strings.TrimSuffix(issuerOfCluster, "/")
	case "audience":
		claims["aud"] = []string{"https://kubernetes.default.svc"}
	}
	return signedByOther(t, claims, lifetime)
}

var entraWorkloadIdentity = &providerSpec{
	name: "entra-id", heading: "With a workload identity", variables: "AZURE_", idName: "CLIENT_ID",
	path: entraID.path, lifetime: entraID.lifetime, unknown: entraID.unknown, granted: entraID.granted,
	id: entraID.id, signed: "client_assertion", key: "P-256",
	files: func(t testing.TB, s *providerStandIn) map[string]string {
		return map[string]string{entraTokenFile: podToken(t, s.flaw, entraExchange)}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		if refused := entraKnows(s, form); refused != nil {
			return refused
		}
		_, claims := s.open(form)
		audience, _ := claims["aud"].([]any)
		ends, _ := claims["exp"].(float64)
		switch {
		case claims == nil || len(audience) != 1:
			return &unlikeDocumented
		case claims["iss"] != issuerOfCluster:
			return entraRefuses(401, "invalid_client", "700211", fmt.Sprintf("No matching federated identity record found for presented assertion issuer '%s'. %s", claims["iss"], federationDetails))
		case claims["sub"] != podOfGateway:
			return entraRefuses(401, "invalid_client", "700213", fmt.Sprintf("No matching federated identity record found for presented assertion subject '%s'. %s", claims["sub"], federationDetails))
		case audience[0] != entraExchange:
			return entraRefuses(401, "invalid_client", "700212", fmt.Sprintf("No matching federated identity record found for presented assertion audience '%s'. %s", audience[0], federationDetails))
		case ends <= float64(s.now().Unix()):
			return &unlikeDocumented
		}
		return entraGrants(r, form, s.signed)
	},
	mistakes: []pageMistake{
		{row: "the issuer, such as its last slash, or the cluster is another one", flaw: "issuer"},
		{row: "the subject: another namespace or service account", flaw: "subject"},
		{row: "the token is for somebody else", flaw: "audience"},
		{row: "the file is missing, such as without the label on the pod", flaw: "missing"},
		{row: "the token has expired, as nothing renews the file", flaw: "ended"},
	},
}

// Google Cloud, "Using OAuth 2.0 for Server to Server Applications".

const (
	googleKeyFile = "/etc/gateway/service-account.json"
	googleAccount = "gateway@acme-prod.iam.gserviceaccount.com"
	googleKeyID   = "0123456789abcdef0123456789abcdef01234567"
	googleScope   = "https://www.googleapis.com/auth/cloud-platform"
)

var googleServiceAccount = &providerSpec{
	name: "google-cloud", heading: "With the key of a service account", variables: "GOOGLE_",
	path: "/token", lifetime: 3599 * time.Second,
	id: googleAccount, signed: "assertion", key: "RSA",
	files: func(t testing.TB, s *providerStandIn) map[string]string {
		key, err := json.Marshal(map[string]string{
			"type": "service_account", "project_id": "acme-prod", "private_key_id": googleKeyID, "private_key": servertest.PKCS8(t, servertest.Keys()["RSA"]),
			"client_email": s.id, "client_id": "123456789012345678901", "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": s.endpoint.URL + s.path,
			"universe_domain": "googleapis.com",
		})
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{googleKeyFile: string(key)}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		header, claims := s.open(form)
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return refuse(400, "unsupported_grant_type", "Invalid grant_type: "+form.Get("grant_type"))
		case s.flaw == "account":
			return refuse(400, "invalid_grant", "Invalid grant: account not found")
		case header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != googleKeyID:
			return refuse(400, "invalid_grant", "Invalid JWT Signature.")
		case claims["iss"] != s.id:
			return refuse(400, "invalid_grant", "Invalid grant: account not found")
		case !lives(claims, time.Hour, s.now()):
			return refuse(400, "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
		case claims["aud"] != s.endpoint.URL+s.path:
			return refuse(400, "invalid_grant", "Invalid JWT: Failed audience check.")
		case claims["scope"] == nil:
			return refuse(400, "invalid_scope", "Empty or missing scope not allowed.")
		case claims["scope"] != googleScope:
			return refuse(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
		case claims["sub"] != nil:
			return refuse(401, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.")
		case r.Header["Authorization"] != nil || !has(form, "grant_type", grantTypeJWTBearer, s.signed, form.Get(s.signed)):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "scope": googleScope, "token_type": "Bearer", "expires_in": 3599}
	},
	mistakes: []pageMistake{
		{row: "the key was deleted or disabled, or is another account's", flaw: "key"},
		{row: "the service account was deleted", flaw: "account"},
		{row: "the clock of this machine", flaw: "clock"},
		{row: "`lifetime` is longer than an hour", replace: []string{"\t\t\tscope_claim\n", "\t\t\tscope_claim\n\t\t\tlifetime 2h\n"}},
		{row: "`audience` is wrong", replace: []string{"\t\t\tscope_claim\n", "\t\t\tscope_claim\n\t\t\taudience https://storage.googleapis.com/\n"}},
		{row: "`scope_claim` is missing", replace: []string{"grant jwt_bearer {\n\t\t\tscope_claim\n\t\t}", "grant jwt_bearer"}},
		{row: "there is no such scope", replace: []string{"auth/cloud-platform", "auth/cloud_platform"}},
		{row: "`subject` names a user, without domain-wide delegation for the scopes", replace: []string{"\t\t\tscope_claim\n", "\t\t\tscope_claim\n\t\t\tsubject user@example.com\n"}},
	},
}

// "Workload Identity Federation" and "Security Token Service API".

const (
	googleTokenFile = "/var/run/secrets/tokens/google"
	googlePool      = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/gateways/providers/cluster"
)

var googleProvider = regexp.MustCompile(`^//iam\.googleapis\.com/projects/\d+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+$`)

var googleFederation = &providerSpec{
	name: "google-cloud", heading: "With workload identity federation", variables: "GOOGLE_",
	path: "/v1/token", lifetime: 3599 * time.Second,
	signed: "subject_token", key: "P-256",
	files: func(t testing.TB, s *providerStandIn) map[string]string {
		return map[string]string{googleTokenFile: podToken(t, s.flaw, "https:"+googlePool)}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		_, claims := s.open(form)
		pool := form.Get("audience")
		audience, _ := claims["aud"].([]any)
		ends, _ := claims["exp"].(float64)
		switch {
		case form.Get("grant_type") != grantTypeExchange:
			return refuse(400, "unsupported_grant_type", "Invalid grant_type: "+form.Get("grant_type"))
		case !googleProvider.MatchString(pool):
			return refuse(400, "invalid_request", `Invalid value for "audience". This value should be the full resource name of the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.`)
		case pool != googlePool:
			return refuse(400, "invalid_target", `The target service indicated by the "audience" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.`)
		case claims == nil || len(audience) != 1:
			return refuse(400, "invalid_grant", "Error connecting to the given credential's issuer.")
		case claims["iss"] != issuerOfCluster:
			return refuse(400, "invalid_grant", fmt.Sprintf("The issuer in ID Token %s does not match the expected one in config: %s.", claims["iss"], issuerOfCluster))
		case audience[0] != "https:"+googlePool:
			return refuse(400, "invalid_grant", fmt.Sprintf("The audience in ID Token [%s] does not match the expected audience.", audience[0]))
		case ends <= float64(s.now().Unix()):
			return refuse(400, "invalid_grant", fmt.Sprintf("ID Token issued at %.0f is stale to sign-in.", claims["iat"]))
		case claims["sub"] != podOfGateway:
			return refuse(400, "unauthorized_client", "The given credential is rejected by the attribute condition.")
		case r.Header["Authorization"] != nil || !has(form, "grant_type", grantTypeExchange, "audience", pool, "scope", googleScope, "requested_token_type", typeOfAccessTokens,
			"subject_token_type", typeOfSubjectTokens, s.signed, form.Get(s.signed)):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "issued_token_type": typeOfAccessTokens, "token_type": "Bearer", "expires_in": 3599}
	},
	mistakes: []pageMistake{
		{row: "`audience` is not the name of a provider, or has the project's name for its number", replace: []string{"projects/123456789012", "projects/acme-prod"}},
		{row: "the pool or the provider does not exist, or is disabled", replace: []string{"workloadIdentityPools/gateways", "workloadIdentityPools/gateway"}},
		{row: "the issuer, such as its last slash", flaw: "issuer"},
		{row: "the token is for another audience", flaw: "audience"},
		{row: "the token has expired, as nothing renews the file", flaw: "ended"},
		{row: "the attribute condition does not let this workload in", flaw: "subject"},
		{row: "the provider can't get the key that signed the token", flaw: "key"},
	},
}

// Salesforce, "OAuth 2.0 JWT Bearer Flow for Server-to-Server Integration".

const (
	salesforceKeyFile = "/etc/gateway/salesforce.key"
	salesforceApp     = "3MVG9lKcPoNINVBIPJjdw1J9LLM82HnFVVX19KY1uA5mu0QqEWhqKpoW3svG3XHrXDiCQjK1mdgAvhCscA9GE"
	salesforceUser    = "gateway@example.com"
)

// salesforceGrant is the answer with a token, which does not say how long it lives.
func salesforceGrant(token string) map[string]any {
	return map[string]any{
		"access_token": token, "scope": "api", "instance_url": "https://acme.my.salesforce.com",
		"id": "https://login.salesforce.com/id/00D000000000001EAA/005000000000001AAA", "token_type": "Bearer",
	}
}

var salesforce = &providerSpec{
	name: "salesforce", heading: "With a certificate", variables: "SALESFORCE_",
	path: "/services/oauth2/token", lifetime: time.Hour,
	id: salesforceApp, signed: "assertion", key: "RSA", files: rsaKeyFile(salesforceKeyFile), granted: salesforceGrant,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		header, claims := s.open(form)
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return refuse(400, "unsupported_grant_type", "grant type not supported")
		case header["alg"] != "RS256" || !lives(claims, 3*time.Minute, s.now()):
			return refuse(400, "invalid_grant", "invalid assertion")
		case claims["iss"] != s.id:
			return refuse(400, "invalid_client_id", "client identifier invalid")
		case claims["aud"] != "https://login.salesforce.com":
			return refuse(400, "invalid_grant", "audience is invalid")
		case s.flaw == "not approved":
			return refuse(400, "invalid_app_access", "user is not admin approved to access this app")
		case claims["sub"] != salesforceUser:
			return refuse(400, "invalid_grant", "user hasn't approved this consumer")
		case r.Header["Authorization"] != nil || !has(form, "grant_type", grantTypeJWTBearer, s.signed, form.Get(s.signed)):
			return &unlikeDocumented
		}
		return nil
	},
	mistakes: []pageMistake{
		{row: "the consumer key", replace: []string{salesforceApp, "3MVG9other"}},
		{row: "the key is not that of the app's certificate", flaw: "key"},
		{row: "the clock of this machine", flaw: "clock"},
		{row: "`lifetime` is longer than three minutes", replace: []string{"\t\t\taudience ", "\t\t\tlifetime 5m\n\t\t\taudience "}},
		{row: "the audience, such as that of production in a sandbox", replace: []string{"audience https://login.salesforce.com", "audience https://test.salesforce.com"}},
		{row: "the user, or the user has not approved the app", replace: []string{salesforceUser, "gateway@example.org"}},
		{row: "an admin has to approve users of the app, and has not approved this one", flaw: "not approved"},
	},
}

// "OAuth 2.0 Client Credentials Flow for Server-to-Server Integration".
var salesforceSecret = &providerSpec{
	name: "salesforce", heading: "With a client secret", variables: "SALESFORCE_", idName: "CLIENT_ID",
	path: "/services/oauth2/token", lifetime: time.Hour, granted: salesforceGrant,
	id: salesforceApp, secret: "5B2F0D7C3A6E4918B7D2C1E0F9A8B7C6D5E4F3A2B1C0D9E8F7A6B5C4D3E2F1A0",
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case form.Get("client_id") != s.id:
			return refuse(400, "invalid_client_id", "client identifier invalid")
		case !s.sentPost(r, form):
			return refuse(400, "invalid_client", "invalid client credentials")
		case s.flaw == "domain":
			return refuse(400, "invalid_grant", "request not supported on this domain")
		case s.flaw == "no user":
			return refuse(400, "invalid_grant", "no client credentials user enabled")
		case !has(form, "grant_type", clientCredentials, "client_id", s.id, "client_secret", s.secret):
			return &unlikeDocumented
		}
		return nil
	},
	mistakes: []pageMistake{
		{row: "the consumer secret", replace: []string{"{env.SALESFORCE_CLIENT_SECRET}", wrongSecret}},
		{row: "the consumer key, or the org", replace: []string{"{env.SALESFORCE_CLIENT_ID}", "3MVG9other"}},
		{row: "the app has no Run As user", flaw: "no user"},
		{row: "the host is `login.salesforce.com`", flaw: "domain"},
	},
}

// DocuSign, "How to get an access token with JWT Grant".

const (
	docuSignKeyFile = "/etc/gateway/docusign.key"
	docuSignApp     = "7c2b8d7e-83c3-4940-af5e-cda8a50dd73f"
	docuSignUser    = "5f3a1c9e-6d2b-4e8f-9a7c-1b0d2e3f4a5b"
	docuSignHost    = "account.docusign.com"
)

var docuSign = &providerSpec{
	name: "docusign", variables: "DOCUSIGN_",
	path: "/oauth/token", lifetime: time.Hour,
	id: docuSignApp, signed: "assertion", key: "RSA", files: rsaKeyFile(docuSignKeyFile),
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		header, claims := s.open(form)
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return refuse(400, "invalid_grant", "unsupported_grant_type")
		case header["alg"] != "RS256" || header["typ"] != "JWT" || !lives(claims, time.Hour, s.now()):
			return refuse(400, "invalid_grant", "no_valid_keys_or_signatures")
		case claims["iss"] != s.id || claims["aud"] != docuSignHost:
			return refuse(400, "invalid_grant", "issuer_not_found")
		case claims["sub"] != docuSignUser:
			return refuse(400, "invalid_grant", "user_not_found")
		case s.flaw == "consent" || claims["scope"] != "signature impersonation":
			return &endpointRefusal{400, `{"error":"consent_required"}`}
		case r.Header["Authorization"] != nil || !has(form, "grant_type", grantTypeJWTBearer, s.signed, form.Get(s.signed)):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": "signature impersonation"}
	},
	mistakes: []pageMistake{
		{row: "the key pair was deleted, or is another app's", flaw: "key"},
		{row: "the clock of this machine", flaw: "clock"},
		{row: "the integration key, or it is of the other environment", replace: []string{docuSignApp, "00000000-83c3-4940-af5e-cda8a50dd73f"}},
		{row: "`audience` is a URL, or the other environment's", replace: []string{"audience " + docuSignHost, "audience https://" + docuSignHost}},
		{row: "the user, such as the e-mail address in place of the User ID", replace: []string{docuSignUser, "gateway@example.com"}},
		{row: "nobody has consented for the user", flaw: "consent"},
		{row: "nobody has consented to a scope", replace: []string{"scope signature impersonation", "scope signature impersonation extended"}},
	},
}

// Box, "JWT without SDK".

const (
	boxKeyFile    = "/etc/gateway/box.key"
	boxKeyID      = "k7v1x2y3"
	boxEnterprise = "801234567"
	boxEndpoint   = "https://api.box.com/oauth2/token"
)

func boxGrant(token string) map[string]any {
	return map[string]any{"access_token": token, "expires_in": 4123, "restricted_to": []string{}, "token_type": "bearer"}
}

var box = &providerSpec{
	name: "box", heading: "With a key", variables: "BOX_", idName: "CLIENT_ID",
	path: "/oauth2/token", lifetime: 4123 * time.Second, granted: boxGrant,
	id: "ly1nj6n11vionaie65emwzk575hnnmrk", secret: "hOzsTeFlT6ko0dme22uGbQal04SBPYc1",
	signed: "assertion", key: "RSA", files: rsaKeyFile(boxKeyFile),
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		header, claims := s.open(form)
		id, _ := claims["jti"].(string)
		switch {
		case !s.sentPost(r, form):
			return refuse(400, "invalid_client", "The client credentials are invalid")
		case form.Get("grant_type") != grantTypeJWTBearer:
			return refuse(400, "invalid_request", "The grant type is unauthorized for this client_id")
		case header == nil:
			return refuse(400, "invalid_grant", "Signature verification error. The public key identified by 'kid' must correspond to the private key used for signing.")
		case header["kid"] != boxKeyID:
			return refuse(400, "invalid_grant", "'kid' invalid, unable to lookup correct key.")
		case claims["aud"] != boxEndpoint:
			return refuse(400, "invalid_grant", "Please check the 'aud' claim.")
		case !lives(claims, time.Minute, s.now()):
			return refuse(400, "invalid_grant", "Please check the 'exp' claim.")
		case len(id) < 16 || len(id) > 128:
			return refuse(400, "invalid_grant", "Please check the 'jti' claim. A unique 'jti' value is required.")
		case claims["iss"] != s.id:
			return refuse(400, "invalid_grant", "Please check the 'iss' claim.")
		case claims["sub"] != boxEnterprise:
			return refuse(400, "invalid_grant", "Please check the 'sub' claim.")
		case claims["box_sub_type"] != "enterprise":
			return refuse(400, "unauthorized_client", "Cannot obtain token based on the enterprise configuration for your app")
		case s.flaw == "not authorized":
			return refuse(400, "unauthorized_client", "This app is not authorized by the enterprise")
		case !has(form, "grant_type", grantTypeJWTBearer, "client_id", s.id, "client_secret", s.secret, s.signed, form.Get(s.signed)):
			return &unlikeDocumented
		}
		return nil
	},
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.BOX_CLIENT_SECRET}", wrongSecret}},
		{row: "the private key is not that of the public key", flaw: "key"},
		{row: "the public key was removed, or `key_id` is another one", replace: []string{"key_id " + boxKeyID, "key_id a1b2c3d4"}},
		{row: "the clock of this machine", flaw: "clock"},
		{row: "`lifetime` is longer than a minute", replace: []string{"lifetime 45s", "lifetime 2m"}},
		{row: "`audience` is wrong", replace: []string{"audience " + boxEndpoint, "audience https://api.box.com"}},
		{row: "the Enterprise ID", replace: []string{"subject " + boxEnterprise, "subject 1234567"}},
		{row: "an admin has not authorized the app, or not again after a change", flaw: "not authorized"},
		{row: "the token is for a user, and the app may not have those", replace: []string{"box_sub_type enterprise", "box_sub_type user"}},
	},
}

// "Client Credentials Grant".
var boxSecret = &providerSpec{
	name: "box", heading: "With a client secret", variables: "BOX_", idName: "CLIENT_ID",
	path: "/oauth2/token", lifetime: 4123 * time.Second, granted: boxGrant,
	id: box.id, secret: box.secret,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case !s.sentPost(r, form):
			return refuse(400, "invalid_client", "The client credentials are invalid")
		case s.flaw == "grant":
			return refuse(400, "invalid_request", "The grant type is unauthorized for this client_id")
		case form.Get("box_subject_id") != boxEnterprise:
			return refuse(400, "invalid_grant", "Grant credentials are invalid")
		case s.flaw == "not authorized":
			return refuse(400, "unauthorized_client", "This app is not authorized by the enterprise admin")
		case !has(form, "grant_type", clientCredentials, "client_id", s.id, "client_secret", s.secret, "box_subject_type", "enterprise", "box_subject_id", boxEnterprise):
			return &unlikeDocumented
		}
		return nil
	},
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.BOX_CLIENT_SECRET}", wrongSecret}},
		{row: "the Enterprise ID, or the app may not have tokens for this subject", replace: []string{"box_subject_id " + boxEnterprise, "box_subject_id 1234567"}},
		{row: "an admin has not authorized the app, or not again after a change", flaw: "not authorized"},
		{row: "the app was made for JWT", flaw: "grant"},
	},
}
