package oauthcc

import (
	"errors"
	"hash/maphash"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/replay"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// rejectionRules say how a configuration treats rejected tokens.
type rejectionRules struct {
	statuses   []int          // with which the upstream rejects a token; empty for none
	bodyLimit  int64          // of what is recorded of a request's body, in bytes
	bodyBudget *replay.Budget // of all requests together
}

// exchange is one request on its way upstream, with all its attempts. A rejected token is replaced, usually
// once. With DPoP, each token gets one more attempt if the upstream asks for a nonce. Each answer is judged
// before any of it reaches the client.
type exchange struct {
	// Set once.
	h    *Handler
	src  *grantSource // nil if there is no token
	repl *caddy.Replacer
	once bool // the first answer passes, whatever it is

	attempts replay.Attempts
	writer   tokenlessWriter // for answers that pass
	first    field           // of the first attempt; empty before
	current  attempt

	// What has become of the request so far.
	invalid bool             // the last rejection says that the token is not valid
	outcome rejectionOutcome // of the rejection of the first token
	failure error            // why there is no other token
}

// attempt is what distinguishes one sending of the request from another.
type attempt struct {
	token    *tokencache.Token // nil if there is none
	from     time.Time         // it is not sent before that time
	renewals int               // how often the token was replaced by another one, but for the next:
	fellBack bool              // it was replaced by the one before it
	isOlder  bool              // the token was asked for before the one that it replaces was rejected
	untaken  *tokencache.Token // the one after it, which was rejected just now; nil unless the token before is used again
	nonce    string            // that the upstream wants with this token; empty until it has told

	method, path string // that the DPoP proof is for
}

// serve sends the request until an answer passes.
func (x *exchange) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	x.writer = x.h.carrier.tokenless(w, r)
	x.attempts.Begin(&x.writer, r, x)
	defer x.attempts.End()
	defer x.h.carrier.detachAtEnd(r, r.Header)
	if x.h.carrier.prover != nil {
		x.attempts.Keep(dpop.NonceHeader)
	}
	limit := x.h.rejections.bodyLimit
	if x.isLast(x.current) {
		limit = 0
	}
	x.attempts.RecordBody(limit, x.h.rejections.bodyBudget, x.h.carrier.fields)
	defer x.count()
	for {
		if err := x.attach(r); err != nil {
			return err
		}
		if x.isLast(x.current) {
			return x.attempts.SendLast(next)
		}
		dropped, err := x.attempts.Send(next)
		if !dropped {
			return err
		}
		if x.failure == nil {
			continue
		}
		if err := x.h.answerWithoutToken(&x.attempts, x.repl, x.failure); err != nil {
			return err
		}
		x.failure = nil
	}
}

// isLast reports whether the answer to an attempt is final.
func (x *exchange) isLast(a attempt) bool {
	return a.token == nil || x.once || !a.mayRenew() && (x.h.carrier.prover == nil || a.nonce != "")
}

// mayRenew reports whether the token may be replaced if it is rejected: once, and once more if both may
// have been revoked.
func (a attempt) mayRenew() bool {
	return a.renewals == 0 || a.renewals == 1 && a.isOlder
}

// replacedBy is the attempt after this one, which was rejected at that time, with the next token. That
// can be nil.
func (a attempt) replacedBy(t *tokencache.Token, rejectedAt time.Time) attempt {
	next := attempt{token: t, from: time.Now(), renewals: a.renewals, fellBack: a.fellBack}
	switch {
	case t == nil:
	case t.Fallback && !a.fellBack:
		next.fellBack, next.untaken = true, a.token
	default:
		next.renewals++
		next.isOlder = t.AskedBefore(rejectedAt)
	}
	return next
}

// attach adds the token of the current attempt to the request.
func (x *exchange) attach(r *http.Request) error {
	if x.current.token == nil {
		return nil
	}
	if x.h.carrier.prover != nil {
		x.current.method, x.current.path = r.Method, r.URL.EscapedPath()
	}
	values := &x.first
	if values[0] != "" {
		values = new(field)
	}
	return x.h.carrier.attach(r, x.src.prepare(x.current.token), x.current.nonce, values)
}

// Verdict implements replay.Judge.
func (x *exchange) Verdict(status int, header http.Header) (int, bool) {
	a := x.read(status, header)
	if x.current.token != nil && !x.once && x.judge(a) {
		return status, true
	}
	x.attempts.StopRecording()
	if a.rejected && x.h.MaskRejection != 0 {
		return maskRejection(status, header, x.h.MaskRejection), false
	}
	return status, false
}

