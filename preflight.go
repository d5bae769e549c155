package oauthcc

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// isPreflight reports whether a browser asks with the request if it may send another one (the CORS protocol of the
// Fetch standard).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

// servePreflight passes a preflight on, with a token if there is one already. APIs answer it without: browsers never
// send a credential with it. They report a preflight that fails as a failure of CORS, and hide what the request
// itself would have been answered. A rejection says nothing of the token and is final.
func (h *Handler) servePreflight(w http.ResponseWriter, r *http.Request, repl *caddy.Replacer, next caddyhttp.Handler) error {
	src, err := h.sourceFor(repl)
	var t *tokencache.Token
	if err == nil { // else it does not tell which tenant it is of
		defer src.release()
		t = src.tokenAtHand(r.Context(), repl)
	}
	if t == nil {
		repl.Set(statusPlaceholder, statusNone)
	}
	h.carrier.removeClientToken(r)
	x := &exchange{h: h, src: src, repl: repl, current: attempt{token: t}, once: true}
	return x.serve(w, r, next)
}
