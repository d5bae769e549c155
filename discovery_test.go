package oauthcc

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func TestMetadataThatCannotBeReadAgainIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{Issuer: servertest.Issuer})
		server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: g.endpoint}}
		g.tokens.client.Transport = server
		g.mustGet()
		server.Becomes(servertest.RFC8414Place, nil)
		time.Sleep(2 * time.Hour)
		g.mustGet()
		told := g.logs.FilterMessage("the issuer's metadata could not be read again; the known metadata stays in use").All()
		if len(told) != 1 || told[0].ContextMap()["issuer"] != servertest.Issuer || told[0].ContextMap()["error"] != "invalid_response" {
			t.Errorf("logged %v", told)
		}
	})
}
