package servers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// client is one that is registered at an authorization server.
type client struct {
	id     string
	method string // of authentication
	secret string

	alg       string // with which it signs assertions, where it does
	key       *clientKey
	assertion string // further options of these

	// With a certificate it gets tokens that are bound to that.
	certificate *certificate
	dpop        bool // it gets tokens that are bound to a key that it proves to have

	lifetime int // of its tokens, in seconds; otherwise an hour
}

// clientKey signs a client's assertions.
type clientKey struct {
	id     string
	public crypto.PublicKey
	file   string
}

// The clients of each server. Each is registered in several variants.
var oidcProviderClients, fositeClients []*client

// shortLifetime is that of the variant whose tokens are outlived, in seconds: long enough
// that the margin of a tenth before the expiry covers a server that is early by one.
const shortLifetime = 10

// variant is the same client under another name, so that the tokens are others.
func (c *client) variant(name string) *client {
	v := *c
	v.id += "-" + name
	return &v
}

// short is the variant whose tokens live for a few seconds.
func (c *client) short() *client {
	v := c.variant("short")
	v.lifetime = shortLifetime
	return v
}

// post is the variant for requests with a body.
func (c *client) post() *client { return c.variant("post") }

// Characters that HTTP Basic with form encoding, and forms, have to encode.
const (
	reservedASCII = `a:b+c d%41&e=f/g"h'i?j#k~l`
	reserved      = reservedASCII + "é€"
)

var (
	basicClient = &client{id: "basic", method: "client_secret_basic", secret: "the-secret-of-basic"}
	postClient  = &client{id: "post", method: "client_secret_post", secret: "the-secret-of-post"}

	reservedBasicClient = &client{id: `reserved:+ %/&="basic`, method: "client_secret_basic", secret: reservedASCII}
	reservedPostClient  = &client{id: `reserved:+ %/&="post`, method: "client_secret_post", secret: reservedASCII}
	// Its id is one that even raw Basic can send.
	reservedSecretClient = &client{id: "reserved-secret", method: "client_secret_basic", secret: reservedASCII}
	// oidc-provider takes no such secret.
	unicodeBasicClient = &client{id: "unicode-basic", method: "client_secret_basic", secret: reserved}
	unicodePostClient  = &client{id: "unicode-post", method: "client_secret_post", secret: reserved}

	secretJWTClient = &client{id: "secret-jwt", method: "client_secret_jwt", alg: "HS256", secret: "a secret that is long enough for HS256"}

	// One for each algorithm, and each with its key in another format.
	rs256Client = &client{id: "rs256", method: "private_key_jwt", alg: "RS256"}
	ps256Client = &client{id: "ps256", method: "private_key_jwt", alg: "PS256"}
	es256Client = &client{id: "es256", method: "private_key_jwt", alg: "ES256"}
	eddsaClient = &client{id: "eddsa", method: "private_key_jwt", alg: "EdDSA"}

	tlsClient        = &client{id: "tls", method: "tls_client_auth"}
	boundBasicClient = &client{id: "bound-basic", method: "client_secret_basic", secret: "the-secret-of-bound-basic"}
	boundES256Client = &client{id: "bound-es256", method: "private_key_jwt", alg: "ES256"}

	dpopBasicClient = &client{id: "dpop-basic", method: "client_secret_basic", secret: "the-secret-of-dpop-basic", dpop: true}
	dpopPS256Client = &client{id: "dpop-ps256", method: "private_key_jwt", alg: "PS256", dpop: true}
)

