package tokencache

import (
	"testing"
	"time"
)

// The README promises these, and tests of other packages count on them.
func TestPromisedTimes(t *testing.T) {
	for name, test := range map[string]struct{ got, want time.Duration }{
		"between renewals of rejected tokens": {forcedSpacing, 5 * time.Second},
		"a wait in an outage":                 {outagePatience, time.Second},
		"between looks into a storage":        {lookSpacing, time.Second},
		"a failure is remembered":             {outageMemory, 10 * time.Minute},
		"between renewals that don't cure":    {forcedSpacingMax, time.Minute},
		"a new token may not be known yet":    {settlingTime, 30 * time.Second},
		"the first use of the token before":   {fallbackMin, time.Second},
		"the longest use of the token before": {fallbackMax, 8 * time.Second},
		"a wait with a due token":             {duePatience, time.Second},
		"the margin of an expiry":             {ExpiryMargin, 10 * time.Second},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", name, test.got, test.want)
		}
	}
}
