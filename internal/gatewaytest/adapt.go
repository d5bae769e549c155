package gatewaytest

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// AdaptWithoutWarnings adapts a Caddyfile, which is also to be as caddy fmt writes it.
func AdaptWithoutWarnings(t testing.TB, text string) []byte {
	t.Helper()
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, warnings, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, warning := range warnings {
		t.Errorf("%s in\n%s", warning, text)
	}
	return config
}

// AdaptedHandlers returns the oauth_cc handlers in a configuration, in its order, as
// what Caddy unmarshals into the module.
func AdaptedHandlers(t testing.TB, config string) []json.RawMessage {
	t.Helper()
	var decoded any
	if err := json.Unmarshal([]byte(config), &decoded); err != nil {
		t.Fatal(err)
	}
	var found []json.RawMessage
	var search func(value any)
	search = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, element := range value {
				search(element)
			}
		case map[string]any:
			if value["handler"] == "oauth_cc" {
				delete(value, "handler")
				text, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, text)
				return
			}
			for _, member := range value {
				search(member)
			}
		}
	}
	search(decoded)
	if len(found) == 0 {
		t.Fatalf("no oauth_cc handler in %s", config)
	}
	return found
}
