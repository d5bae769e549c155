package main

import (
	"context"
	"fmt"
	"time"
)

// storm is load on a gateway with oauth_cc while something is wrong with its tokens.
type storm struct {
	name  string
	shape shape

	expires bool // tokens live for a quarter of the storm, otherwise longer than it lasts
	// blow does what is wrong; nil if nothing is. It ends with the context.
	blow func(ctx context.Context, p *peers, s settings) error
}

func allStorms() []storm {
	return []storm{
		{name: "calm-get", shape: getSmall},
		{name: "calm-post-1k", shape: post1K},
		{name: "calm-post-1m", shape: post1M},
		{name: "expiry", shape: getSmall, expires: true},
		{name: "revocation-get", shape: getSmall, blow: revocations},
		{name: "revocation-post-1k", shape: post1K, blow: revocations},
		{name: "revocation-post-1m", shape: post1M, blow: revocations},
		{name: "outage", shape: getSmall, expires: true, blow: spell(conduct{Fails: true})},
		{name: "hang", shape: getSmall, expires: true, blow: spell(conduct{Hangs: true})},
	}
}

// shortLived has tokens expire in the course of a storm. The protocol knows whole seconds only.
func (s settings) shortLived() conduct { return conduct{Lifetime: max(1, int(s.storm/4/time.Second))} }

// revocations revokes all tokens again and again.
func revocations(ctx context.Context, p *peers, s settings) error {
	for wait(ctx, s.revoke) {
		// The call may be under way when the storm is over.
		if err := p.revokeAll(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// spell has the token endpoint behave badly from the first quarter of the storm to its last.
func spell(bad conduct) func(context.Context, *peers, settings) error {
	return func(ctx context.Context, p *peers, s settings) error {
		if !wait(ctx, s.storm/4) {
			return nil
		}
		if err := p.behave(ctx, bad); err != nil {
			return err
		}
		wait(ctx, s.storm/2)
		// Requests that wait for the endpoint can outlast the storm, and must not hold up the next.
		return p.behave(context.WithoutCancel(ctx), s.shortLived())
	}
}

// wait tells whether the time has passed before the context ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stormResult is what a storm came to.
type stormResult struct {
	storm
	*slice

	asked int // token requests
}

// weather starts a gateway and drives it through a storm.
func (l *lab) weather(ctx context.Context, s storm) (result stormResult, err error) {
	usual := longLived
	if s.expires {
		usual = l.shortLived()
	}
	if err := l.peers.behave(ctx, usual); err != nil {
		return result, err
	}
	c := testCase{s.shape, http1}
	g, clients, err := l.startWith(ctx, oauthCC, c)
	if err != nil {
		return result, err
	}
	defer g.stop(clients)
	before, err := l.peers.asked(ctx)
	if err != nil {
		return result, err
	}

	blowing, calm := context.WithCancel(ctx)
	defer calm()
	blown := make(chan error, 1)
	go func() {
		if s.blow == nil {
			blown <- nil
			return
		}
		blown <- s.blow(blowing, l.peers, l.settings)
	}()
	driven, err := drive(ctx, g, clients, l.storm, s.shape.answer)
	calm()
	if blowErr := <-blown; err == nil && blowErr != nil {
		err = fmt.Errorf("making the storm: %w", blowErr)
	}
	if err != nil {
		return result, err
	}
	after, err := l.peers.asked(ctx)
	l.tell("%s: %d requests, %d token requests", s.name, driven.requests(), after-before)
	return stormResult{s, driven, after - before}, err
}
