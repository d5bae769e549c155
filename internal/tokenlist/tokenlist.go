package tokenlist

import "time"

// List is the answer to GET /oauth_cc/tokens.
type List struct {
	Tokens   []Token `json:"tokens"`
	Omitted  int     `json:"omitted,omitempty"` // more than were asked for
	Handlers int     `json:"handlers"`          // of the running configuration; those with the same grant are one
}

// Token describes a grant and its token, if it has one.
type Token struct {
	ID         string            `json:"id"`
	Endpoint   string            `json:"endpoint,omitempty"`
	Issuer     string            `json:"issuer,omitempty"`
	ClientID   string            `json:"client_id,omitempty"`
	AuthMethod string            `json:"auth_method"`
	Grant      string            `json:"grant,omitempty"`   // empty for the client-credentials grant
	Subject    string            `json:"subject,omitempty"` // whom the grant is for
	Scopes     []string          `json:"scopes,omitempty"`
	Audience   []string          `json:"audience,omitempty"`
	Resource   []string          `json:"resource,omitempty"`
	Values     map[string]string `json:"values,omitempty"` // of the placeholders of the request

	State         string     `json:"state"`                 // fresh, stale, due, expired or none
	Token         string     `json:"token,omitempty"`       // the name of it that logs use
	Generation    uint64     `json:"generation,omitempty"`  // counts the tokens of this grant
	Shared        bool       `json:"shared,omitempty"`      // another gateway has got it
	ObtainedAt    *time.Time `json:"obtained_at,omitempty"` // when it was asked for
	StaleFrom     *time.Time `json:"stale_from,omitempty"`  // then it is renewed ahead
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	RejectedSince *time.Time `json:"rejected_since,omitempty"` // by the upstream, which has accepted it for nothing since

	Requests      uint64     `json:"requests"` // that were given a token
	Fetches       uint64     `json:"fetches"`
	FailedFetches uint64     `json:"failed_fetches"`
	Fetching      bool       `json:"fetching,omitempty"`
	Failing       bool       `json:"failing,omitempty"`    // the last fetch failed
	LastError     *Failure   `json:"last_error,omitempty"` // also of a failure that is over
	NextTry       *time.Time `json:"next_try,omitempty"`   // in a pause after a failure
}

// Failure describes a failed fetch, in the words of the log.
type Failure struct {
	Error           string    `json:"error"`                      // as {http.oauth_cc.error}
	Status          int       `json:"status,omitempty"`           // HTTP status of the answer
	Detail          string    `json:"detail,omitempty"`           // in our words
	EndpointMessage string    `json:"endpoint_message,omitempty"` // in the endpoint's words, masked
	Hint            string    `json:"hint,omitempty"`             // what may help
	Help            string    `json:"help,omitempty"`             // address of what the documentation says about the error
	At              time.Time `json:"at"`
}
