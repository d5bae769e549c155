package oauthcc

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// FuzzUnmarshalCaddyfile starts from the golden files, errors included. Whatever is accepted must be the same
// after it was written as JSON, also when it is provisioned. Errors name a line, and quote no secret.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	for _, file := range slices.Concat(goldenFiles(f, adaptDir), goldenFiles(f, errorDir)) {
		for _, g := range readGoldens(f, file) {
			_, directive, _ := strings.Cut(g.input, "oauth_cc")
			f.Add("oauth_cc" + directive)
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		h, err := unmarshalTokens(tokens)
		if err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("%q names no file and line", err)
			}
		} else {
			checkRoundTrip(t, h, !strings.Contains(input, "{file."))
		}
		if strings.Contains(input, configCanary) {
			return // it can stand where no secret belongs
		}
		hideSecrets(tokens)
		if h, err = unmarshalTokens(tokens); err == nil {
			err = checkRoundTrip(t, h, !strings.Contains(input, "{file."))
		}
		if err != nil && strings.Contains(err.Error(), configCanary) {
			t.Errorf("%q quotes a secret", err)
		}
	})
}

func unmarshalTokens(tokens []caddyfile.Token) (*Handler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(caddyfile.NewDispenser(slices.Clone(tokens)))
}

// checkRoundTrip checks that a handler is the same after it was written as JSON. It returns why it can't be
// provisioned. readsNothing tells that it has no placeholders of files.
func checkRoundTrip(t *testing.T, h *Handler, readsNothing bool) error {
	t.Helper()
	written, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	again := strictHandler(t, written)
	rewritten, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if !sameJSON(t, written, rewritten) {
		t.Errorf("%s\nis written back as\n%s", written, rewritten)
	}
	before, after := reflect.ValueOf(h).Elem(), reflect.ValueOf(again).Elem()
	for i := range before.NumField() {
		field := before.Type().Field(i)
		if !field.IsExported() || field.Name == "Transport" || field.Name == "StorageRaw" {
			continue // those of Caddy are compared as JSON
		}
		if a, b := before.Field(i).Interface(), after.Field(i).Interface(); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %#v is read back as %#v", field.Name, a, b)
		}
	}
	if !readsNothing || h.Transport != nil || h.StorageRaw != nil || h.SigningKey != nil || h.Prefetch {
		return nil // it would look at files, or begin to fetch
	}
	failure, sameFailure := provisionAndClean(t, h), provisionAndClean(t, again)
	if (failure == nil) != (sameFailure == nil) || failure != nil && failure.Error() != sameFailure.Error() {
		t.Errorf("provisioned with %v, and read back with %v", failure, sameFailure)
	}
	return failure
}

func provisionAndClean(t *testing.T, h *Handler) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	defer cleanUpConfig(t, h)
	return h.Provision(ctx)
}

// hideSecrets puts the canary where a secret is to stand: in the options with secrets, in place of all that
// follows the option or the name.
func hideSecrets(tokens []caddyfile.Token) {
	option, at := "", 0 // of the current line
	for i := range tokens {
		if i == 0 || tokens[i].Line > tokens[i-1].Line+strings.Count(tokens[i-1].Text, "\n") || tokens[i-1].Text == "{" {
			option, at = tokens[i].Text, 0
			continue
		}
		at++
		isSecret := option == "client_secret" || option == "client_assertion" || (option == "param" || option == "request_header") && at > 1
		if isSecret && tokens[i].Text != "{" && tokens[i].Text != "}" {
			tokens[i].Text = configCanary
		}
	}
}
