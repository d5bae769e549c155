package requests

import (
	"os"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestWorldReadableKeyIsWarnedOf(t *testing.T) {
	server, upstream := gatewaytest.StartKeyServer(t), gatewaytest.StartAPI(t)
	if err := os.Chmod(server.File, 0o644); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.Start(t, server.Options()+upstream.Proxy())
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")
	if told := g.Logs.With("every user of this machine can read the signing key; take the right away with chmod o-r"); len(told) != 1 || told[0]["signing_key"] != server.File {
		t.Errorf("logged %v", told)
	}
}
