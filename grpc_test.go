package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// An error can come from someone who does not look at tokens, such as a proxy before the API. It does not show
// that the API takes a token that it rejects.
func TestErrorIsNoAcceptance(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		cured  bool // rejections are put down to the token
	}{
		"HTTP":                          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, true},
		"gRPC":                          {grpcAnswer("14"), true},
		"an acceptance, for comparison": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, false},
		"one of gRPC":                   {grpcAnswer("0"), false},
		"one of gRPC, so far":           {grpcAnswer(""), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.mustGet()
				g.accepts(func(token string) bool { return token == "token-3" }, nil)
				if a := g.get(); a.status != http.StatusUnauthorized || a.token != "token-2" {
					t.Fatalf("got %+v", a)
				}
				g.rejectPath("/other", test.answer)
				g.send(httptest.NewRequest(http.MethodGet, "/other", nil))
				time.Sleep(15 * time.Second)
				if a := g.get(); a.status == http.StatusOK != test.cured {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// grpcAnswer is an answer of gRPC with that status in the header, if it is not empty.
func grpcAnswer(status string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if status != "" {
			w.Header().Set("Grpc-Status", status)
		}
		w.WriteHeader(http.StatusOK)
	}
}
