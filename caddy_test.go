package oauthcc

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestTokenIsAttachedAndCached(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	for range 3 {
		if a := g.get("/orders"); a.status != 200 || a.body != "GET /orders with token-1" {
			t.Fatalf("got %d %q", a.status, a.body)
		}
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	request := endpoint.recorded()[0]
	if request.method != http.MethodPost || request.body != "grant_type=client_credentials" {
		t.Errorf("token request was %s %q", request.method, request.body)
	}
}

func TestManyFirstRequestsCauseOneTokenRequest(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	var wait sync.WaitGroup
	for range 200 {
		wait.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
			if a, err := exchangeWith(testClient, req); err != nil || a.status != 200 {
				t.Errorf("got %d, %v", a.status, err)
			}
		})
	}
	wait.Wait()
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestRevokedTokenIsReplayedOnce(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.get("/")
	upstream.revoke("token-1")
	body := strings.Repeat("x", 900<<10)
	if a := g.post("/orders", "text/plain", body); a.status != 200 || a.body != "POST /orders with token-2" {
		t.Fatalf("got %d %q", a.status, a.body)
	}
	if got := upstream.last(t).body; got != body {
		t.Errorf("the upstream got %d bytes, want %d", len(got), len(body))
	}
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestReloadUnderLoadKeepsTheToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	site := endpoint.options() + upstream.proxy()
	g := startGateway(t, site)
	g.get("/")
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
				if a, err := exchangeWith(testClient, req); err != nil || a.status != 200 {
					t.Errorf("got %d, %v", a.status, err)
					return
				}
			}
		})
	}
	for i := range 10 {
		g.reload(fmt.Sprintf("header X-Reload %d\n%s", i, site))
	}
	if err := g.tryReload("oauth_cc not-a-url\n" + site); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	close(stop)
	wait.Wait()
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}
