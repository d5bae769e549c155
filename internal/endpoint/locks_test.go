package endpoint

import (
	"context"
	"net/http"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// Whatever is called and may take its time finds the lock free.
func TestNoLockIsHeldWhileAServerIsAsked(t *testing.T) {
	d := new(Discovery)
	calls := make(map[string]int)
	free := func(during string) {
		calls[during]++
		if !d.mu.TryLock() {
			t.Errorf("held in %s", during)
			return
		}
		d.mu.Unlock()
	}
	server := servertest.Func(func(req *http.Request) (*http.Response, error) {
		free(req.Method)
		if req.Method == http.MethodGet {
			return servertest.Answer{Body: servertest.Document(nil)}.RoundTrip(req)
		}
		return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
	})
	client := &Client{Transport: server, Timeout: cannedTTL}
	_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) {
		free("resolve")
		return issuerRequest(), nil
	}, d)
	if failure == nil || failure.Code != "invalid_client" || calls["resolve"] != 2 || calls[http.MethodGet] != 1 || calls[http.MethodPost] != 1 {
		t.Errorf("got %v after %v", failure, calls)
	}
}
