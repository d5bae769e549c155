package endpoint

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// What others ask of a method is said by each.
func TestEachMethodSaysAllOfItself(t *testing.T) {
	names := MethodNames()
	for i, m := range methods {
		traits := m.traits()
		if traits.name == "" || slices.Index(names, traits.name) != i {
			t.Errorf("%T is called %q in %q", m, traits.name, names)
		}
		if registered := MethodNamed(traits.registered); registered.name != registered.registered {
			t.Errorf("servers know %s as %q", traits.name, traits.registered)
		}
		if slices.ContainsFunc(traits.synonyms, func(name string) bool { return slices.Contains(names, name) }) {
			t.Errorf("%s has synonyms that are methods themselves: %q", traits.name, traits.synonyms)
		}
		if traits.Credential == 0 || traits.SendsSecret && traits.Credential != CredentialSecret || traits.Signs && traits.Credential == CredentialNone {
			t.Errorf("%s has the credential %d", traits.name, traits.Credential)
		}
		if request := requestOf(t, traits.name); request.Check() != nil || request.Method().name != traits.name {
			t.Errorf("%s: %v", traits.name, request.Check())
		}
	}
}

// Anybody could derive the same keys from an empty credential.
func TestCredentialIsNeverEmpty(t *testing.T) {
	for _, name := range append(MethodNames(), "", "unknown") {
		request := requestOf(t, name)
		request.CertificateKey = []byte("key")
		credential, err := request.Credential()
		isNone := name == AuthNone || !slices.Contains(MethodNames(), name)
		if (err != nil) != isNone || (len(credential) == 0) != isNone {
			t.Errorf("%q: got %d bytes, %v", name, len(credential), err)
		}
		request.ClientSecret, request.CertificateKey, request.Assertion.key = "", nil, nil
		if credential, err := request.Credential(); err == nil || credential != nil {
			t.Errorf("%q without any: got %d bytes, %v", name, len(credential), err)
		}
	}
}

func TestRequestWithAnUnknownMethodIsNotSent(t *testing.T) {
	server := &scriptedEndpoint{steps: []http.RoundTripper{servertest.AnyToken}}
	for _, name := range []string{"", "client_secret", "self_signed_tls_client_auth"} {
		request := cannedRequest
		request.AuthMethod = name
		if err := request.Check(); err == nil || !strings.HasPrefix(err.Error(), "auth_method: unknown method") {
			t.Errorf("%q: %v", name, err)
		}
		if _, failure := fetchBy(t, server, request, nil); failure == nil || failure.Class != ClassRefused || !failure.Unsent {
			t.Errorf("%q: got %+v", name, failure)
		}
	}
	if len(server.asked) != 0 {
		t.Error("a token request was sent")
	}
}

// An assertion is masked in what comes back, though the request does not have it.
func TestAttemptNamesWhatOnlyItHas(t *testing.T) {
	for _, m := range methods {
		traits := m.traits()
		a, err := m.authenticate(requestOf(t, traits.name), time.Now())
		if err != nil || traits.Signs != slices.Contains(a.sensitive, a.params.Get("client_assertion")) {
			t.Errorf("%s: %q, %v", traits.name, a.sensitive, err)
		}
	}
}
