package gatewaytest

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// testLogs is a log output of Caddy's that tests can read.
type testLogs struct{}

func (*testLogs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.oauth_cc_test", New: func() caddy.Module { return new(testLogs) }}
}
func (*testLogs) String() string                                { return "test" }
func (*testLogs) WriterKey() string                             { return "oauth_cc_test" }
func (*testLogs) OpenWriter() (io.WriteCloser, error)           { return logSink{}, nil }
func (*testLogs) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// logSink writes to whichever test is running.
type logSink struct{}

func (logSink) Close() error { return nil }
func (logSink) Write(p []byte) (int, error) {
	currentLogs.Lock()
	defer currentLogs.Unlock()
	if currentLogs.lines != nil {
		currentLogs.lines.Write(p)
	}
	return len(p), nil
}

var currentLogs struct {
	sync.Mutex
	lines *Logs
}

// Logs collects what a gateway logs.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer
	to   func(line []byte)
}

func (l *Logs) Write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to != nil {
		l.to(p)
		return
	}
	l.text.Write(p)
}

// Divert hands each line to a function from now on. Nothing is kept, so that a test can go on for hours.
func (l *Logs) Divert(to func(line []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
}

// All returns everything that was logged.
func (l *Logs) All() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// With returns the handler's own log entries with that message.
func (l *Logs) With(message string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.All()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message && entry["logger"] == "http.handlers.oauth_cc" {
			found = append(found, entry)
		}
	}
	return found
}
