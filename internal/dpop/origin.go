package dpop

import (
	"errors"
	"net"
	"net/url"
	"strings"
)

// Target returns the htu of a proof: a URL without query and fragment (RFC 9449 §4.2).
func Target(origin string, u *url.URL) string {
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return origin + "/" // an empty path, or the asterisk of OPTIONS
	}
	return origin + path
}

// ParseOrigin reads the origin of an upstream. It returns it in lower case and without the default
// port. Users have to configure the origin: a proxy often connects to an address that is not the
// upstream's name for itself. Its errors say what to write instead.
func ParseOrigin(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("dpop: not an http or https origin; write the one by which the API knows itself, such as https://api.example.com")
	case u.User != nil || strings.ContainsAny(raw, "?#"):
		return "", errors.New("dpop: an origin has no user info, query or fragment; write one such as https://api.example.com")
	case u.Path != "" && u.Path != "/":
		return "", errors.New("dpop: an origin has no path, which is taken from each request; write one such as https://api.example.com")
	}
	return originOf(u), nil
}

// originOf returns a URL's origin (RFC 6454 §4), in lower case and without the default port.
func originOf(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	scheme := strings.ToLower(u.Scheme)
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		if strings.Contains(host, ":") { // IPv6
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
