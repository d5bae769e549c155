package replay_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/replay"
)

// dice returns a number from 0 to n-1, with n at most 256.
type dice func(n int) int

func pick[T any](d dice, from ...T) T { return from[d(len(from))] }

// FuzzReplay does at random what clients, transports, upstreams and judges can do to requests that are sent
// again. The bytes are the program: what is drawn from them is decided before anything begins, and time is
// virtual. A hang is a deadlock of the bubble. What must hold:
//
//   - an attempt reads the client's bytes from the first one on, each once, and the end only after the last;
//   - it gets all that it asks for, unless the client ends, or its answer was dropped;
//   - it finds request, response and context as the first attempt did;
//   - the client gets the answer of one attempt, whole, and nothing of another's;
//   - whatever fits into the buffer can be sent again;
//   - the client's body is read by one at a time; no memory is taken and no goroutine is left in the end.
func FuzzReplay(f *testing.F) {
	for seed := range uint64(256) {
		random := rand.New(rand.NewPCG(seed, 0))
		program := make([]byte, 150)
		for i := range program {
			program[i] = byte(random.Uint32())
		}
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		runModel(t, func(n int) int {
			if len(program) == 0 {
				return 0
			}
			b := int(program[0])
			program = program[1:]
			return b % n
		})
	})
}

func runModel(t *testing.T, d dice) {
	synctest.Test(t, func(t *testing.T) {
		exchanges := newExchanges(t, d)
		for _, x := range exchanges {
			go x.run()
		}
		for _, x := range exchanges {
			<-x.over
		}
		// Readers of attempts that are over can still wait for their client.
		time.Sleep(time.Hour)
		for _, x := range exchanges {
			x.check()
		}
		if used := exchanges[0].budget.Used(); used != 0 {
			t.Errorf("%d bytes of the budget are taken in the end", used)
		}
		for i, x := range exchanges {
			if t.Failed() {
				t.Logf("exchange %d: %s", i, x)
			}
		}
	})
}

// exchange is a request with all its attempts. It does what the handler does, and is the judge.
type exchange struct {
	t *testing.T

	// The plan.
	client   *client
	plans    []attemptPlan
	verdicts []verdict // on the attempts
	limit    int64     // of the recording
	budget   *replay.Budget
	ample    bool // the budget has room for all exchanges
	instead  int  // how much is read by who answers instead; -1 for all

	// What has become of it.
	again    replay.Attempts
	request  *http.Request
	response *response
	attempts []*attempt
	failed   bool // there is no other token
	held     bool // the body was held when none was found, and is within the limit
	over     chan struct{}
}

// verdict is what the judge does with a rejection.
type verdict struct {
	passes bool          // it passes, as it does when no attempt is left
	holds  bool          // the body is held
	takes  time.Duration // to get another token
	fails  bool          // there is none
}

// newExchanges draws what will happen.
func newExchanges(t *testing.T, d dice) []*exchange {
	unit := pick(d, 1, 1, 100, 1024, 5000)
	limit := int64(pick(d, 64, 1, 10, 40, 0, 63) * unit)
	budget := &replay.Budget{Limit: int64(pick(d, 1000, 1000, 1, 2)) * max(limit, 1)}
	exchanges := make([]*exchange, pick(d, 1, 1, 2, 3))
	for i := range exchanges {
		x := &exchange{t: t, limit: limit, budget: budget, ample: budget.Limit == 1000*max(limit, 1), over: make(chan struct{})}
		x.client = newClient(t, d, unit)
		for range 1 + d(3) {
			x.plans = append(x.plans, newAttemptPlan(d, unit))
			x.verdicts = append(x.verdicts, verdict{passes: d(8) == 7, holds: d(4) < 3, takes: pick(d, 0, time.Second, time.Millisecond, time.Minute), fails: d(8) == 7})
		}
		if d(2) == 1 { // everything happens at once, so that the race detector sees who does not wait for whom
			clear(x.client.plan.pauses)
			for i := range x.plans {
				x.plans[i].hurry()
				x.verdicts[i].takes = 0
			}
		}
		x.instead = pick(d, -1, 0, 1, 10)
		exchanges[i] = x
	}
	return exchanges
}

// run is the server's part, around the handler.
func (x *exchange) run() {
	defer close(x.over)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x.client.connect(cancel)
	defer x.client.disconnect()
	x.request = requestInCaddy(ctx, x.client)
	x.response = &response{client: x.client, header: http.Header{"Server": {"Caddy"}}}
	defer func() {
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler && reason != errPanic {
			x.t.Errorf("panicked: %v", reason)
		}
	}()
	if err := x.serve(); err != nil && x.failed {
		x.answerInstead()
	}
}

// serve is the handler.
func (x *exchange) serve() error {
	x.again.Begin(x.response, x.request, x)
	defer x.again.End()
	limit := x.limit
	if x.isLast(0) {
		limit = 0
	}
	x.again.RecordBody(limit, x.budget, nil)
	for {
		a := x.newAttempt()
		if x.isLast(a.number) {
			return x.again.SendLast(a)
		}
		dropped, err := x.again.Send(a)
		if dropped != a.dropped {
			x.t.Errorf("attempt %d: dropped: %t, by the judge: %t", a.number, dropped, a.dropped)
		}
		if !dropped {
			return err
		}
		if err != nil {
			x.t.Errorf("attempt %d was dropped with %v", a.number, err)
		}
		if x.failed {
			return errors.New("no token")
		}
	}
}

