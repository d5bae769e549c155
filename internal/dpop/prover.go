package dpop

import (
	"cmp"
	"net/http"
)

// Prover makes the proofs for requests to one upstream (RFC 9449 §7). It is safe for concurrent use.
type Prover struct {
	Key    *Key
	Origin string // the upstream's name for itself, as ParseOrigin returns it

	nonce *nonce // the upstream's
}

// NewProver returns a prover for the upstream with this origin. Provers with the same key and origin
// share the upstream's nonce.
func NewProver(key *Key, origin string) *Prover {
	return &Prover{Key: key, Origin: origin, nonce: key.resources.of(origin)}
}

// Prove adds a proof to a request with a token, for its current method and path. So it must come after
// everything that changes them. tokenHash is HashToken of the token. An empty nonce means the
// upstream's last one.
func (p *Prover) Prove(r *http.Request, tokenHash, nonce string) error {
	proof, err := p.Key.proof(Method(r), Target(p.Origin, r.URL), tokenHash, cmp.Or(nonce, p.nonce.last()))
	if err != nil {
		return err
	}
	r.Header[Header] = []string{proof}
	return nil
}

// TakeNonce removes the nonce from an upstream's answer, as it is meant for the gateway, and returns it,
// or an empty string. The next proofs contain it.
func (p *Prover) TakeNonce(header http.Header) string {
	value := p.nonce.update(header)
	delete(header, NonceHeader)
	return value
}

// Method returns the htm of a proof: the method that the upstream sees. Caddy's reverse_proxy turns a
// WebSocket handshake of HTTP/2 or HTTP/3 (CONNECT, RFC 8441, RFC 9220) into one of HTTP/1.1 (GET).
func Method(r *http.Request) string {
	if r.Method == http.MethodConnect && (r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket") {
		return http.MethodGet
	}
	return r.Method
}
