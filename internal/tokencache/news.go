package tokencache

// news remembers what was already reported to operators, so that it is logged once and not for each
// request. The grant's lock guards it.
type news struct {
	// What was reported about tokens.
	uncured    lastTold // it replaced a rejected token and was rejected as well
	fellBack   lastTold // it was rejected, and the one before it used again
	unreplayed lastTold // it was rejected, and the request could not be sent again
	unproven   lastTold // a DPoP proof for it was refused
	rejected   lastTold // it was rejected

	uncuredCounted lastTold // not told, but counted: the spacing of renewals grows once for a token

	// What was reported about grants by the endpoint.
	narrowed string // fingerprint of the scopes missing from the last token; empty if it had all
	atEnd    bool   // the last token had already expired when it was granted
	unusual  string // the unusual type of the last token; empty if it was a usual one
	replaced bool   // the endpoint has replaced the refresh token at the last fetch
}

// lastTold is the generation of the last token for which something was reported; 0 for none.
type lastTold uint64

// isFirst reports whether t is newer than the last token for which this was reported, and records
// that it is reported for t now.
func (l *lastTold) isFirst(t *Token) bool {
	first := t.Generation > uint64(*l)
	*l = max(*l, lastTold(t.Generation))
	return first
}

// isNarrowed reports whether it is news that the endpoint did not grant these scopes, and records
// it. missing is empty if it granted all.
func (n *news) isNarrowed(missing string) bool {
	if missing == "" {
		n.narrowed = ""
		return false
	}
	named := Fingerprint(missing) // scopes from a client's request can be of any length
	isNews := named != n.narrowed
	n.narrowed = named
	return isNews
}

// isAtEnd reports whether it is news that tokens have expired when they are granted, and records
// whether they have.
func (n *news) isAtEnd(atEnd bool) bool {
	isNews := atEnd && !n.atEnd
	n.atEnd = atEnd
	return isNews
}

// isUnusual reports whether it is news that the endpoint calls its tokens by this unusual type, and
// records it. tokenType is empty for a usual one.
func (n *news) isUnusual(tokenType string) bool {
	isNews := tokenType != "" && tokenType != n.unusual
	n.unusual = tokenType
	return isNews
}

// isReplaced reports whether it is news that the endpoint replaces refresh tokens, and records whether
// it does.
func (n *news) isReplaced(replaced bool) bool {
	isNews := replaced && !n.replaced
	n.replaced = replaced
	return isNews
}