// judge finds out whether the token or the proof was at fault and, if so, whether there is another one
// to send the request again with. It reports whether the answer is dropped: for that, or because there
// is no token any more. The cases are rows of the table in docs/tokens.md, "When the upstream rejects a
// token". Those that depend on the token's past are in tokencache/rejection.go, behind renewAndReplay.
func (x *exchange) judge(a answer) (dropped bool) {
	if a.rejected || a.isOfProof() {
		x.noticeRewrite()
	}
	if a.wantsNonce() && x.useNonce(a) {
		return true
	}
	if a.rejected {
		x.noteRejection(a)
	}
	switch {
	case a.isOfProof():
		x.passProof(a)
		return false
	case !a.rejected:
		x.noteAccepted(a)
		return false
	case a.code == "insufficient_scope" || a.code == "invalid_request": // the token was not at fault
		x.passBlameless(a)
		return false
	case !x.current.mayRenew(): // the answer to the last attempt
		x.passRejection(rejectionUncured)
		return false
	case !x.attempts.MayRepeat(a.status):
		x.passCarriedOut()
		return false
	case !x.attempts.HoldBody():
		x.passWithoutBody()
		return false
	}
	return x.renewAndReplay()
}

// renewAndReplay gets another token and has the request sent again with it. If none is due, the rejection
// passes. If none can be had, the rejection is dropped: the failure is the answer, or with
// allow_without_token the request is sent again without a token.
func (x *exchange) renewAndReplay() (dropped bool) {
	rejectedAt := time.Now()
	t, err := x.src.grant.RenewRejected(x.attempts.ClientContext(), x.rejection(), x.src)
	switch {
	case errors.Is(err, tokencache.ErrNotRenewed):
		if c := x.h.reporter.logger.Check(zapcore.DebugLevel, "the upstream rejected the token, and there is no other"); c != nil {
			c.Write(x.h.reporter.grantFields(zap.String("token", tokencache.Fingerprint(x.current.token.Value)))...)
		}
		x.passRejection(rejectionPassed)
		return false
	case err != nil && !x.h.AllowWithoutToken:
		x.failure = err
		x.attempts.AbandonBody()
		return true
	}
	next := x.current.replacedBy(t, rejectedAt)
	if !x.attempts.RewindBody(x.isLast(next)) {
		x.passRejection(rejectionNotReplayable)
		return false
	}
	x.current, x.failure = next, err
	x.repl.Set(statusPlaceholder, statusReplayed)
	return true
}

// reportFallback logs that the upstream does not take a new token yet, once for each token. That is known when it has
// taken the one before: otherwise both can be revoked, or the request can be at fault.
func (x *exchange) reportFallback() {
	untaken := x.current.untaken
	if untaken == nil {
		return
	}
	level := zapcore.DebugLevel
	if x.src.grant.NoteFallback(untaken) {
		level = zapcore.WarnLevel
	}
	help.Write(x.h.reporter.logger.Check(level, "the upstream does not take the new token yet; the one before it is used again for a while"), "",
		x.h.reporter.grantFields(zap.String("token", tokencache.Fingerprint(untaken.Value)))...)
}

// passCarriedOut lets a rejection reach the client if what the request asks for may have been done.
func (x *exchange) passCarriedOut() {
	help.Write(x.h.reporter.logger.Check(x.renewForOthers(), "the upstream rejected the token of a request that may have been carried out; the client gets the rejection"), "",
		x.h.reporter.grantFields(zap.String("token", tokencache.Fingerprint(x.current.token.Value)), zap.String("method", x.attempts.Request().Method))...)
	x.passRejection(rejectionNotReplayable)
}

// passWithoutBody lets a rejection reach the client if the body can't be sent again.
func (x *exchange) passWithoutBody() {
	help.Write(x.h.reporter.logger.Check(x.renewForOthers(), "the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection"), "",
		x.h.reporter.grantFields(zap.String("token", tokencache.Fingerprint(x.current.token.Value)), zap.Int64("replay_buffer", x.h.rejections.bodyLimit))...)
	x.passRejection(rejectionNotReplayable)
}

// renewForOthers has the token renewed for the next request, as this one can't be sent again. It returns the level
// at which that is logged.
func (x *exchange) renewForOthers() zapcore.Level {
	if x.src.grant.RenewRejectedInBackground(x.attempts.ClientContext(), x.rejection(), x.src) {
		return zapcore.WarnLevel // once for each token
	}
	return zapcore.DebugLevel
}

// passRejection records a rejection that reaches the client. outcome is for the first token: a renewed token
// that is rejected stays uncured.
func (x *exchange) passRejection(outcome rejectionOutcome) {
	if x.current.renewals == 0 {
		x.outcome = outcome
		return
	}
	if x.src.grant.NoteUncured(x.rejection()) {
		help.Write(x.h.reporter.logger.Check(zapcore.WarnLevel, "the upstream rejected the renewed token as well; the client gets the rejection"), "",
			x.h.reporter.grantFields(zap.String("token", tokencache.Fingerprint(x.current.token.Value)))...)
	}
}

