package soak

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

var tenants = []string{"acme", "harbor", "orchard", "tannery", "windmill", "zephyr"}

// client sends requests to a site, one after the other, over one protocol.
type client struct {
	s      *soak
	site   string
	http   *http.Client
	random *rand.Rand
}

func newTransport(h2c bool) *http.Transport {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!h2c)
	transport.Protocols.SetUnencryptedHTTP2(h2c)
	return transport
}

// run sends requests until stop is closed.
func (c *client) run(stop <-chan struct{}) {
	for {
		select {
		case <-time.After(10*time.Millisecond + upTo(60*time.Millisecond, c.random)):
		case <-stop:
			return
		}
		c.send()
	}
}

func (c *client) send() {
	method, size := http.MethodGet, 0
	switch dice := c.random.IntN(10); {
	case dice >= 9:
		method, size = http.MethodPost, 256<<10
	case dice >= 7:
		method, size = http.MethodPost, 1<<10
	}
	name := "app"
	if c.site == "tenants" {
		name = tenants[c.random.IntN(len(tenants))]
	}
	r := newRequest(c.site+"/"+name, method, size)
	ctx, leave := context.WithTimeout(context.Background(), 30*time.Second)
	defer leave()
	if c.s.leaving.Load() && c.random.IntN(3) == 0 {
		r.mu.Lock()
		r.left = true
		r.mu.Unlock()
		defer time.AfterFunc(upTo(10*time.Millisecond, c.random), leave).Stop()
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.s.sites[c.site]+"/"+c.site, bytes.NewReader(r.body()))
	if err != nil {
		c.s.wrong("%v", err)
		return
	}
	req.Header.Set(idHeader, r.id)
	req.Header.Set("X-Tenant", name)
	res, err := c.http.Do(req)
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = time.Now()
	what, explained := c.s.judge(r, res, string(answer), err)
	c.s.counts("answers", what)
	if !explained {
		c.s.wrong("request %s, %s %d bytes of %s over %s: %s; sent at %s, took %v; reached a handler: %v, attempts: %d, rejections: %d (last: %s); around it: %s",
			r.id, r.method, r.size, r.grant, c.protocol(), what, r.sent.Format(clock), r.done.Sub(r.sent).Round(time.Millisecond), r.by != "", r.attempts, len(r.rejected), r.rejection,
			describe(c.s.incidents.between(r.sent, r.done, pauses)))
	}
}

func (c *client) protocol() string {
	return c.http.Transport.(*http.Transport).Protocols.String()
}

const (
	// pauses is for how long the endpoint is left alone after a failure at the most, and then a fetch.
	pauses = 15 * time.Second
	// closing is how long a server that stops takes to close connections that are idle.
	closing = 2 * time.Second
)

// judge says what an answer is, and whether it is right or a fault explains it.
func (s *soak) judge(r *request, res *http.Response, answer string, err error) (what string, explained bool) {
	cause := ""
	if err == nil && !strings.HasPrefix(res.Header.Get("X-Cause"), "{") { // a placeholder without a value
		cause = res.Header.Get("X-Cause")
	}
	switch {
	case err != nil && r.left:
		return "client left", true
	case err != nil && r.reset:
		return "broken off, as by the API", true
	case err != nil && r.by == "" && s.happened("reload", r, closing):
		return "connection closed by a reload before a handler had the request", true
	case err != nil:
		return "no answer: " + general(err.Error()), false
	case res.StatusCode == http.StatusOK && answer == r.wanted():
		return "200", true
	case res.StatusCode == http.StatusOK:
		return "200 with the wrong answer", false
	case res.StatusCode == http.StatusUnauthorized && cause == "":
		return "401, token rejected: " + r.rejection, s.explainsRejection(r)
	case cause != "":
		what = fmt.Sprint(res.StatusCode, ", no token: ", cause)
		if s.endpoint.hadToken(r) {
			return what + ", while there was one", false
		}
		return what, s.happened("endpoint: ", r, pauses)
	case res.StatusCode == http.StatusBadGateway && r.reset:
		return "502, broken off by the API before its answer", true
	default:
		return fmt.Sprint(res.StatusCode, ": ", general(answer)), false
	}
}

// explainsRejection is for a request that the API has rejected in the end.
func (s *soak) explainsRejection(r *request) bool {
	switch r.rejection {
	case "revoked", "tenant", "late":
		return true
	case "expired": // on its way, and there was no other
		return s.happened("endpoint: ", r, pauses) || s.happened("API: ", r, pauses)
	default:
		return false
	}
}

// happened reports whether something of that kind was in progress during a request, or ended not long before it.
func (s *soak) happened(kind string, r *request, grace time.Duration) bool {
	for _, incident := range s.incidents.between(r.sent, r.done, grace) {
		if strings.HasPrefix(incident.kind, kind) {
			return true
		}
	}
	return false
}

const clock = "15:04:05.000"

func describe(list []incident) string {
	var texts []string
	for _, i := range list {
		text := i.kind + " from " + i.began.Format(clock)
		if !i.end.IsZero() {
			text += " to " + i.end.Format(clock)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
