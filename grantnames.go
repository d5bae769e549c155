package oauthcc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
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
	running = slices.DeleteFunc(running, func(h *Handler) bool { return latest[h.key] != h })
	same := make(map[string]int)
	for _, h := range running {
		same[h.publicID()]++
	}
	var named []namedGrant
	for _, h := range running {
		id := h.publicID()
		if same[id] > 1 {
			id += "-" + keyedName(h.key)
		}
		for _, g := range h.grants() {
			name := id
			if g.entry != nil {
				name += "." + keyedName(g.entry.key)
			}
			named = append(named, namedGrant{id: name, h: h, grant: g})
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

// nameKey keeps keys from being guessed from names.
var nameKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

// keyedName names a grant as long as the process lasts. It tells nothing of what is in the
// key, and no other grant gets it when that changes.
func keyedName(key grantKey) string {
	mac := hmac.New(sha256.New, nameKey())
	mac.Write(key[:])
	return hex.EncodeToString(mac.Sum(nil)[:6])
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
			shown[i] = strings.Clone(firstRunes(p.shown(values[i]), maxShown))
		}
	}
	return shown
}

// shown is what may be told of the value: of an endpoint neither the query nor user info, with
// which it is not even accepted.
func (p requestPlaceholder) shown(value string) string {
	if !p.wholeURL {
		return value
	}
	u, err := url.Parse(value)
	if err != nil {
		return ""
	}
	return displayURL(u)
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
