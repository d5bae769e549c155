package endpoint

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/challenge"
)

// symptoms are what an answer shows besides its status and its error code. Hints come from them.
type symptoms struct {
	skew       time.Duration // how far the endpoint's clock is ahead of ours; 0 for up to mostSkew
	isPage     bool          // it is HTML
	wantsBasic bool          // it has a challenge for HTTP Basic
	wantsTLS   bool          // it says that the port is for TLS
	noCode     bool          // it has no error code, or only the name of its status
}

// examine finds the symptoms of an answer.
func examine(res *http.Response, body []byte, errorCode string, now time.Time) symptoms {
	s := symptoms{
		skew:     clockSkew(res.Header, now),
		isPage:   strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/html"),
		wantsTLS: plainHTTPRefused.Match(body[:min(len(body), 1<<10)]), // they say it at the start
		noCode:   errorCode == "" || strings.EqualFold(errorCode, http.StatusText(res.StatusCode)),
	}
	for c := range challenge.All(res.Header["Www-Authenticate"]) {
		s.wantsBasic = s.wantsBasic || strings.EqualFold(c.Scheme, "Basic")
	}
	return s
}

// plainHTTPRefused finds what Go, nginx and Apache answer to plain HTTP on a port for TLS.
var plainHTTPRefused = regexp.MustCompile(`(?i)(HTTP request (was sent )?to an? HTTPS |plain HTTP request was sent to HTTPS|speaking plain HTTP to an SSL)`)

// mostSkew is the largest difference between the endpoint's clock and ours that is not reported. A Date
// header is in whole seconds, and the answer can take some seconds to arrive.
const mostSkew = 30 * time.Second

// clockSkew returns how far the endpoint's clock is ahead of ours, by the Date of an answer that has just
// arrived. It is 0 for up to mostSkew.
func clockSkew(header http.Header, now time.Time) time.Duration {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	if skew := date.Sub(now); skew.Abs() > mostSkew {
		return skew.Round(time.Second)
	}
	return 0
}

// ClockSkew returns how far the endpoint's clock is ahead of ours, by its answer. It is 0 for up to half
// a minute.
func (e *Error) ClockSkew() time.Duration { return e.seen.skew }

// DescribeSkew says how the clocks differ. It does not say which one is right, as nobody knows that.
func DescribeSkew(skew time.Duration) string {
	direction := "behind"
	if skew < 0 {
		direction = "ahead of"
	}
	return fmt.Sprintf("this machine's clock is %s %s the endpoint's", skew.Abs(), direction)
}
