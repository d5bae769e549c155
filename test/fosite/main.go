// Command fosite is an authorization server around github.com/ory/fosite, for the
// client-credentials grant:
//
//	fosite <configuration.json>
//
// It serves each issuer of the configuration over http on a port of the system's
// choice, prints one line of JSON with their URLs, and ends when its standard input
// does, so that it can't outlive the tests. The clients are given with the metadata
// of RFC 7591, and a token_lifetime in seconds.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"
	"golang.org/x/crypto/bcrypt"
)

type configuration struct {
	Issuers []struct {
		Name string `json:"name"`
		JWT  bool   `json:"jwt"` // access tokens are JWTs
	} `json:"issuers"`
	Clients []registration `json:"clients"`
}

type registration struct {
	ID         string              `json:"client_id"`
	Secret     string              `json:"client_secret"`
	AuthMethod string              `json:"token_endpoint_auth_method"`
	SigningAlg string              `json:"token_endpoint_auth_signing_alg"`
	Keys       *jose.JSONWebKeySet `json:"jwks"`
	Lifetime   int                 `json:"token_lifetime"`
}

// client is an OpenID Connect client with a token lifetime of its own.
type client struct {
	*fosite.DefaultOpenIDConnectClient
	lifetime time.Duration
}

func (c *client) GetEffectiveLifespan(fosite.GrantType, fosite.TokenType, time.Duration) time.Duration {
	return c.lifetime
}

type readyIssuer struct {
	Issuer string `json:"issuer"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(name string) error {
	text, err := os.ReadFile(name) //nolint:gosec // the tests name it
	if err != nil {
		return err
	}
	var config configuration
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	ready := make(map[string]readyIssuer)
	for _, issuer := range config.Issuers {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		url := "http://" + listener.Addr().String()
		handler, err := newIssuer(url, issuer.JWT, config.Clients)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
		go func() { log.Fatal(server.Serve(listener)) }()
		ready[issuer.Name] = readyIssuer{url}
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// issuer serves the endpoints of one authorization server.
type issuer struct {
	fosite.OAuth2Provider
	url      string
	jwt      bool
	key      *rsa.PrivateKey
	store    *storage.MemoryStore
	strategy oauth2.CoreStrategy
}

const keyID = "fosite-1"

func newIssuer(url string, asJWT bool, registrations []registration) (http.Handler, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	store := storage.NewMemoryStore()
	for _, r := range registrations {
		if store.Clients[r.ID], err = newClient(r); err != nil {
			return nil, fmt.Errorf("client %s: %w", r.ID, err)
		}
	}
	config := &fosite.Config{
		TokenURL:          url + "/token",
		AccessTokenIssuer: url,
		GlobalSecret:      secret,
		HashCost:          bcrypt.MinCost,
	}
	var strategy oauth2.CoreStrategy = compose.NewOAuth2HMACStrategy(config)
	if asJWT {
		strategy = compose.NewOAuth2JWTStrategy(func(context.Context) (any, error) { return key, nil }, strategy, config)
	}
	i := &issuer{url: url, jwt: asJWT, key: key, store: store, strategy: strategy}
	i.OAuth2Provider = compose.Compose(config, store, strategy,
		compose.OAuth2ClientCredentialsGrantFactory,
		compose.OAuth2TokenIntrospectionFactory)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", i.serveToken)
	mux.HandleFunc("POST /introspect", i.serveIntrospection)
	mux.HandleFunc("POST /revoke", i.serveRevocation)
	mux.HandleFunc("GET /jwks", i.serveKeys)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", i.serveMetadata)
	return mux, nil
}

func newClient(r registration) (*client, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(r.Secret), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	lifetime := time.Hour
	if r.Lifetime > 0 {
		lifetime = time.Duration(r.Lifetime) * time.Second
	}
	return &client{&fosite.DefaultOpenIDConnectClient{
		DefaultClient: &fosite.DefaultClient{
			ID: r.ID, Secret: hash,
			GrantTypes: []string{"client_credentials"},
			Scopes:     []string{"orders:read", "orders:write"},
		},
		JSONWebKeys:                       r.Keys,
		TokenEndpointAuthMethod:           r.AuthMethod,
		TokenEndpointAuthSigningAlgorithm: r.SigningAlg,
	}, lifetime}, nil
}

func (i *issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var session fosite.Session = &fosite.DefaultSession{}
	if i.jwt {
		session = &oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{}, JWTHeader: &jwt.Headers{Extra: map[string]any{"kid": keyID}}}
	}
	request, err := i.NewAccessRequest(ctx, r, session)
	if err != nil {
		i.WriteAccessError(ctx, w, request, err)
		return
	}
	if s, ok := session.(*oauth2.JWTSession); ok {
		s.JWTClaims.Subject = request.GetClient().GetID()
		s.JWTClaims.Add("client_id", request.GetClient().GetID())
	}
	for _, scope := range request.GetRequestedScopes() {
		request.GrantScope(scope)
	}
	response, err := i.NewAccessResponse(ctx, request)
	if err != nil {
		i.WriteAccessError(ctx, w, request, err)
		return
	}
	i.WriteAccessResponse(ctx, w, request, response)
}

func (i *issuer) serveIntrospection(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	response, err := i.NewIntrospectionRequest(ctx, r, &fosite.DefaultSession{})
	if err != nil {
		i.WriteIntrospectionError(ctx, w, err)
		return
	}
	i.WriteIntrospectionResponse(ctx, w, response)
}

// serveRevocation revokes a token as an administrator of the server would: fosite's
// own revocation takes only requests of the client that the token belongs to.
func (i *issuer) serveRevocation(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	request, err := i.store.GetAccessTokenSession(ctx, i.strategy.AccessTokenSignature(ctx, r.PostFormValue("token")), nil)
	if err == nil {
		err = i.store.RevokeAccessToken(ctx, request.GetID())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (i *issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: keyID, Algorithm: "RS256", Use: "sig"}}})
}

func (i *issuer) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]string{
		"issuer":                 i.url,
		"token_endpoint":         i.url + "/token",
		"introspection_endpoint": i.url + "/introspect",
		"revocation_endpoint":    i.url + "/revoke",
		"jwks_uri":               i.url + "/jwks",
	})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client sees that it is cut off
}