// noteRejection records a rejection. Until more is known, it counts as uncured.
func (x *exchange) noteRejection(a answer) {
	x.invalid = a.invalid
	if x.outcome == notRejected {
		x.outcome = rejectionUncured
	}
	if x.src.grant.NoteRejection(x.current.token) {
		x.src.announceRejection(x.current.token, a.status, a.code)
	}
}

// passBlameless records a rejection that reaches the client and is not due to the token.
func (x *exchange) passBlameless(a answer) {
	x.outcome = rejectionPassed
	if a.code == "insufficient_scope" { // so the upstream took it
		x.noteTaken()
		return
	}
	x.noteCured() // it rejects the new one no more
}

// noteAccepted records an answer that is no rejection.
func (x *exchange) noteAccepted(a answer) {
	if x.outcome != notRejected {
		x.outcome = rejectionCured
	}
	switch {
	case !a.isError:
		x.noteTaken()
	case a.status/100 == 4: // other errors can come from who does not look at tokens
		x.noteCured()
	}
}

// noteTaken records that the upstream took the token.
func (x *exchange) noteTaken() {
	x.noteCured()
	x.src.grant.NoteAccepted(x.current.token, x.current.from, x.subject)
}

// noteCured records that the upstream does not reject the token of this attempt as it has rejected the one before.
func (x *exchange) noteCured() {
	if x.current.renewals > 0 {
		x.src.grant.NoteCured()
	}
	x.reportFallback()
}

// rejection is the current one, for the cache.
func (x *exchange) rejection() tokencache.Rejection {
	return tokencache.Rejection{Token: x.current.token, Subject: x.subject(), Invalid: x.invalid}
}

// subject is what the request asks for. Of the same client, an API judges requests for the same resource alike.
func (x *exchange) subject() tokencache.Subject {
	r := x.attempts.Request()
	var h maphash.Hash
	h.SetSeed(subjectSeed)
	for _, part := range []string{r.Method, r.Host, r.URL.Path} {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	return tokencache.Subject(max(1, h.Sum64()))
}

var subjectSeed = maphash.MakeSeed()

// count counts the request if its token was rejected.
func (x *exchange) count() {
	if x.outcome != notRejected {
		x.h.reporter.metrics.rejections[x.outcome].Inc()
	}
}

// useNonce prepares another attempt with the same token and the nonce of the answer. The nonce is kept here, since other
// answers can replace the prover's last one. It reports false if the request can't be sent again.
func (x *exchange) useNonce(a answer) bool {
	if x.current.nonce != "" || !x.attempts.MayRepeat(a.status) {
		return false
	}
	next := x.current
	next.nonce = a.nonce
	if !x.attempts.RewindBody(x.isLast(next)) {
		return false
	}
	x.current = next
	return true
}

// noticeRewrite logs, once, that proofs are made too early. reverse_proxy's own rewrite can't be seen
// from here.
func (x *exchange) noticeRewrite() {
	c, r := &x.h.carrier, x.attempts.Request()
	if c.prover == nil || x.current.method == r.Method && x.current.path == r.URL.EscapedPath() {
		return
	}
	if c.toldRewritten.CompareAndSwap(false, true) {
		help.Write(x.h.reporter.logger.Check(zapcore.ErrorLevel, "the method or the path was changed after the DPoP proof for it was made, so the upstream refuses it; put oauth_cc after what changes them"), "",
			x.h.reporter.grantFields()...)
	}
}

// passProof lets the refusal of a proof reach the client: another token would not help. It is logged
// once for each token.
func (x *exchange) passProof(a answer) {
	if x.outcome != notRejected && x.current.renewals == 0 {
		x.outcome = rejectionPassed
	}
	if !x.src.grant.NoteRefusedProof(x.current.token) {
		return
	}
	hint := "check that dpop has the origin by which the upstream knows itself, that nothing changes the path after oauth_cc, and the clocks of both sides"
	if a.code == "use_dpop_nonce" {
		hint = "the upstream wants a nonce; it gave none, or did not take the one it gave, or the request's body can't be sent again"
	}
	help.Write(x.h.reporter.logger.Check(zapcore.WarnLevel, "the upstream refuses the DPoP proof; the client gets the rejection"), hint, x.h.reporter.grantFields(
		zap.String("error", a.code),
		zap.String("proof_method", dpop.Method(x.attempts.Request())),
		zap.String("proof_origin", x.h.carrier.prover.Origin))...)
}

// Interface guard
var _ replay.Judge = (*exchange)(nil)
