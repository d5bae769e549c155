package endpoint

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// allocated is how many bytes do allocates, freed ones included.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// manyMembers are the members of a JSON object, each with another name.
func manyMembers(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(`"` + strconv.Itoa(i) + `":0,`)
	}
	return b.String()
}

// manyFields are the fields of a form, each with another name.
func manyFields(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strconv.Itoa(i) + "&")
	}
	return b.String()
}

// An endpoint can answer each token request with all that is read of an answer.
func TestLargestAnswersCostLittleMemory(t *testing.T) {
	const size = MaxResponse - 1<<10
	const token = `"access_token":"tok-1","expires_in":60`
	repeated := func(part string) string { return strings.Repeat(part, size/len(part)) }
	header := func(name, value string) http.Header {
		return http.Header{"Content-Type": {"application/json"}, name: {value}}
	}
	for name, answer := range map[string]servertest.Answer{
		"members":           {Body: `{` + manyMembers(size) + token + `}`}, // too many
		"the same member":   {Body: `{` + repeated(token+",") + token + `}`},
		"nested":            {Body: `{` + token + `,"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`},
		"a list":            {Body: `{` + token + `,"x":[` + repeated("0,") + `0]}`},
		"fields":            {Header: servertest.WithType("text/plain"), Body: manyFields(size) + "access_token=tok-1"},
		"the same field":    {Header: servertest.WithType("text/plain"), Body: repeated("access_token=tok-1&")},
		"empty fields":      {Header: servertest.WithType("text/plain"), Body: repeated("&") + "access_token=tok-1"},
		"digits":            {Body: `{` + `"access_token":"tok-1","expires_in":1` + repeated("0") + `}`},
		"digits as a text":  {Body: `{` + `"access_token":"tok-1","expires_in":"` + repeated("0") + `1"}`},
		"an exponent":       {Body: `{` + `"access_token":"tok-1","expires_in":1e` + repeated("9") + `}`},
		"scopes":            {Body: `{` + token + `,"scope":"` + repeated("a ") + `"}`},
		"scopes, commas":    {Body: `{` + token + `,"scope":"` + repeated(",") + `"}`},
		"the type":          {Body: `{` + token + `,"token_type":"` + repeated("b") + `"}`},
		"the type, a list":  {Body: `{` + token + `,"token_type":[` + repeated("0,") + `0]}`},
		"dots":              {Body: `{"access_token":"` + repeated(".") + `"}`},
		"a description":     {Status: 400, Body: `{"error":"invalid_client","error_description":"` + repeated("no ") + `"}`},
		"errors":            {Status: 400, Body: `{"errors":{` + manyMembers(size) + `"x":"no"}}`},
		"a list of errors":  {Status: 400, Body: `{"errors":[` + repeated(`"no",`) + `"no"]}`},
		"an error page":     {Status: 502, Header: servertest.WithType("text/html"), Body: repeated("<p>")},
		"parameters":        {Header: servertest.WithType("text/plain" + strings.Repeat("; a=b", 50_000)), Body: "access_token=tok-1"},
		"challenges":        {Status: 401, Header: header("Www-Authenticate", repeated("a,"))},
		"a time to wait":    {Status: 429, Header: header("Retry-After", repeated("9"))},
		"zeros to wait":     {Status: 429, Header: header("Retry-After", repeated("0")+"1")},
		"no time to wait":   {Status: 429, Header: header("Retry-After", repeated("Mon, "))},
		"a date":            {Status: 429, Header: header("Date", repeated("Mon, "))},
		"a nonce":           {Status: 400, Header: header("Dpop-Nonce", repeated("n")), Body: `{"error":"use_dpop_nonce"}`},
		"another address":   {Status: 302, Header: header("Location", "https://example.com/"+repeated("a/"))},
		"a different query": {Status: 302, Header: header("Location", "?"+repeated("a=&"))},
	} {
		t.Run(name, func(t *testing.T) {
			request := cannedRequest
			request.Scopes = []string{strings.Repeat("b c d ", 1<<10)}
			var granted Granted
			var failure *Error
			n := allocated(func() { granted, failure = askOnce(t, answer, request) })
			if n > 16*MaxResponse { // the race detector adds some
				t.Errorf("%d KiB were allocated", n>>10)
			}
			for _, kept := range []string{granted.Value, granted.Scope, granted.UnusualType} {
				if len(kept) > 2<<10 {
					t.Errorf("%d bytes are kept", len(kept))
				}
			}
			if failure != nil && len(failure.Detail)+len(failure.Said)+len(failure.Hint)+len(failure.nonce) > 4<<10 {
				t.Errorf("kept of the failure: %+v", failure)
			}
		})
	}
}
