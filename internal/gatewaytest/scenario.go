package gatewaytest

import (
	flag "flag"
	"time"
)

// Long tells whether the scenarios take as long as they do in life.
var Long = flag.Bool("long", false, "let the scenarios take as long as they do in a bad week")

// Lasting is a duration for every run of the tests, and another for the flag.
func Lasting(short, long time.Duration) time.Duration {
	if *Long {
		return long
	}
	return short
}

// Pass lets real time go by.
func Pass(d time.Duration) { <-time.After(d) }
