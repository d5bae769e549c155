package dpop

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxNonce is the longest nonce that is kept, in bytes. It is repeated in each proof, so it must fit
	// into a header field.
	maxNonce = 1 << 10

	// maxNonceOrigins bounds for how many origins nonces are kept. Token endpoints can differ from
	// request to request, so there can be any number of them.
	maxNonceOrigins = 1000
)

// NonceIn returns the nonce of an answer, or an empty string.
func NonceIn(header http.Header) string {
	if values := header[NonceHeader]; len(values) > 0 && isNonce(values[0]) {
		return values[0]
	}
	return ""
}

// isNonce reports whether a value fits the grammar of RFC 9449 §8.1 and is not too long.
func isNonce(value string) bool {
	return value != "" && len(value) <= maxNonce &&
		!strings.ContainsFunc(value, func(r rune) bool { return r < '!' || r > '~' || r == '"' || r == '\\' })
}

// nonce is the last nonce of an origin (RFC 9449 §8.2).
type nonce struct {
	value atomic.Pointer[string] // nil until there is one
}

// last returns the value, or an empty string.
func (n *nonce) last() string {
	if value := n.value.Load(); value != nil {
		return *value
	}
	return ""
}

// update keeps the nonce of an answer and returns it. It returns an empty string if the answer has none.
func (n *nonce) update(header http.Header) string {
	value := NonceIn(header)
	if value != "" && n.last() != value {
		n.value.Store(&value)
	}
	return value
}

// nonces are the nonces of authorization servers, or of upstreams.
type nonces struct {
	mu     sync.Mutex        // guards origin
	origin map[string]*nonce // by origin
}

// of returns the nonce of an origin. It may have no value yet.
func (n *nonces) of(origin string) *nonce {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.origin[origin]; found != nil {
		return found
	}
	if n.origin == nil || len(n.origin) >= maxNonceOrigins {
		// A lost nonce costs one more request: the server answers with another nonce.
		n.origin = make(map[string]*nonce)
	}
	made := new(nonce)
	n.origin[origin] = made
	return made
}
