package gatewaytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// wantHelp wants each entry of the handler's at warn or error to end its hint with the address of a heading that exists: of
// its error code, or of its message.
func wantHelp(t testing.TB, logs *Logs) {
	t.Helper()
	for line := range strings.Lines(logs.All()) {
		if !strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) {
			continue
		}
		var entry struct{ Level, Msg, Error, Hint string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level != "warn" && entry.Level != "error" {
			continue
		}
		leads := func(heading string) bool {
			return slices.Contains(documented(), heading) && strings.HasSuffix(entry.Hint, help.Hint("", heading))
		}
		if !leads(entry.Error) && !leads(entry.Msg) {
			t.Errorf("the hint leads to no heading of docs/troubleshooting.md: %s", line)
		}
	}
}

// WithoutHelp is a log entry's hint without the address at its end.
func WithoutHelp(hint any) string {
	text, _ := hint.(string)
	before, _, _ := strings.Cut(text, "see "+help.Address(""))
	return strings.TrimSuffix(before, "; ")
}

// documented are the headings of docs/troubleshooting.md. A package's tests begin in its folder.
var documented = sync.OnceValue(func() (headings []string) {
	for folder := startFolder; ; folder = filepath.Dir(folder) {
		if page, err := os.ReadFile(filepath.Join(folder, "docs", "troubleshooting.md")); err == nil {
			for line := range strings.Lines(string(page)) {
				if heading, ok := strings.CutPrefix(line, "### "); ok {
					headings = append(headings, strings.ReplaceAll(strings.TrimSpace(heading), "`", ""))
				}
			}
			return headings
		}
		if folder == filepath.Dir(folder) {
			panic("no docs/troubleshooting.md above " + startFolder)
		}
	}
})

var startFolder, _ = os.Getwd()
