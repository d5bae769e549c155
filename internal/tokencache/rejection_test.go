package tokencache

import (
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// Row by row, and where two hold the first one counts.
func TestRejectionIsJudgedRowByRow(t *testing.T) {
	now := time.Now()
	soon, sooner := now.Add(4*time.Second), now.Add(3*time.Second)
	waitUntil := func(at time.Time) rejectionDecision {
		return rejectionDecision{verdict: rejectionWaits, retryAt: at}
	}
	stands, renews := rejectionDecision{verdict: rejectionStands}, rejectionDecision{verdict: rejectionRenews}
	for name, test := range map[string]struct {
		cached uint64 // generation; 0 for none. The rejected token's is 1.
		flying bool
		failed *failedFetch
		forced forcedRenewals
		whose  fault
		want   rejectionDecision
	}{
		"the cache holds a newer token":       {cached: 2, want: rejectionDecision{verdict: rejectionUsesNewer}},
		"a newer one, after a failure":        {cached: 2, failed: &failedFetch{forced: true, rejectedFrom: soon}, want: rejectionDecision{verdict: rejectionUsesNewer}},
		"it has expired":                      {want: renews},
		"it has expired, too soon":            {forced: forcedRenewals{from: soon}, want: renews},
		"it is being renewed, too soon":       {cached: 1, flying: true, forced: forcedRenewals{from: soon}, want: renews},
		"no other after the last rejection":   {cached: 1, failed: &failedFetch{forced: true, rejectedFrom: soon}, want: waitUntil(soon)},
		"nor before renewals are due":         {cached: 1, failed: &failedFetch{forced: true, rejectedFrom: sooner}, forced: forcedRenewals{from: soon}, want: waitUntil(soon)},
		"the pause is over, renewals not due": {cached: 1, failed: &failedFetch{forced: true, rejectedFrom: now}, forced: forcedRenewals{from: soon}, want: waitUntil(soon)},
		"renewed just now":                    {cached: 1, forced: forcedRenewals{from: soon}, want: stands},
		"renewed just now, another failure":   {cached: 1, failed: &failedFetch{rejectedFrom: soon}, forced: forcedRenewals{from: soon}, want: stands},
		"renewals don't cure":                 {cached: 1, forced: forcedRenewals{slowFrom: soon}, want: stands},
		"the token is at fault":               {cached: 1, forced: forcedRenewals{slowFrom: soon}, whose: faultOfToken, want: renews},
		"it is, but renewed just now":         {cached: 1, forced: forcedRenewals{from: soon}, whose: faultOfToken, want: stands},
		"the request is at fault":             {cached: 1, forced: forcedRenewals{last: now}, whose: faultOfRequest, want: stands},
		"it seems so for long":                {cached: 1, forced: forcedRenewals{last: now.Add(-lastResort)}, whose: faultOfRequest, want: renews},
		"the request is, in an outage":        {cached: 1, failed: &failedFetch{forced: true, rejectedFrom: soon}, whose: faultOfRequest, want: stands},
		"in a pause":                          {cached: 1, failed: &failedFetch{rejectedFrom: soon}, want: waitUntil(soon)},
		"after a pause":                       {cached: 1, failed: &failedFetch{rejectedFrom: now}, want: renews},
		"nothing else":                        {cached: 1, want: renews},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGrant(t)
			if test.cached > 0 {
				token := NewToken(endpoint.Granted{Value: "a", Sent: now, Lifetime: time.Hour})
				token.Generation = test.cached
				g.current.Store(token)
				g.newest = token
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.pauses.failed, g.forced = test.failed, test.forced
			if test.flying {
				g.flight = new(flight)
				defer func() { g.flight = nil }()
			}
			if got := g.judgeRejectionLocked(Rejection{Token: &Token{Generation: 1}}, test.whose, now); got != test.want {
				t.Errorf("decided %+v, want %+v", got, test.want)
			}
		})
	}
}
