package oauthcc

import (
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestRefreshAheadIsParsed(t *testing.T) {
	for text, want := range map[string]tokencache.RefreshAhead{
		"": {}, "off": {Off: true}, "2m": {Time: 2 * time.Minute}, "5m": {Time: 5 * time.Minute}, "1500ms": {Time: 1500 * time.Millisecond}, "1d": {Time: 24 * time.Hour},
		"10%": {Share: 0.1}, "25%": {Share: 0.25}, "12.5%": {Share: 0.125}, "0.1%": {Share: 0.001}, "90%": {Share: 0.9},
	} {
		if got, err := parseRefreshAhead(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "0s", "-2m", "5", "soon", "Off", "%", "0%", "-1%", "91%", "90.1%", "1e9%", "Inf%", "NaN%", "5m%", "25 %", " 2m", "2m off"} {
		if got, err := parseRefreshAhead(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

// Whatever is written, what it is taken for is one of the three, and within its bounds.
func FuzzRefreshAhead(f *testing.F) {
	for _, text := range []string{"", "5m", "90%", "off"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseRefreshAhead(text)
		if err != nil {
			return
		}
		inTime, asShare := got.Time > 0, got.Share > 0
		if got.Time < 0 || !(got.Share >= 0 && got.Share <= tokencache.MaxAheadShare) || got.Off && inTime || got.Off && asShare || inTime && asShare {
			t.Errorf("%q is taken for %+v", text, got)
		}
	})
}
