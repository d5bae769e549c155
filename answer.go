package oauthcc

import (
	"net/http"
	"slices"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/challenge"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// answer is what an answer of the upstream says of token and proof.
type answer struct {
	status   int    // of HTTP
	isError  bool   // by its status of HTTP or gRPC
	rejected bool   // by its status, the token was rejected
	refused  bool   // the same, or it is 401
	invalid  bool   // the token is not valid, by the status or by its challenge
	code     string // the error code of its challenge; empty without
	nonce    string // for the next proof; empty without
}

// read reads an answer. A nonce is meant for the gateway, and taken out of the header.
func (x *exchange) read(status int, header http.Header) answer {
	prover := x.h.carrier.prover
	judged, isError := judgedStatus(status, header)
	a := answer{
		status: status, isError: isError,
		rejected: slices.Contains(x.h.rejections.statuses, judged), code: challengeCode(judged, header, prover != nil),
	}
	a.refused = a.rejected || judged == http.StatusUnauthorized
	a.invalid = judged == http.StatusUnauthorized || a.code == "invalid_token"
	if prover != nil {
		a.nonce = prover.TakeNonce(header)
	}
	return a
}

// wantsNonce reports whether the upstream asks for the nonce that it gave (RFC 9449 §9). In an answer with
// another status it can't: the upstream may have done what the request asks for.
func (a answer) wantsNonce() bool { return a.refused && a.code == "use_dpop_nonce" && a.nonce != "" }

// isOfProof reports whether the answer is about the DPoP proof, and not about the token (RFC 9449
// §7.1 and §9).
func (a answer) isOfProof() bool { return a.refused && isOfProof(a.code) }

func isOfProof(code string) bool {
	return code == "use_dpop_nonce" || code == "invalid_dpop_proof"
}

// challengeCode is the error code of the upstream's challenge, or empty. bound tells whether tokens are
// bound by DPoP.
func challengeCode(status int, header http.Header, bound bool) string {
	lines := header["Www-Authenticate"]
	if status < 400 || len(lines) == 0 {
		return ""
	}
	if bound {
		if code := challenge.ErrorCode(lines, endpoint.TypeDPoP); code != "" {
			return code
		}
	}
	code := challenge.ErrorCode(lines, endpoint.TypeBearer)
	if !bound && isOfProof(code) {
		return "" // there is none
	}
	return code
}