// prepareClients makes the keys and certificates of the clients.
func prepareClients(dir string) error {
	oidcProviderClients = []*client{
		basicClient, postClient, reservedBasicClient, reservedPostClient, reservedSecretClient, secretJWTClient,
		rs256Client, ps256Client, es256Client, eddsaClient,
		tlsClient, boundBasicClient, boundES256Client, dpopBasicClient, dpopPS256Client,
	}
	fositeClients = []*client{
		basicClient, postClient, reservedBasicClient, reservedPostClient, reservedSecretClient, unicodeBasicClient, unicodePostClient,
		rs256Client, ps256Client, es256Client,
	}
	for _, c := range []*client{tlsClient, boundBasicClient, boundES256Client} {
		var err error
		if c.certificate, err = ca.issue(c.id); err != nil {
			return err
		}
	}
	for _, c := range oidcProviderClients {
		if c.method != "private_key_jwt" {
			continue
		}
		var err error
		if c.key, err = newClientKey(dir, c.id, c.alg); err != nil {
			return fmt.Errorf("key of %s: %w", c.id, err)
		}
	}
	return nil
}

// newClientKey makes a key and writes it to a file, in a format for each algorithm.
func newClientKey(dir, id, alg string) (*clientKey, error) {
	k := &clientKey{id: "key-of-" + id}
	var signer crypto.Signer
	var content string
	var err error
	switch alg {
	case "RS256", "PS256":
		key, generated := rsa.GenerateKey(rand.Reader, 2048)
		if generated != nil {
			return nil, generated
		}
		signer, content = key, encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
		if alg == "PS256" {
			var der []byte
			der, err = x509.MarshalPKCS8PrivateKey(key)
			content = encodePEM("PRIVATE KEY", der)
		}
	case "ES256":
		key, generated := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if generated != nil {
			return nil, generated
		}
		var der []byte
		der, err = x509.MarshalECPrivateKey(key)
		signer, content = key, encodePEM("EC PRIVATE KEY", der)
	case "EdDSA":
		_, key, generated := ed25519.GenerateKey(rand.Reader)
		if generated != nil {
			return nil, generated
		}
		var text []byte
		text, err = json.Marshal(jose.JSONWebKey{Key: key})
		signer, content = key, string(text)
	default:
		err = fmt.Errorf("no keys for %s", alg)
	}
	if err != nil {
		return nil, err
	}
	k.public = signer.Public()
	k.file, err = writeFile(dir, id+".key", content)
	return k, err
}

// registrations is the metadata (RFC 7591) of all variants of the clients.
func registrations(clients []*client) []map[string]any {
	list := []map[string]any{apiClient.registration()}
	for _, c := range clients {
		list = append(list, c.registration(), c.post().registration(), c.short().registration())
	}
	return list
}

func (c *client) registration() map[string]any {
	r := map[string]any{
		"client_id":                  c.id,
		"token_endpoint_auth_method": c.method,
		"grant_types":                []string{"client_credentials"},
		"redirect_uris":              []string{},
		"response_types":             []string{},
	}
	if c.secret != "" {
		r["client_secret"] = c.secret
	}
	if c.alg != "" {
		r["token_endpoint_auth_signing_alg"] = c.alg
	}
	if c.key != nil {
		r["jwks"] = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: c.key.public, KeyID: c.key.id, Use: "sig", Algorithm: c.alg}}}
	}
	if c.certificate != nil {
		r["tls_client_certificate_bound_access_tokens"] = true
	}
	if c.method == "tls_client_auth" {
		r["tls_client_auth_subject_dn"] = "CN=tls,O=Test"
	}
	if c.dpop {
		r["dpop_bound_access_tokens"] = true
	}
	if c.lifetime > 0 {
		r["token_lifetime"] = c.lifetime
	}
	return r
}

// options are those of the plugin that concern the client.
func (c *client) options() string {
	lines := []string{"client_id " + quote(c.id), "auth_method " + c.method}
	if c.secret != "" {
		lines = append(lines, "client_secret "+quote(c.secret))
	}
	switch {
	case c.key != nil:
		lines = append(lines, "signing_key "+c.key.file+" {", "key_id "+c.key.id, c.assertion)
		if c.alg == "PS256" { // an RSA key signs with RS256 otherwise
			lines = append(lines, "alg PS256")
		}
		lines = append(lines, "}")
	case c.assertion != "":
		lines = append(lines, "signing_key {", c.assertion, "}")
	}
	return strings.Join(lines, "\n")
}

// quote writes a value so that a Caddyfile takes it as it is.
func quote(s string) string { return "`" + s + "`" }
