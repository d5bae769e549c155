package tokenlist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
)

// Operator does what "caddy oauth-cc tokens" is asked to do.
type Operator struct {
	Gateway *Gateway
	Out     io.Writer
	Err     io.Writer // gets text that is not JSON, if Out gets JSON

	// For lists.
	Filter Filter
	JSON   bool // prints the answer as it is
}

// List prints the tokens.
func (o Operator) List(ctx context.Context) error {
	text, err := o.listed(ctx, table.StyleOf(o.Out))
	if err != nil {
		return err
	}
	_, err = io.WriteString(o.Out, text)
	return err
}

// listed returns what List prints.
func (o Operator) listed(ctx context.Context, s table.Style) (string, error) {
	list, a, err := o.Gateway.list(ctx, o.Filter)
	switch {
	case err != nil:
		return "", err
	case o.JSON:
		return string(a.body), nil
	}
	var text strings.Builder
	text.WriteString(list.summary(o.Filter))
	err = list.write(&text, a.at, s)
	return text.String(), err
}

// Watch prints the tokens again and again, until ctx ends, which is no error. On a terminal each list replaces the
// previous one. It is an error if the gateway does not answer the first time. Later failures are printed, and the
// gateway is asked again.
func (o Operator) Watch(ctx context.Context, interval time.Duration) error {
	for first := true; ctx.Err() == nil; first = false {
		s := table.StyleOf(o.Out) // the size of a terminal changes
		text, err := o.listed(ctx, s)
		if ctx.Err() != nil {
			break
		}
		out := o.Out
		switch {
		case err != nil && first:
			return err
		case err != nil:
			text = table.Printable(err.Error()) + "; trying again\n"
			if o.JSON {
				out = o.Err
			}
		}
		switch {
		case o.JSON:
		case s.Moves:
			text = screen(text, interval, s, first)
		case !first:
			text = "\n" + text
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
	return nil //nolint:nilerr // to be interrupted is how it ends
}

// screen returns what draws a text in place of all that is on the terminal, with a line above it. What does not fit is
// cut off, as the terminal would scroll.
func screen(text string, interval time.Duration, s table.Style, first bool) string {
	lines := s.Lines(fmt.Sprintf("%s  every %s, Ctrl-C ends it\n\n%s", time.Now().Format(time.TimeOnly), interval, text))
	if room := s.Height - 1; s.Height > 1 && len(lines) > room { // the cursor needs a line
		more := func(n int) []string {
			return s.Lines(fmt.Sprintf("… %d more lines; --failing, --state and --value show fewer tokens", n))
		}
		fit := max(room-len(more(len(lines))), 0)
		lines = append(lines[:fit:fit], more(len(lines)-fit)...)
		lines = lines[:min(len(lines), room)]
	}
	// ECMA-48: the cursor goes home (§8.3.21), each line and at the end the page is erased from there on (§8.3.41, §8.3.39).
	// A line is erased before it is written: after one that is full, the cursor may still be in its last column.
	const home, restOfLine, restOfPage, page = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
	before := home
	if first {
		before = page + home
	}
	return before + restOfLine + strings.Join(lines, "\n"+restOfLine) + "\n" + restOfPage
}

// Refresh makes the gateway ask the endpoint for another token, and prints the result.
func (o Operator) Refresh(ctx context.Context, id string) error {
	t, err := o.Gateway.find(ctx, id)
	if err != nil {
		return err
	}
	refreshed, at, err := o.Gateway.refresh(ctx, t.ID)
	if failure, ok := errors.AsType[*apiError](err); ok {
		return o.explain(ctx, t, failure)
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.Out, "the endpoint has granted the token %s\n", table.Printable(refreshed.Token)); err != nil {
		return err
	}
	return List{Tokens: []Token{refreshed}}.write(o.Out, at, table.StyleOf(o.Out))
}

// explain says why a token was not refreshed. It prints what the gateway knows about it, such as a hint.
func (o Operator) explain(ctx context.Context, t Token, failure *apiError) error {
	switch failure.status {
	case http.StatusNotFound:
		return errNoSuchToken
	case http.StatusConflict:
		return fmt.Errorf(`this is a tenant's token, and only a request tells who the tenant is; run "caddy oauth-cc tokens forget %s", and the tenant's next request gets another token`, table.Printable(t.ID))
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout: // as a client would get
	default:
		return failure
	}
	unavailable := errors.New(failure.message)
	if list, a, err := o.Gateway.list(ctx, Filter{Limit: 1, IDPrefix: t.ID}); err == nil && len(list.Tokens) == 1 {
		t = list.Tokens[0]
		if err := (List{Tokens: list.Tokens}).write(o.Out, a.at, table.StyleOf(o.Out)); err != nil {
			return err
		}
	}
	if t.isLive() {
		return fmt.Errorf("%w; the current token stays in use", unavailable)
	}
	return unavailable
}

// Forget makes the gateway forget a token, and prints the result.
func (o Operator) Forget(ctx context.Context, id string) error {
	t, err := o.Gateway.find(ctx, id)
	if err != nil {
		return err
	}
	if err := o.Gateway.forget(ctx, t.ID); err != nil {
		if failure, ok := errors.AsType[*apiError](err); ok && failure.status == http.StatusNotFound {
			return errNoSuchToken
		}
		return err
	}
	forgotten := "forgot the token " + t.Token
	if t.Token == "" {
		forgotten = "there was no token; the pause after a failure, if there was one, has ended"
	}
	_, err = fmt.Fprintf(o.Out, "%s; the next request, or prefetch at once, asks %s for another\n", table.Printable(forgotten), table.Printable(t.endpoint()))
	return err
}
