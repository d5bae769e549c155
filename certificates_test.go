package oauthcc

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

const day = 24 * time.Hour

func TestWhenACertificateEndsSoon(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name       string
		life, left time.Duration
		want       bool
	}{
		{"of a year, in time", 365 * day, 31 * day, false},
		{"of a year, a month before", 365 * day, 30*day - 1, true},
		{"of a year, over", 365 * day, -time.Second, true},
		{"of three months", 90 * day, 30*day + 1, false},
		{"of three months, that was not renewed", 90 * day, 29 * day, true},
		{"of ten days", 10 * day, 9 * day, true},
		{"of a week", 7 * day, 2 * day, false},
		{"of a day, when it is usually renewed", day, 8 * time.Hour, false},
		{"of a day, that was not renewed", day, 6*time.Hour - 1, true},
		{"that never was valid", 0, -time.Hour, true},
	} {
		c := certificate{notBefore: now.Add(test.left - test.life), notAfter: now.Add(test.left)}
		if got := c.endsSoon(now); got != test.want || c.hasEnded(now) != (test.left < 0) {
			t.Errorf("%s: ends soon: %t, has ended: %t", test.name, got, c.hasEnded(now))
		}
	}
}

// certificateWarnings counts them.
func (g *virtualGateway) certificateWarnings() (soon, expired int) {
	for _, entry := range g.logs.All() {
		switch {
		case strings.HasPrefix(entry.Message, "a certificate expires soon"):
			soon++
		case strings.HasPrefix(entry.Message, "a certificate has expired"):
			expired++
		}
	}
	return soon, expired
}

func TestCertificateIsWarnedOfOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(365 * day)
		g := newVirtualGateway(t, f.client())
		want := func(when string, wantSoon, wantExpired int) {
			t.Helper()
			if soon, expired := g.certificateWarnings(); soon != wantSoon || expired != wantExpired {
				t.Errorf("%s: %d warnings, %d after the end, want %d, %d", when, soon, expired, wantSoon, wantExpired)
			}
		}
		g.load(2*time.Hour, 334*day, g.wantServed)
		want("before", 0, 0)
		g.load(2*time.Hour, 31*day, g.wantServed)
		want("until the end", 30, 0)
		g.load(2*time.Hour, 2*day, g.wantServed)
		want("after the end", 30, 2)
		f.put(365 * day)
		g.load(2*time.Hour, 10*day, g.wantServed)
		want("after it was replaced", 30, 2)
	})
}

// Handlers with the same file, and the next configuration, don't repeat it.
func TestCertificateIsWarnedOfOnceForAllHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(day)
		var gateways []*virtualGateway
		for range 2 {
			gateways = append(gateways, newVirtualGateway(t, f.client()))
		}
		time.Sleep(20 * time.Hour)
		total := 0
		for _, g := range gateways {
			g.tokens.source.grant.Forget() // both have the same
			g.mustGet()
			soon, expired := g.certificateWarnings()
			total += soon + expired
		}
		if n := gateways[0].endpoint.count() + gateways[1].endpoint.count(); n != 2 || total != 1 {
			t.Errorf("%d token requests, %d warnings", n, total)
		}
	})
}

// gatherCertificates is when certificates expire, by their labels.
func gatherCertificates(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "caddy_oauth_cc_certificate_expiry_timestamp_seconds" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			found[strings.Join(labels, " ")] = metric.GetGauge().GetValue()
		}
	}
	return found
}

func TestCertificateExpiryIsAMetric(t *testing.T) {
	f, other := newCertificateFolder(t), newCertificateFolder(t)
	f.put(300 * day)
	other.put(200 * day)
	h, second := handlerInMemory(t, f.client()), handlerInMemory(t, other.client())
	handlerInMemory(t, new(Handler)) // without a certificate
	name := "certificate=client client_id=" + t.Name() + " endpoint=127.0.0.1/token"
	want := func(when string, end time.Duration) {
		t.Helper()
		got := gatherCertificates(t)
		if off := time.Unix(int64(got[name]), 0).Sub(time.Now().Add(end)); len(got) != 1 || off < -time.Hour || off > time.Hour {
			t.Errorf("%s: got %v", when, got)
		}
	}
	want("the first to end counts", 200*day)
	other.put(400 * day)
	if _, err := second.request.resolveWithin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want("after it was replaced", 300*day)
	cleanUpConfig(t, h)
	want("of one that ended", 400*day)
	cleanUpConfig(t, second)
	if got := gatherCertificates(t); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// The certificate of a key is told of like that of a connection, each for itself.
func TestCertificateOfAKeyIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(365 * day)
		g := newVirtualGateway(t, &Handler{
			AuthMethod: endpoint.AuthPrivateKeyJWT, SigningKey: &SigningKey{File: f.keyFile(), Certificate: f.certificateFile()},
		})
		name := "certificate=signing_key client_id=" + t.Name() + " endpoint=127.0.0.1/token"
		if got := gatherCertificates(t); len(got) != 1 || time.Until(time.Unix(int64(got[name]), 0)) < 364*day {
			t.Errorf("gathered %v", got)
		}
		time.Sleep(340 * day)
		g.mustGet()
		if soon, expired := g.certificateWarnings(); soon != 1 || expired != 0 {
			t.Errorf("%d warnings, %d after the end", soon, expired)
		}
		f.put(365 * day)
		time.Sleep(2 * time.Hour)
		g.mustGet()
		if got := gatherCertificates(t); time.Until(time.Unix(int64(got[name]), 0)) < 364*day {
			t.Errorf("after it was replaced gathered %v", got)
		}
	})
}

func TestCheckNotesCertificatesThatEndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(365 * day)
		h := handlerInMemory(t, f.client())
		for _, test := range []struct {
			after time.Duration
			want  string
		}{{0, ""}, {340 * day, " expires on 2000-12-31T00:00:00Z"}, {365 * day, " expired on 2000-12-31T00:00:00Z"}} {
			time.Sleep(test.after)
			notes := strings.Join(h.target(passedMaps{}, nil).Notes, "\n")
			if want := "the certificate in " + filepath.Join(f.dir, "tls.crt") + test.want; notes != want && (notes != "" || test.want != "") {
				t.Errorf("%q, want %q", notes, want)
			}
		}
	})
}
