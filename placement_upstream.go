package oauthcc

import "regexp"

// This file finds upstreams that a client can choose: whoever sends a request with their own host name would get the
// token.

// chosenByClients returns the upstreams of a reverse_proxy that a client can choose, as they are written.
func (h placedHandler) chosenByClients() (chosen []string) {
	for _, upstream := range h.Upstreams {
		if isChosenByClients(upstream.Dial) {
			chosen = append(chosen, upstream.Dial)
		}
	}
	return append(chosen, h.Dynamic.chosenByClients()...)
}

func (s upstreamSource) chosenByClients() (chosen []string) {
	if isChosenByClients(s.Name) {
		chosen = append(chosen, s.Name)
	}
	for _, source := range s.Sources {
		chosen = append(chosen, source.chosenByClients()...)
	}
	return chosen
}

// isChosenByClients reports whether an address ends with a placeholder of the request. With a domain after it, only
// its owner can name hosts.
func isChosenByClients(address string) bool {
	found := clientPlaceholder.FindAllStringIndex(address, -1)
	return len(found) > 0 && !domainEnd.MatchString(address[found[len(found)-1][1]:])
}

// clientPlaceholder finds what a client has sent. What vars and map set can't be told from the name.
var clientPlaceholder = regexp.MustCompile(`\{http\.(request|regexp)\.[^}]*\}`)
