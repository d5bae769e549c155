package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// The answer to a request that was sent before the nonce changed can come in between.
func TestNonceIsThatOfTheAnswerThatWantsIt(t *testing.T) {
	h := handlerInMemory(t, &Handler{DPoP: "https://api.example.com"})
	asked := 0
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		if asked++; asked == 1 {
			answer := servertest.Status(400, "Dpop-Nonce", "new")
			answer.Body = `{"error":"use_dpop_nonce"}`
			return answer.RoundTrip(req)
		}
		return servertest.Answer{Body: `{"access_token":"t","token_type":"DPoP","expires_in":3600}`}.RoundTrip(req)
	})
	var nonces []string
	h.tokens.client.Transport = observed{h.tokens.client.Transport, func(req *http.Request) {
		proof, _ := gatewaytest.VerifyProof(req, h.TokenEndpoint, "")
		nonces = append(nonces, proof.Nonce)
	}, func() {
		late := dpop.Transport{Next: servertest.Status(400, dpop.NonceHeader, "old"), Key: h.carrier.prover.Key}
		_, _ = late.RoundTrip(httptest.NewRequest(http.MethodPost, h.TokenEndpoint, nil))
	}}
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, requestInCaddy("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		proof, _ := gatewaytest.VerifyProof(r, "https://api.example.com/", "t")
		nonces = append(nonces, proof.Nonce)
		w.Header().Set("DPoP-Nonce", "new")
		if proof.Nonce != "new" {
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.WriteHeader(http.StatusUnauthorized)
			dpop.NewProver(h.carrier.prover.Key, h.carrier.prover.Origin).TakeNonce(http.Header{dpop.NonceHeader: {"old"}})
		}
		return nil
	}))
	if got := strings.Join(nonces, " "); err != nil || w.Code != 200 || got != " new  new" {
		t.Errorf("got %d, %v with the nonces %q", w.Code, err, got)
	}
}

// observed tells of the requests before next, and of the answers behind it.
type observed struct {
	next   http.RoundTripper
	before func(*http.Request)
	after  func()
}

func (o observed) RoundTrip(req *http.Request) (*http.Response, error) {
	o.before(req)
	res, err := o.next.RoundTrip(req)
	o.after()
	return res, err
}

// Tokens are bound to a key that has to survive what they survive.
func TestReloadKeepsTheKeyAndItsNonces(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	upstream.Demand("u1")
	site := gatewaytest.BoundOptions(server, upstream)
	g := gatewaytest.Start(t, site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
	upstream.Log()
	g.Reload(site + "header X-New 1\n")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
	if got := upstream.Log(); got != "token-1" {
		t.Errorf("the API answered %s", got)
	}
	g.Reload("respond ok")
	gatewaytest.Await(t, "the key is given up", func() bool {
		_, held := proofKeys.References(proofKeyName)
		return !held
	})
	g.Reload(site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2 ")
	if upstream.Proofs[0].Key == upstream.Proofs[len(upstream.Proofs)-1].Key {
		t.Error("the key was kept somewhere")
	}
}
