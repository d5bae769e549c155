package endpoint

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Class is the kind of a failed fetch. Its text is the error code if the endpoint gave no registered
// one.
type Class string

// The classes. The log and the metrics show them, so they stay as they are.
const (
	ClassRefused         Class = "refused"          // the endpoint refuses the client, or the request can't be made
	ClassUnreachable     Class = "unreachable"      // no connection, or it broke
	ClassTimeout         Class = "timeout"          // no answer in time
	ClassServerError     Class = "server_error"     // the endpoint has a problem
	ClassInvalidResponse Class = "invalid_response" // the answer has no usable token, and does not judge the client
)

// Error says why there is no token. Its text has nothing that the endpoint said and nothing about the
// gateway's configuration, as error routes can show it to clients.
type Error struct {
	// What happened.
	Class  Class
	Code   string // the endpoint's error code if it is registered for OAuth, else empty
	Status int    // HTTP status of the answer, 0 without an answer

	// For operators only. They contain no credential, and each can be empty.
	Detail string // in our words
	Said   string // the endpoint's words, masked
	Hint   string // what may help

	// RetryAfter is how long the endpoint asks to be left alone: 0 if it doesn't, at most an hour.
	RetryAfter time.Duration

	// Unsent means that no token request was sent, such as when a file with a secret is missing. So
	// the endpoint has no reason to lock the client out.
	Unsent bool

	// Asked is the Key of the request that failed. A request with another key may succeed. It is zero
	// if the request could not be resolved.
	Asked GrantKey

	seen       symptoms // of the answer; the hint comes from them
	lacksToken bool     // the answer says nothing but that all is well
	nonce      string   // of the answer, for the next DPoP proof (RFC 9449 §8)
}

// Error implements error.
func (e *Error) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("no access token: %s, HTTP status %d", e.ErrorCode(), e.Status)
	}
	return "no access token: " + e.ErrorCode()
}

// ErrorCode returns the endpoint's error code if it is registered, otherwise the class of the failure.
func (e *Error) ErrorCode() string {
	if e.Code != "" {
		return e.Code
	}
	return string(e.Class)
}

// IsTransient reports whether the same request may succeed a moment later.
func (e *Error) IsTransient() bool {
	return e.Class == ClassUnreachable || e.Class == ClassTimeout || e.Class == ClassServerError
}

// RefusesClient reports whether the endpoint refused the client, by its error code, or by the status
// alone. Some servers refuse a client with an empty body.
func (e *Error) RefusesClient() bool {
	if e.Code != "" {
		return e.Code == "invalid_client"
	}
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// registeredErrors are the codes with which a token endpoint can answer a client-credentials request.
// They come from RFC 6749 §5.2 and the IANA registry "OAuth Extensions Error". No other text gets into
// Code, so clients never see a server's own words.
var registeredErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
	"invalid_scope", "invalid_target", "invalid_authorization_details", "invalid_dpop_proof", "use_dpop_nonce",
	"access_denied", "server_error", "temporarily_unavailable",
}

// classForStatus tells a server with a problem from a server that refuses the client. Most statuses
// judge nobody: a redirect, the 404 of a router whose token endpoint is gone, or the 407 of a proxy.
func classForStatus(status int) Class {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return ClassServerError
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return ClassRefused
	}
	if status >= 500 {
		return ClassServerError
	}
	return ClassInvalidResponse
}

// maxRetryAfter bounds a Retry-After. Otherwise a broken endpoint could stop the gateway's token
// requests for ever.
const maxRetryAfter = time.Hour

// retryAfter reads a Retry-After, in seconds or as a date (RFC 9110 §10.2.3). A date is compared with
// the answer's own Date, if there is one, as the clocks can differ.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if answered, err := http.ParseTime(header.Get("Date")); err == nil {
		now = answered
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}
