package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// sendPreflight sends what a browser sends before a request to another origin.
func (g *virtualGateway) sendPreflight() virtualAnswer {
	r := httptest.NewRequest(http.MethodOptions, "/", http.NoBody)
	r.Header.Set("Access-Control-Request-Method", http.MethodGet)
	return g.send(r)
}

// A preflight uses what is at hand, and has it renewed as others do, but never starts a fetch that it would wait for.
func TestPreflightIsNeverHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "50%"})
		g.endpoint.takes = 5 * time.Second
		want := func(token, from string, fetches int) {
			t.Helper()
			synctest.Wait()
			if a := g.sendPreflight(); a.status != 200 || a.token != token || a.from != from || a.waited != 0 {
				t.Errorf("got %+v, want %s and %s at once", a, token, from)
			}
			synctest.Wait()
			if n := g.endpoint.count(); n != fetches {
				t.Errorf("%d token requests, want %d", n, fetches)
			}
		}
		want("", statusNone, 0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.mustGet()
		}()
		want("", statusNone, 1) // while another request waits
		<-done
		want("token-1", statusFresh, 1)
		time.Sleep(40 * time.Minute)
		want("token-1", statusStale, 2)
		time.Sleep(time.Minute)
		want("token-2", statusFresh, 2)
		time.Sleep(2 * time.Hour)
		want("", statusNone, 2)
	})
}
