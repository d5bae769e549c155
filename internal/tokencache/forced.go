package tokencache

import "time"

const (
	// forcedSpacing is the least time between two renewals of a rejected token. Otherwise an upstream
	// that rejects every token would cause a token request for every request. Each renewal that does
	// not cure the rejection doubles the time, up to forcedSpacingMax.
	forcedSpacing    = 5 * time.Second
	forcedSpacingMax = time.Minute

	// Others may be accepted since what they ask for needs no token. So a rejection that seems to be due to the
	// request has the token renewed after all if the last renewal is this long ago. Each time doubles it, up to
	// lastResortMax, until a renewal cures.
	lastResort    = 5 * time.Minute
	lastResortMax = time.Hour
)

// forcedRenewals spaces the renewals of tokens that have not expired. The grant's lock guards it. The
// zero value delays nothing.
type forcedRenewals struct {
	brought uint64 // generation of the token that the last one brought; 0 if that is known to have cured

	last     time.Time     // when the last one started
	from     time.Time     // a rejected token is not renewed before this time
	slowFrom time.Time     // nor before this one, unless the token is probably at fault
	spacing  time.Duration // between last and slowFrom; 0 until a renewal did not cure
	resort   time.Duration // see lastResort; 0 until that was used
}

// noteStart notes that a forced renewal starts. The next one has to wait from now on.
func (r *forcedRenewals) noteStart(now time.Time) {
	r.last, r.from, r.slowFrom = now, now.Add(forcedSpacing), now.Add(r.spacing)
}

// undoStart takes back that a forced renewal has started. before is what was known then.
func (r *forcedRenewals) undoStart(before forcedRenewals) {
	r.last, r.from, r.slowFrom = before.last, before.from, before.slowFrom
}

// allow allows the next forced renewal immediately.
func (r *forcedRenewals) allow() { r.from, r.slowFrom = time.Time{}, time.Time{} }

// noteUncured doubles the spacing, since the upstream rejected the token that the last one brought.
func (r *forcedRenewals) noteUncured() {
	r.spacing = min(2*max(r.spacing, forcedSpacing), forcedSpacingMax)
	r.slowFrom = r.last.Add(r.spacing)
}

// noteCured ends the delay by renewals that did not cure.
func (r *forcedRenewals) noteCured() {
	r.brought, r.spacing, r.slowFrom, r.resort = 0, 0, time.Time{}, 0
}

// isLastResort reports whether the last renewal is so long ago that a rejection renews the token although the
// request seems to be at fault.
func (r *forcedRenewals) isLastResort(now time.Time) bool {
	return !now.Before(r.last.Add(max(r.resort, lastResort)))
}

// noteLastResort notes that this is done.
func (r *forcedRenewals) noteLastResort() { r.resort = min(2*max(r.resort, lastResort), lastResortMax) }

// isTooSoon reports whether it is too soon to renew a rejected token.
func (r *forcedRenewals) isTooSoon(now time.Time, whose fault) bool {
	return now.Before(r.from) || whose != faultOfToken && now.Before(r.slowFrom)
}
