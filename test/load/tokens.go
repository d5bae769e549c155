package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// tokenLength is that of a short JWT. The static token has the same, so that it costs the same to send.
const tokenLength = 256

const clientSecret = "load-secret"

var staticToken = padToken("static-")

func padToken(text string) string {
	return text + strings.Repeat("x", tokenLength-len(text))
}

// tokens are those that the token endpoint has granted and the API accepts.
type tokens struct {
	mu      sync.RWMutex
	granted int
	expiry  map[string]time.Time // of those that are not revoked
}

func newTokens() *tokens { return &tokens{expiry: make(map[string]time.Time)} }

func (t *tokens) grant(lifetime time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.granted++
	token := padToken(fmt.Sprintf("token-%d-", t.granted))
	t.expiry[token] = time.Now().Add(lifetime)
	return token
}

func (t *tokens) revokeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.expiry)
}

func (t *tokens) accepts(authorization string) bool {
	token, found := strings.CutPrefix(authorization, "Bearer ")
	if !found {
		return false
	}
	if token == staticToken {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	expiry, live := t.expiry[token]
	return live && time.Now().Before(expiry)
}
