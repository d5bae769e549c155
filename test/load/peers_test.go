package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTokensAreAcceptedAsLongAsTheyLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		granted := newTokens()
		first, second := granted.grant(5*time.Second), granted.grant(time.Hour)
		accepts := func(authorization string, want bool) {
			t.Helper()
			if got := granted.accepts(authorization); got != want {
				t.Errorf("%.30q: accepted %v, want %v", authorization, got, want)
			}
		}
		accepts("Bearer "+staticToken, true)
		accepts("Bearer "+first, true)
		accepts(first, false)
		accepts("Bearer "+first+"x", false)
		accepts("", false)
		time.Sleep(5 * time.Second)
		accepts("Bearer "+first, false)
		accepts("Bearer "+second, true)
		granted.revokeAll()
		accepts("Bearer "+second, false)
		accepts("Bearer "+staticToken, true)
		accepts("Bearer "+granted.grant(time.Second), true)
		if len(first) != len(staticToken) {
			t.Errorf("tokens have %d and %d characters", len(first), len(staticToken))
		}
	})
}

func TestTheAPIServesWholeRequestsWithTokenOnly(t *testing.T) {
	granted := newTokens()
	live := granted.grant(time.Hour)
	for _, test := range []struct {
		name, path, token, length string
		api                       *api
		want                      int
	}{
		{"whole, with token", "/200", live, "4", newAPI(granted), 200},
		{"large answer", "/65536", live, "4", newAPI(granted), 200},
		{"no token", "/200", "", "4", newAPI(granted), 401},
		{"no token, none wanted", "/200", "", "4", newAPI(nil), 200},
		{"part of the body", "/200", live, "5", newAPI(granted), 400},
		{"unknown length", "/201", live, "4", newAPI(granted), 404},
	} {
		r := httptest.NewRequest(http.MethodPost, test.path, strings.NewReader("body"))
		r.Header.Set("Authorization", "Bearer "+test.token)
		r.Header.Set(lengthField, test.length)
		w := httptest.NewRecorder()
		test.api.ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s: %d, want %d", test.name, w.Code, test.want)
		}
		if want := strings.TrimPrefix(test.path, "/"); test.want == 200 && w.Header().Get("Content-Length") != want {
			t.Errorf("%s: a length of %s", test.name, w.Header().Get("Content-Length"))
		}
	}
}

func TestTheEndpointBehavesAsWanted(t *testing.T) {
	endpoint := newTokenEndpoint(newTokens())
	server := httptest.NewServer(endpoint.routes())
	t.Cleanup(server.Close)
	p := &peers{endpoint: server.Listener.Addr().String()}
	ask := func() (status int, err error) {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/token", nil)
		r.SetBasicAuth("load", clientSecret)
		response, err := server.Client().Do(r)
		if err != nil {
			return 0, err
		}
		response.Body.Close()
		return response.StatusCode, nil
	}
	behave := func(c conduct) {
		t.Helper()
		if err := p.behave(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want int) {
		t.Helper()
		if got, err := ask(); err != nil || got != want {
			t.Errorf("the endpoint answers %d, %v; want %d", got, err, want)
		}
	}
	behave(longLived)
	want(200)
	behave(conduct{Fails: true})
	want(503)

	behave(conduct{Hangs: true})
	hung := make(chan error)
	go func() {
		_, err := ask()
		hung <- err
	}()
	for asked := 0; asked < 3; { // until the request has arrived
		var err error
		if asked, err = p.asked(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	behave(longLived)
	if err := <-hung; err == nil {
		t.Error("an endpoint that hangs has answered")
	}
	want(200)
	if asked, err := p.asked(t.Context()); err != nil || asked != 4 {
		t.Errorf("%d token requests, %v; want 4", asked, err)
	}
}
