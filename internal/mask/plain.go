package mask

import (
	"cmp"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// commonWords are no secrets, and stay readable in messages: names of OAuth that servers use, and what
// parameters and header fields often say.
var commonWords = []string{
	"access_denied", "access_token", "assertion", "audience", "authorization", "authorization_details", "basic", "bearer", "client", "client_assertion",
	"client_assertion_type", "client_credentials", "client_id", "client_secret", "client_secret_basic", "client_secret_jwt", "client_secret_post",
	"credentials", "dpop", "expires_in", "grant_type", "id_token", "invalid_authorization_details", "invalid_client", "invalid_dpop_proof",
	"invalid_grant", "invalid_request", "invalid_scope", "invalid_target", "invalid_token", "issuer", "openid", "password", "private_key_jwt",
	"redirect_uri", "refresh_token", "resource", "response_type", "scope", "server_error", "subject_token", "subject_token_type",
	"temporarily_unavailable", "tls_client_auth", "token", "token_endpoint", "token_type", "unauthorized_client", "unsupported_grant_type",
	"use_dpop_nonce",

	"application/json", "application/problem+json", "application/x-www-form-urlencoded", "application/xml", "text/html", "text/plain",
	"charset=utf-8", "content-type", "http://", "https://",

	"account", "admin", "code", "default", "external", "false", "form", "internal", "json", "none", "null", "offline", "online", "production",
	"public", "read", "service", "staging", "system", "tenant", "test", "true", "user", "version", "write",
}

// wordsOfMessages stay readable as well, but can be secrets of somebody who has taken one.
var wordsOfMessages = []string{
	"authentication", "authenticated", "certificate", "configuration", "denied", "endpoint", "expired", "forbidden", "header", "invalid", "missing",
	"parameter", "permission", "private key", "public key", "request", "required", "response", "secret", "server", "signature", "unauthorized",
	"unknown", "unsupported", "username",
}

// isOrdinary reports whether a value is no secret: a common word, up to three letters, a number of up to three
// digits, or a version.
func isOrdinary(value string) bool {
	value = strings.ToLower(strings.TrimSpace(value))
	return value == "" || len(value) == 1 || shortWord.MatchString(value) || slices.Contains(commonWords, value)
}

var shortWord = regexp.MustCompile(`^([a-z]{1,3}|[0-9]{1,3}|v?[0-9]{1,2}(\.[0-9]{1,2}){0,2})$`)

// minPublic is the least length of a public word that is looked for.
const minPublic = 3

// notPublic returns the spans without those that are inside of a public word. What they show is not secret,
// unless somebody has taken such a word for a secret.
func (s Secrets) notPublic(text string, spans []span) []span {
	text = lowerASCII(text)
	public := places(text, slices.Concat(commonWords, s.Public), s.Certain)
	public = append(public, places(text, wordsOfMessages, slices.Concat(s.Certain, s.Possible))...)
	public = joined(public)
	return slices.DeleteFunc(spans, func(found span) bool {
		after := sort.Search(len(public), func(i int) bool { return public[i].from > found.from })
		return after > 0 && public[after-1].to >= found.to
	})
}

// joined returns spans in order, those that overlap as one.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var all []span
	for _, s := range spans {
		if n := len(all); n > 0 && s.from < all[n-1].to {
			all[n-1].to = max(all[n-1].to, s.to)
			continue
		}
		all = append(all, s)
	}
	return all
}

// places returns where words are in a text that is in small letters, but for words that are secrets.
func places(text string, words, secrets []string) []span {
	var found []span
	for _, word := range words {
		word = lowerASCII(word)
		if len(word) < minPublic || slices.ContainsFunc(secrets, func(secret string) bool { return lowerASCII(secret) == word }) {
			continue
		}
		for at := 0; ; at++ {
			next := strings.Index(text[at:], word)
			if next < 0 {
				break
			}
			at += next
			found = append(found, span{at, at + len(word)})
		}
	}
	return found
}

// lowerASCII keeps the length of the text, unlike strings.ToLower.
func lowerASCII(text string) string {
	lower := []byte(text)
	for i, b := range lower {
		if 'A' <= b && b <= 'Z' {
			lower[i] = b + 'a' - 'A'
		}
	}
	return string(lower)
}
