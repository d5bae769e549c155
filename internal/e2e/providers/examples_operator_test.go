package providers

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func init() {
	caddy.RegisterModule(new(execStandIn))
}

// execStandIn runs a command as the module does that the example uses.
type execStandIn struct {
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
}

func (*execStandIn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(execStandIn) }}
}

func (e *execStandIn) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.NextArg() {
		return d.ArgErr()
	}
	e.Command, e.Args = d.Val(), d.RemainingArgs()
	return nil
}

func (e *execStandIn) Handle(ctx context.Context, _ caddy.Event) error {
	repl := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	args := make([]string, len(e.Args))
	for i, arg := range e.Args {
		args[i] = repl.ReplaceAll(arg, "")
	}
	return exec.CommandContext(ctx, e.Command, args...).Run()
}

// partnerEnv is the environment of the examples that have a partner of the user's.
func partnerEnv(t *testing.T) (endpoint *gatewaytest.TokenServer, upstream *gatewaytest.API, env map[string]string) {
	t.Helper()
	endpoint, upstream = gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	grantOnlyTo(endpoint, "gateway", "a-secret")
	return endpoint, upstream, map[string]string{"TOKEN_ENDPOINT": endpoint.URL + "/token", "CLIENT_SECRET": "a-secret", "API": upstream.URL}
}

func testAccessLog(t *testing.T) {
	endpoint, upstream, env := partnerEnv(t)
	g := startExample(t, "access-log", exampleRun{env: env})
	accessed := func() (lines []map[string]any) {
		for line := range strings.Lines(g.Logs.All()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "handled request" {
				lines = append(lines, entry)
			}
		}
		return lines
	}
	last := func() map[string]any { return accessed()[len(accessed())-1] }
	for n, want := range []string{"fetched", "fresh", "replayed"} {
		if want == "replayed" {
			upstream.Revoke("token-1")
		}
		g.Get("/")
		gatewaytest.Await(t, "the request is logged", func() bool { return len(accessed()) == n+1 })
		if got := last()["token"]; got != want {
			t.Errorf("logged %v, want %s", got, want)
		}
	}
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	gatewaytest.Await(t, "the token is forgotten", func() bool {
		gatewaytest.ForgetTokens(t)
		return g.Get("/").Status == http.StatusBadGateway
	})
	gatewaytest.Await(t, "the request is logged", func() bool { return last()["status"] == 502.0 })
	if entry := last(); entry["token"] != "none" || entry["cause"] != "invalid_client" {
		t.Errorf("logged %v", entry)
	}
	if strings.Contains(g.Logs.All(), "token-1") {
		t.Error("the log has a token")
	}
}

func testTracing(t *testing.T) {
	spans := gatewaytest.CollectSpans(t)
	_, _, env := partnerEnv(t)
	g := startExample(t, "tracing", exampleRun{env: env})
	g.Get("/")
	request, fetch := spans.Await(t, "gateway GET", 1)[0], spans.Await(t, gatewaytest.FetchSpan, 1)[0]
	if fetch.Parent.SpanID() != request.SpanContext.SpanID() {
		t.Errorf("the fetch is below %s, want %s", fetch.Parent.SpanID(), request.SpanContext.SpanID())
	}
	if got := gatewaytest.AttributesOf(request)["oauth_cc.status"]; got != "fetched" {
		t.Errorf("the request's span has %v", got)
	}
}

func testNotify(t *testing.T) {
	endpoint, upstream, env := partnerEnv(t)
	dir := t.TempDir()
	notified := filepath.Join(dir, "notified")
	env["NOTIFY"] = filepath.Join(dir, "notify")
	script := "#!/bin/sh\necho \"$@\" >>" + notified + "\n"
	if err := os.WriteFile(env["NOTIFY"], []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	told := func(what string) func() bool {
		return func() bool {
			text, _ := os.ReadFile(notified)
			return strings.Contains(string(text), what)
		}
	}
	g := startExample(t, "notify", exampleRun{env: env})
	g.Get("/")
	upstream.Revoke("token-1")
	g.Get("/")
	gatewaytest.Await(t, "the rejection is told", told("oauth_cc.token_rejected "+env["TOKEN_ENDPOINT"]+" gateway invalid_token\n"))
	upstream.Revoke("token-2")
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	gatewaytest.ForgetTokens(t)
	g.Get("/")
	gatewaytest.Await(t, "the failure is told", told("oauth_cc.token_failed "+env["TOKEN_ENDPOINT"]+" gateway invalid_client\n"))
}
