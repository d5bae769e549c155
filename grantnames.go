package oauthcc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
)

// namedGrant is a grant of the configuration that runs, under the name by which operators
// ask for it.
type namedGrant struct {
	id    string
	h     *Handler
	grant *cachedGrant
}

// namedGrants lists them in the order of the configuration, and those that differ from
// request to request by when they were used last.
func namedGrants() []namedGrant {
	running := handlers.running()
	latest := make(map[grantKey]*Handler) // of a configuration and the one that takes over, the latter
	for _, h := range running {
		latest[h.key] = h
	}
	var named []namedGrant
	same := make(map[string]int)
	for _, h := range running {
		if latest[h.key] != h {
			continue
		}
		id := h.publicID()
		if same[id]++; same[id] > 1 {
			id += "-" + strconv.Itoa(same[id])
		}
		for _, g := range h.grants() {
			named = append(named, namedGrant{id: id + g.entry.suffix(), h: h, grant: g})
		}
	}
	return named
}

// publicID names the handler's grant by what is no secret: the grant key covers the
// credential, which could be guessed from it. It outlives restarts.
func (h *Handler) publicID() string {
	r := h.public
	key := newGrantKey([]string{r.issuer, r.endpoint, r.clientID, r.authMethod, r.format, h.DPoP}, r.scopes, r.audience, r.resource)
	return hex.EncodeToString(key[:6])
}

// suffixKey keeps a client of the gateway from finding out by a name what is in a key.
var suffixKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

// suffix names a grant among those of its table, as long as the process lasts. It is empty
// for one that is in no table.
func (e *tableEntry) suffix() string {
	if e == nil {
		return ""
	}
	mac := hmac.New(sha256.New, suffixKey())
	mac.Write(e.key[:])
	return "." + hex.EncodeToString(mac.Sum(nil)[:6])
}

// publicRequest is what may be told of a token request: that with its placeholders resolved,
// or as it is written where they differ from request to request.
func (h *Handler) publicRequest(resolved grantRequest) grantRequest {
	r := resolved
	switch {
	case h.perRequest != nil:
		r = h.template()
		r.endpoint, _, _ = strings.Cut(r.endpoint, "?")
	case r.issuer == "":
		r.endpoint = r.endpointName()
	}
	return grantRequest{
		issuer: r.issuer, endpoint: r.endpoint, clientID: r.clientID, authMethod: r.authMethod, format: r.format,
		certificate: r.certificate, scopes: r.scopes, audience: r.audience, resource: r.resource,
	}
}

// maxShown is how much is kept of what a placeholder of the request stands for, to tell
// operators whose token it is. In characters.
const maxShown = 64

// shownValues are what the placeholders of a request stand for, as far as operators may see it.
func shownValues(placeholders []requestPlaceholder, values []string) []string {
	shown := make([]string, len(values))
	for i, p := range placeholders {
		if !p.secret {
			shown[i] = strings.Clone(firstRunes(values[i], maxShown))
		}
	}
	return shown
}

// values are what the placeholders of the request stand for, by their names.
func (n namedGrant) values() map[string]string {
	if n.grant.entry == nil {
		return nil
	}
	values := make(map[string]string)
	for i, p := range n.h.perRequest {
		if !p.secret {
			values[p.name] = n.grant.entry.shown[i]
		}
	}
	return values
}
