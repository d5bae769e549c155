package replay

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A dropped response is read to its end, so that its connection can be used again. After this many
// bytes or this time, the attempt is cancelled instead.
const (
	drainBytes = 64 << 10
	drainTime  = time.Second
)

// errDropped is the error for a handler that writes more than drainBytes of a dropped response.
var errDropped = errors.New("the response is dropped")

// Judge decides about a response before anything of it is passed on.
type Judge interface {
	// Verdict returns the status to answer with, or drop if the response is dropped. It may change the
	// response's header. It is called at most once for each attempt (a handler can return an error without a response), in the goroutine of the handler that
	// writes the response, and not for informational responses. It may drop only if the request can be
	// sent again, see [Attempts.RewindBody], or if the caller answers in another way.
	Verdict(status int, header http.Header) (answer int, drop bool)
}

// guard passes a response on with the status and the header that the judge gave it, or discards all of it. It
// serves one attempt after the other, each in the goroutine of the handler that writes.
type guard struct {
	caddyhttp.ResponseWriterWrapper
	judge   Judge
	current *attempt        // nil before the first, and when it is sent only once
	decided bool            // the judge was asked
	dropped bool            // the judge dropped the response
	isRead  bool            // a reader of the attempt still waits for the client, see drop
	drained int             // bytes of the dropped response so far
	hints   hints           // that the client has had
	kept    []string        // fields that are meant for the gateway
	shown   *shownVariables // nil unless placeholders have to be shown the variables
	timer   *time.Timer     // cuts the attempt off after drainTime; nil unless the response is dropped
}

// WriteHeader implements http.ResponseWriter.
func (g *guard) WriteHeader(status int) {
	if g.dropped {
		return
	}
	// Informational responses come before the final one. A switch of protocols is final (RFC 9110
	// §15.2.2).
	if informational := status >= 100 && status <= 199 && status != http.StatusSwitchingProtocols; informational {
		if g.removeKept(); !g.decided && !g.hints.isNews(status, g.Header()) {
			return
		}
	} else if !g.decided {
		g.decided = true
		if status, g.dropped = g.judge.Verdict(status, g.Header()); g.dropped {
			g.drop()
			return
		}
		g.unannounce()
		if g.shown != nil {
			g.shown.update() // earlier handlers can use placeholders in the header
		}
	}
	g.ResponseWriter.WriteHeader(status)
}

// drop has the rest of the response read, but not for too long. A transport of HTTP/2 waits for the reader of the
// request before it sees that the attempt was cancelled. So while that waits for the client, the response is not read:
// its handler is aborted.
func (g *guard) drop() {
	if g.isRead {
		g.current.cutOff()
		panic(http.ErrAbortHandler)
	}
	g.timer = time.AfterFunc(drainTime, g.current.cutOff)
}

// Write implements http.ResponseWriter.
func (g *guard) Write(data []byte) (int, error) {
	g.writeImplicitHeader()
	if !g.dropped {
		return g.ResponseWriter.Write(data)
	}
	g.drained += len(data)
	if g.drained > drainBytes {
		g.current.cutOff()
		return 0, errDropped
	}
	return len(data), nil
}

// ReadFrom implements io.ReaderFrom, so that the kernel can still send large files (sendfile).
func (g *guard) ReadFrom(r io.Reader) (int64, error) {
	g.writeImplicitHeader()
	if !g.dropped {
		return g.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(writerOnly{g}, r)
}

// FlushError implements the flushing of http.ResponseController.
func (g *guard) FlushError() error {
	g.writeImplicitHeader()
	if g.dropped {
		return nil
	}
	return http.NewResponseController(g.ResponseWriter).Flush()
}

// writeImplicitHeader writes status 200 for a handler that wrote none.
func (g *guard) writeImplicitHeader() {
	if !g.decided {
		g.WriteHeader(http.StatusOK)
	}
}

// reset prepares the guard for the next attempt.
func (g *guard) reset() {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.decided, g.dropped, g.drained, g.isRead, g.timer = false, false, 0, false, nil
	g.hints.again = true
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// Interface guards
var (
	_ http.ResponseWriter = (*guard)(nil)
	_ io.ReaderFrom       = (*guard)(nil)
)