func (x *exchange) isLast(number int) bool { return number == len(x.plans)-1 }

func (x *exchange) newAttempt() *attempt {
	n := len(x.attempts)
	a := &attempt{x: x, number: n, plan: x.plans[n], progress: make(chan struct{}, 1), stop: make(chan struct{})}
	x.attempts = append(x.attempts, a)
	return a
}

// Verdict implements replay.Judge.
func (x *exchange) Verdict(status int, _ http.Header) (int, bool) {
	a := x.attempts[len(x.attempts)-1]
	if a.judged {
		x.t.Errorf("attempt %d was judged twice", a.number)
	}
	a.judged = true
	if status != a.plan.status {
		x.t.Errorf("attempt %d: judged as %d, but it answered %d", a.number, status, a.plan.status)
	}
	if status == http.StatusUnauthorized && x.renew(a) {
		a.dropped = true
		return status, true
	}
	x.again.StopRecording()
	return status, false
}

// renew gets another token and reports whether the answer is dropped.
func (x *exchange) renew(a *attempt) bool {
	v, begun := x.verdicts[a.number], int64(math.MaxInt64)
	if x.isLast(a.number) || v.passes {
		return false
	}
	if v.holds {
		if !x.again.HoldBody() {
			x.mayNotRewind("held")
			return false
		}
		begun = x.client.begun.Load()
		select {
		case <-time.After(v.takes):
		case <-x.again.ClientContext().Done():
			v.fails = true
		}
	}
	if v.fails {
		x.held, x.failed = v.holds && x.client.sent.Load() <= x.limit, true
		a.left.Store(leaving)
		x.again.AbandonBody()
		a.left.Store(left)
		return true
	}
	a.left.Store(leaving)
	if !x.again.RewindBody(x.isLast(a.number + 1)) {
		a.left.Store(staying)
		x.mayNotRewind("rewound")
		return false
	}
	a.left.Store(left)
	// One read can have been on its way.
	if more := x.client.begun.Load() - begun; more > 1 {
		x.t.Errorf("%d reads began while the body was held", more)
	}
	return true
}

// mayNotRewind checks that it is the client's body that was too large.
func (x *exchange) mayNotRewind(what string) {
	if read := x.client.sent.Load(); x.ample && x.limit > 0 && !x.client.panicked.Load() && read <= x.limit {
		x.t.Errorf("the body can't be %s, after %d bytes of %d", what, read, x.limit)
	}
}

// answerInstead is the handler of errors.
func (x *exchange) answerInstead() {
	for _, a := range x.attempts {
		if x.response.header.Get(a.mark()) != "" {
			x.t.Errorf("the header has a field of attempt %d", a.number)
		}
	}
	x.response.WriteHeader(http.StatusBadGateway)
	r := reader{x: x, of: "who answers instead", want: x.instead, close: func() {}}
	r.read(x.request.Body, x.request, []int{7, 1000}, nil)
	if x.ample && x.held && !x.client.panicked.Load() && r.isAbandoned() {
		x.t.Errorf("who answers instead got %v", r.end)
	}
}

// check looks at what the client got.
func (x *exchange) check() {
	last := x.attempts[len(x.attempts)-1]
	got, broken := x.response, x.client.panicked.Load() // then the server cuts the answer off
	for _, a := range x.attempts {
		if a != last && !a.dropped {
			x.t.Errorf("attempt %d was followed by another", a.number)
		}
		if a.ended != nil {
			<-a.ended
		}
		if !broken && (a != last || a.dropped) && got.header.Get(a.mark()) != "" {
			x.t.Errorf("the client got a field of attempt %d", a.number)
		}
	}
	switch {
	case broken:
	case x.failed:
		if got.status != http.StatusBadGateway || len(got.body) > 0 {
			x.t.Errorf("without a token, the client got %d and %d bytes", got.status, len(got.body))
		}
	case got.status != 0 || last.judged:
		if got.status != last.plan.status || got.header.Get(last.mark()) == "" {
			x.t.Errorf("the client got %d with %v, attempt %d answered %d", got.status, got.header, last.number, last.plan.status)
		}
		if !slices.Equal(got.body, last.written) {
			x.t.Errorf("the client got %d bytes of an answer of %d", len(got.body), len(last.written))
		}
	}
}

// String describes the plan and what became of it.
func (x *exchange) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %d of %d, client %+v, verdicts %+v", x.limit, x.budget.Limit, x.client.plan, x.verdicts)
	for _, a := range x.attempts {
		fmt.Fprintf(&b, "\nattempt %d: %+v; read %d bytes, then %v", a.number, a.plan, len(a.got), a.end)
	}
	return b.String()
}

// requestInCaddy is a request as Caddy hands it to a handler.
func requestInCaddy(ctx context.Context, c *client) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://example.com/a?b=c", c)
	if c.contentLength() == 0 {
		r.Body = http.NoBody
	}
	r.ContentLength, r.Trailer = c.contentLength(), c.trailer
	r.Header.Set("X-Client", "1")
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{"client": "1"})
	return r.WithContext(ctx)
}

// Interface guards
var (
	_ replay.Judge        = (*exchange)(nil)
	_ caddyhttp.Handler   = (*attempt)(nil)
	_ http.ResponseWriter = (*response)(nil)
	_ fmt.Stringer        = ending(0)
)
