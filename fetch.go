package oauthcc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// changeLookup bounds the look whether a credential has been replaced, and is the time
// between two that find nothing readable.
const changeLookup = time.Second

// maxFetches is how many fetches of one handler can be in progress at a time, of grants
// that differ from request to request.
const maxFetches = 64

// grantSource is the way to the tokens of one grant with one configuration.
type grantSource struct {
	h      *Handler
	grant  *cachedGrant
	values []string // what the placeholders of the request stand for
}

// sourceFor finds the grant of a request. The source is to be released.
func (h *Handler) sourceFor(repl *caddy.Replacer) (*grantSource, error) {
	if h.table == nil {
		return h.source, nil
	}
	values, err := h.requestValues(repl)
	if err != nil {
		return nil, err
	}
	entry := h.table.acquire(newGrantKey([]string{string(h.key[:])}, values), h.perRequest, values)
	return &grantSource{h: h, grant: &entry.cachedGrant, values: values}, nil
}

// release ends the use of the source by a request.
func (s *grantSource) release() { s.grant.entry.release() }

// server is what is known of the issuer.
func (s *grantSource) server() *discovery {
	if s.h.table != nil {
		return &s.h.table.server
	}
	return &s.grant.server
}

// fetch implements source.
func (s *grantSource) fetch(ctx context.Context, task fetchTask) fetched {
	request := s.h.template() // until it is known what the placeholders stand for
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	if s.h.table != nil {
		if !s.h.takeTurn(ctx, task) {
			return fetched{endpoint: request.endpointName(), clientID: request.clientID, failure: &fetchError{
				class: classTimeout, unsent: true, queued: true,
				detail: fmt.Sprintf("%d other token requests of this handler were in progress all the time", maxFetches),
			}}
		}
		defer s.h.endTurn()
	}
	resolve := func(ctx context.Context) (grantRequest, error) {
		resolved, err := s.resolveWithin(ctx)
		if err == nil {
			request = resolved
		}
		return resolved, err
	}
	if s.h.sharing != nil {
		if _, err := resolve(ctx); err == nil {
			return s.h.sharing.fetch(ctx, task, &request, func(ctx context.Context) fetched { return s.ask(ctx, resolve, &request) })
		}
	}
	return s.ask(ctx, resolve, &request)
}

// ask asks the endpoint for a token. The request is the one that was resolved last.
func (s *grantSource) ask(ctx context.Context, resolve func(context.Context) (grantRequest, error), request *grantRequest) fetched {
	granted, failure := s.h.client.fetch(ctx, resolve, s.server())
	if m := s.server().known(request.issuer); m != nil {
		request.endpoint = m.endpointFor(*request)
	}
	if stale := s.server().news.Swap(nil); stale != nil {
		s.h.logger.Warn("the issuer's metadata could not be read again; what is known of it is used on",
			append([]zap.Field{zap.String("issuer", request.issuer)}, failureFields(stale)...)...)
	}
	return fetched{granted: granted, failure: failure, endpoint: request.endpointName(), clientID: request.clientID}
}

// takeTurn waits until the fetch may begin. It reports false if ctx ended before that, such
// as because nobody waits for the fetch any more.
func (h *Handler) takeTurn(ctx context.Context, task fetchTask) bool {
	select {
	case h.fetching <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	task.begin()
	if ctx.Err() != nil { // the select may choose either
		h.endTurn()
		return false
	}
	return true
}

func (h *Handler) endTurn() { <-h.fetching }

// limit implements source.
func (s *grantSource) limit() time.Duration { return time.Duration(s.h.Timeout) }

// changedSince implements source. Only one caller at a time looks, since files are read
// for that, and after a look in vain none for a while, since Caddy logs each; the others
// take it that nothing has changed.
func (s *grantSource) changedSince(ctx context.Context, failure *fetchError) bool {
	h := s.h
	if !h.hasPlaceholders || failure.queued || len(h.resolving) > 0 {
		return false
	}
	if at := h.lookedInVain.Load(); at != nil && time.Since(*at) < changeLookup {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, changeLookup)
	defer cancel()
	request, err := s.resolveWithin(ctx)
	if err != nil {
		if _, ok := errors.AsType[unfitValueError](err); !ok {
			now := time.Now()
			h.lookedInVain.Store(&now)
		}
		return false
	}
	return request.key() != failure.asked
}

// hasNewer implements source: it looks into the storage.
func (s *grantSource) hasNewer(ctx context.Context, last *token) bool {
	if s.h.sharing == nil || len(s.h.resolving) > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, changeLookup)
	defer cancel()
	request, err := s.resolveWithin(ctx)
	return err == nil && s.h.sharing.hasNewer(ctx, request, last)
}

