package faults

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// nothing is what an empty column says.
const nothing = "nothing"

// then is between what happened one after the other.
const then = " | "

// headerOnly is what a client sees of an answer that breaks off after its header. Before v2.11.5 Caddy does not pass that on.
func headerOnly() string {
	if gatewaytest.CaddySince(5) {
		return "200 broken off"
	}
	return "no answer"
}

func listed(list []string) string {
	if len(list) == 0 {
		return nothing
	}
	return strings.Join(list, then)
}

// numberedText is a body of which every part is different.
func numberedText(size int) string { return longText[:size] }

var longText = gatewaytest.NumberedText(1 << 19)

// sorted lists the same in an order of its own, for what is done side by side.
func sorted(list string) string {
	parts := strings.Split(list, then)
	slices.Sort(parts)
	return listed(parts)
}

// described tells one body from all others: the texts that tests send by their size, others by a checksum.
func described(body string) string {
	switch {
	case body == "":
		return ""
	case len(body) > 16 && strings.HasPrefix(longText, body):
		return fmt.Sprintf("%d bytes", len(body))
	case len(body) <= 64 && !strings.ContainsFunc(body, unicode.IsControl):
		return body
	}
	return fmt.Sprintf("%d other bytes, crc32 %08x", len(body), crc32.ChecksumIEEE([]byte(body)))
}

// describedPart is for a body that was not read to its end. How much of it came can be up to chance, but not what.
func describedPart(body string) string {
	if strings.HasPrefix(longText, body) {
		return "in part"
	}
	return "in part, and wrong: " + described(body)
}

// noErrorCode is what error pages have in place of the handler's error code, if the failure is not the handler's.
const noErrorCode = "{http.oauth_cc.error}"

// answered reads an answer to its end, and tells what the client got.
func answered(res *http.Response, err error) string {
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	parts := []string{fmt.Sprint(res.StatusCode)}
	text := described(strings.ReplaceAll(string(body), noErrorCode, ""))
	if err != nil {
		if text = "broken off"; len(body) > 0 {
			text = describedPart(string(body))
		}
	}
	if text != "" {
		parts = append(parts, text)
	}
	if res.Header.Get("Www-Authenticate") != "" {
		parts = append(parts, "with a challenge")
	}
	if res.Header.Get("Retry-After") != "" {
		parts = append(parts, "to be retried")
	}
	return strings.Join(parts, " ")
}

// logged lists the handler's entries about a row in text. An entry that names no endpoint is about a row that has the
// log for itself.
func logged(text, endpoint string) string {
	var list []string
	for line := range strings.Lines(text) {
		var entry struct {
			Msg, Endpoint, Trigger, Error, Operation string
		}
		if !strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) || json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		if entry.Endpoint != "" && entry.Endpoint != endpoint || entry.Trigger == "operator" {
			continue
		}
		message, _, _ := strings.Cut(entry.Msg, ";")
		message, _, _ = strings.Cut(message, ",")
		var details []string
		for _, detail := range []string{entry.Trigger, entry.Operation, entry.Error} {
			if detail != "" {
				details = append(details, detail)
			}
		}
		if len(details) > 0 {
			message += " (" + strings.Join(details, ", ") + ")"
		}
		list = append(list, message)
	}
	return listed(list)
}

// awaitServed waits until the gateway is done with so many requests of the row.
func (p *play) awaitServed(n int) {
	p.t.Helper()
	gatewaytest.Await(p.t, "the gateway is done with a request", func() bool {
		done := 0
		for line := range strings.Lines(p.g.Logs.All()[p.started:]) {
			if strings.Contains(line, `"logger":"http.log.access`) && strings.Contains(line, `"host":"`+p.addr()+`"`) {
				done++
			}
		}
		return done >= n
	})
}

// Entries that many rows have.
const (
	gotFirst     = "token obtained (miss)"
	gotRenewed   = "token obtained (rejected)"
	uncured      = "the upstream rejected the renewed token as well"
	unreplayable = "the upstream rejected the token of a request whose body can't be sent again"
	noOther      = "the upstream rejected the token"
)

// failed is the entry of a first token that could not be had.
func failed(code string) string { return "no token obtained (miss, " + code + ")" }

// times is how often something happens.
type times struct{ least, most int }

var (
	never        = times{0, 0}
	once         = times{1, 1}
	twice        = times{2, 2}
	thrice       = times{3, 3}
	thriceAtMost = times{1, 3}
	onceAtMost   = times{0, 1} // there was little time for it
)

func (n times) include(got int) bool { return n.least <= got && got <= n.most }
