package endpoint

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
)

// roundTripper stacks transports above next. Each does one thing that x/oauth2 can't do.
func (r Request) roundTripper(next http.RoundTripper, a clientAuth) http.RoundTripper {
	next = headerTransport{next: next, headers: r.Headers}
	if r.Format == FormatJSON {
		next = jsonTransport{next}
	}
	if a.wrap != nil {
		next = a.wrap(next)
	}
	return next
}

// userAgent names the gateway to the authorization server.
const userAgent = "caddy-oauth-cc"

// headerTransport sets the request's header fields: those of the options, and an Accept, without which
// some servers answer errors with HTML.
type headerTransport struct {
	next    http.RoundTripper
	headers map[string][]string
}

func (t headerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	for name, values := range t.headers {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	return t.next.RoundTrip(req)
}

// jsonTransport turns the form that x/oauth2 writes into a JSON object with the same members, for
// endpoints that accept only JSON. A parameter with several values becomes a list.
type jsonTransport struct {
	next http.RoundTripper
}

func (t jsonTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	form, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return nil, err
	}
	members := make(map[string]any, len(values))
	for name, list := range values {
		if members[name] = list; len(list) == 1 {
			members[name] = list[0]
		}
	}
	body, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(body))
	req.Body = io.NopCloser(bytes.NewReader(body))
	// So that net/http can send it again on another connection.
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return t.next.RoundTrip(req)
}