// resolveWithin is resolve for as long as ctx lasts. A file on a mount that hangs can
// hold up one goroutine, and no request.
func (s *grantSource) resolveWithin(ctx context.Context) (grantRequest, error) {
	h := s.h
	type resolved struct {
		request grantRequest
		err     error
	}
	done := make(chan resolved, 1)
	select {
	case h.resolving <- struct{}{}:
		go func() {
			request, err := h.resolve(h.standIn(s.values))
			if err == nil {
				err = s.check(request)
			}
			<-h.resolving // before it is told, so that who is told can look again at once
			done <- resolved{request, err}
		}()
	case <-ctx.Done():
		return grantRequest{}, errResolving
	}
	select {
	case r := <-done:
		return r.request, r.err
	case <-ctx.Done():
		return grantRequest{}, errResolving
	}
}

// check checks a request whose placeholders are resolved.
func (s *grantSource) check(request grantRequest) error {
	err := request.check()
	if err != nil && s.h.table != nil {
		return unfitValueError{err}
	}
	return err
}

// unfitValueError is that of a request which can't be sent, where values in it come from
// that of a client: others may well be sent.
type unfitValueError struct{ error }

var errResolving = errors.New("a placeholder could not be resolved in time; the file may be on a mount that hangs")

// waited implements source.
func (s *grantSource) waited(d time.Duration) { s.h.metrics.wait.Observe(d.Seconds()) }

// report implements source: it tells the metrics, the log and whoever wants to know of events.
func (s *grantSource) report(o outcome) {
	s.h.metrics.count(o)
	s.announce(o)
	logger := s.h.logger.With(
		zap.String("endpoint", o.endpoint),
		zap.String("client_id", o.clientID),
		zap.String("trigger", string(o.trigger)),
		zap.Duration("duration", o.took))
	if o.failure != nil {
		logFailure(logger, o)
		return
	}
	message := "token obtained"
	if o.granted.adopted {
		message = "token found in the storage"
	}
	logger.Info(message,
		zap.String("token", fingerprint(o.granted.value)),
		zap.Duration("lifetime", o.granted.lifetime))
	if o.narrowed {
		logger.Warn("the endpoint granted fewer scopes than asked for",
			zap.String("missing_scope", o.granted.missingScope))
	}
	if o.atEnd {
		logger.Warn("the token has expired already when it is granted, and is used for a second; compare the clocks of this machine and the endpoint, and look at expires_in")
	}
}

// named are the fields of a log entry with those before them that say which of the
// configuration's grants it is about.
func (h *Handler) named(fields ...zap.Field) []zap.Field {
	return append([]zap.Field{
		zap.String("endpoint", cmp.Or(h.public.endpoint, h.public.issuer)),
		zap.String("client_id", h.public.clientID),
	}, fields...)
}

// failureFields are what a log entry says of a failure.
func failureFields(failure *fetchError) []zap.Field {
	fields := []zap.Field{zap.String("error", failure.errorCode())}
	if failure.status != 0 {
		fields = append(fields, zap.Int("status", failure.status))
	}
	for _, text := range []struct{ key, value string }{
		{"detail", failure.detail}, {"endpoint_message", failure.said}, {"hint", failure.hint},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.key, text.value))
		}
	}
	if failure.retryAfter > 0 {
		fields = append(fields, zap.Duration("retry_after", failure.retryAfter))
	}
	return fields
}

func logFailure(logger *zap.Logger, o outcome) {
	fields := append(failureFields(o.failure), zap.Duration("next_try", time.Until(o.retryAt)))
	if o.usable && o.trigger != triggerRejected {
		logger.Warn("token not renewed; the one at hand is used on", fields...)
		return
	}
	logger.Error("no token obtained", fields...)
}

// Interface guard
var _ source = (*grantSource)(nil)
