package dpop

import (
	"cmp"
	"net/http"
)

// Transport adds a proof to a token request (RFC 9449 §5), and keeps the nonce of the answer for the
// next request.
type Transport struct {
	Next  http.RoundTripper
	Key   *Key
	Nonce string // for the proof; empty for the server's last one
}

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	origin := originOf(req.URL)
	nonce := t.Key.servers.of(origin)
	proof, err := t.Key.proof(req.Method, Target(origin, req.URL), "", cmp.Or(t.Nonce, nonce.last()))
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header[Header] = []string{proof}
	res, err := t.Next.RoundTrip(req)
	if err == nil {
		nonce.update(res.Header)
	}
	return res, err
}
