package endpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
)

// Two requests may share a token if the endpoint can't tell them apart, and if everyone who can make one
// of them can also make the other. So a request's identity covers the credential as well, and not just
// what is asked for. Otherwise a client with a wrong secret could get the token of another.

// GrantKey identifies a grant: requests with equal keys ask the same endpoint for the same token with
// the same credential. It is a hash, so it does not show the credential. But a weak credential can be
// found by trying, so a GrantKey must not be logged.
type GrantKey [sha256.Size]byte

// NewGrantKey hashes groups of fields. The number of fields goes before each group, and its length
// before each field. So different lists are never written in the same way.
func NewGrantKey(groups ...[]string) GrantKey {
	var space [512]byte // on the stack, and enough for most requests
	b := space[:0]
	for _, group := range groups {
		b = binary.BigEndian.AppendUint64(b, uint64(len(group)))
		for _, field := range group {
			b = binary.BigEndian.AppendUint64(b, uint64(len(field)))
			b = append(b, field...)
		}
	}
	return sha256.Sum256(b)
}

// Key identifies what is asked for and with which credential, within this process. When it has changed,
// a fetch that failed is worth another try.
func (r Request) Key() GrantKey {
	fields := r.Fields()
	if r.ClientAssertion != "" {
		fields = append(fields, []string{r.ClientAssertion})
	}
	if r.Certificate != "" {
		fields = append(fields, []string{"certificate", r.Certificate})
	}
	return NewGrantKey(fields...)
}

// PortableKey is the same on all gateways for the same request, unlike Key. It does not depend on the path of the
// signing key's file, on its certificate, or on the endpoint that the issuer has now. trust says how the endpoint is
// trusted, such as by which certificates: a strict gateway must not take a token from a gateway that trusts any
// server. The client certificate counts as well, as a token can be bound to it.
//
// Gateways of different versions share tokens by this key. So its fields and their order must not
// change.
func (r Request) PortableKey(trust []string) GrantKey {
	r.Assertion.file, r.Assertion.named = "", "" // the key counts, whatever file and certificate it is in
	if r.Issuer != "" {
		r.Endpoint = "" // a discovered endpoint is not known at first, and can change
	}
	return NewGrantKey(append(r.Fields(), append(slices.Clone(trust), r.Certificate))...)
}

// Fields returns what Key hashes, for keys that cover more than the request. It is all but the content of
// ClientAssertion, as another assertion of the same client does not ask for another token, and of the client
// certificate.
func (r Request) Fields() [][]string {
	insecure := ""
	if r.Issuer != "" && r.InsecureHTTP {
		insecure = "insecure_http" // decides which endpoints can be discovered
	}
	fields := [][]string{
		{r.Issuer, insecure, r.Endpoint, r.ClientID, r.ClientSecret, r.AuthMethod, r.Format, r.Proofs.Thumbprint()},
		r.Scopes, r.Audience, r.Resource, flatten(r.Params), flatten(r.Headers), r.Assertion.fields(),
	}
	// The endpoint does not see TTL, but the token is kept for that time.
	if r.TTL > 0 {
		fields = append(fields, []string{"ttl", r.TTL.String()})
	}
	if r.Grant != nil {
		fields = append(fields, r.Grant.fields())
	}
	if r.ClientAssertionType != "" {
		fields = append(fields, []string{"client_assertion", r.ClientAssertionType})
	}
	// It can't see this either. But another member of the same answer is another token.
	if len(r.ResponseFields) > 0 {
		group := make([]string, 1, 1+2*len(r.ResponseFields))
		group[0] = "response_field"
		for _, name := range slices.Sorted(maps.Keys(r.ResponseFields)) {
			group = append(group, name, r.ResponseFields[name])
		}
		fields = append(fields, group)
	}
	return fields
}

// flatten lists names and values in a fixed order, and after each name the number of its values.
func flatten(named map[string][]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(named)) {
		list = append(list, name, strconv.Itoa(len(named[name])))
		list = append(list, named[name]...)
	}
	return list
}
