package replay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// requestInCaddy is a request as Caddy hands it to a handler.
func requestInCaddy(method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddy.CtxKey("route_group"), map[string]struct{}{"taken": {}})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return r.WithContext(ctx)
}

func TestRequestIsRestoredInPlace(t *testing.T) {
	form := url.Values{"a": {"1"}}
	fill := func(r *http.Request, response http.Header) {
		r.Header.Set("X-One", "one")
		r.Header["X-Many"] = []string{"a", "b", "c"}
		r.Header["X-Empty"] = []string{}
		r.Header["X-Nil"] = nil
		r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
		r.Form, r.PostForm, r.MultipartForm = form, form, nil
		response["Server"] = []string{"Caddy"}
		response["Date"] = nil
	}
	target := "http://example.com/a%2Fb/c?q=1#f"
	r, response := requestInCaddy("POST", target, nil), make(http.Header)
	fill(r, response)
	want, wantResponse := requestInCaddy("POST", target, nil), make(http.Header)
	fill(want, wantResponse)

	urlAt, headerAt, trailer, body, ctx := r.URL, r.Header, http.Header{"X": nil}, r.Body, r.Context()
	r.Trailer, want.Trailer = trailer, trailer
	groups := routeGroups(r)
	saved := saveRequest(r, response)
	defer saved.free()
	for i := range 2 { // also what was restored can be changed and restored
		r.Method, r.RequestURI, r.Host = "GET", "/other", "other.example"
		if i == 0 {
			r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.URL.Host = "/other", "", "", "other.example"
			r.URL = &url.URL{Path: "/replaced"}
			r.Header["X-One"][0] = "changed inside the slice"
			r.Header["X-Many"] = append(r.Header["X-Many"][:1], "d")
		} else {
			r.Header = http.Header{"X-Replaced": {"map"}}
			r.URL.Path = "/changed"
		}
		r.Header["X-Empty"], r.Header["X-Nil"] = nil, []string{"x"}
		r.Header.Set("X-New", "new")
		r.Header.Del("X-Many")
		r.TransferEncoding, r.ContentLength = nil, 5
		r.Form, r.PostForm, r.MultipartForm = nil, url.Values{}, new(multipart.Form)
		groups["by a handler"] = struct{}{}
		response["Server"][0] = "changed"
		response["Date"] = []string{"now"}
		response.Add("Set-Cookie", "a=b")

		saved.restore(r, response)
		if r.URL != urlAt || reflect.ValueOf(r.Header).Pointer() != reflect.ValueOf(headerAt).Pointer() {
			t.Error("URL or header are at another place")
		}
		if r.Body != body || r.Context() != ctx || !reflect.DeepEqual(r.Trailer, trailer) {
			t.Error("body, trailer or context have changed")
		}
		if !reflect.DeepEqual(r.URL, want.URL) || !reflect.DeepEqual(r.Header, want.Header) {
			t.Errorf("got %v with %#v", r.URL, r.Header)
		}
		if r.Method != "POST" || r.RequestURI != want.RequestURI || r.Host != "example.com" ||
			r.ContentLength != -1 || !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
			t.Errorf("got %+v", r)
		}
		if !reflect.DeepEqual(r.Form, form) || !reflect.DeepEqual(r.PostForm, form) || r.MultipartForm != nil {
			t.Error("the forms have changed")
		}
		if !maps.Equal(groups, map[string]struct{}{"taken": {}}) {
			t.Errorf("groups: %v", groups)
		}
		if !reflect.DeepEqual(response, wantResponse) {
			t.Errorf("response: %#v", response)
		}
	}
	// Appending to one field must not reach into the next.
	_ = append(r.Header["X-One"], "x")
	_ = append(r.Header["X-Many"], "x")
	if !reflect.DeepEqual(r.Header, want.Header) {
		t.Errorf("the fields share memory: %v", r.Header)
	}
}

func TestReleasedRequestHoldsNothing(t *testing.T) {
	r, response := requestInCaddy("POST", "http://example.com/secret", nil), http.Header{"Set-Cookie": {"secret"}}
	for i := range 20 {
		r.Header.Add(fmt.Sprintf("X-%d", i), "secret")
	}
	saved := saveRequest(r, response)
	saved.free()
	for _, header := range []savedHeader{saved.header, saved.response} {
		if len(header.fields) != 0 || len(header.values) != 0 {
			t.Error("a field is left")
		}
		for _, field := range header.fields[:cap(header.fields)] {
			if field != (savedField{}) {
				t.Errorf("left: %v", field)
			}
		}
		for _, value := range header.values[:cap(header.values)] {
			if value != "" {
				t.Errorf("left: %q", value)
			}
		}
	}
	for _, group := range saved.groups[:cap(saved.groups)] {
		if group != "" {
			t.Errorf("left: %q", group)
		}
	}
	saved.header, saved.response, saved.groups = savedHeader{}, savedHeader{}, nil
	if !reflect.DeepEqual(saved, new(savedRequest)) {
		t.Errorf("left: %+v", saved)
	}
}

func TestRequestsInThePoolDoNotMix(t *testing.T) {
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := range 200 {
				r, response := requestInCaddy("GET", fmt.Sprintf("http://example.com/%d/%d", i, n), nil), make(http.Header)
				for field := range n % 7 {
					r.Header.Set(fmt.Sprintf("X-%d-%d", i, field), r.URL.Path)
				}
				want := r.Header.Clone()
				saved := saveRequest(r, response)
				r.Header.Set("X-Other", "x")
				response.Set("X-Other", "x")
				saved.restore(r, response)
				saved.free()
				if !reflect.DeepEqual(r.Header, want) || len(response) != 0 {
					t.Errorf("restored %v, %v; want %v", r.Header, response, want)
				}
			}
		})
	}
	wait.Wait()
}

// statusJudge drops the responses with one status and answers others with another.
type statusJudge struct {
	drop    int
	answers map[int]int
	judged  []int
}

func (j *statusJudge) Verdict(status int, header http.Header) (int, bool) {
	j.judged = append(j.judged, status)
	header.Set("X-Judged", "yes")
	if answer, ok := j.answers[status]; ok {
		return answer, false
	}
	return status, status == j.drop
}

// guardedResponse notes what gets through a guard.
type guardedResponse struct {
	header http.Header
	calls  []string
}

func (l *guardedResponse) note(call string)            { l.calls = append(l.calls, call) }
func (l *guardedResponse) Header() http.Header         { return l.header }
func (l *guardedResponse) WriteHeader(status int)      { l.note(strconv.Itoa(status)) }
func (l *guardedResponse) Write(p []byte) (int, error) { l.note(string(p)); return len(p), nil }
func (l *guardedResponse) FlushError() error           { l.note("flush"); return nil }
func (l *guardedResponse) ReadFrom(r io.Reader) (int64, error) {
	data, err := io.ReadAll(r)
	l.note("from:" + string(data))
	return int64(len(data)), err
}

func (l *guardedResponse) want(t *testing.T, calls string) {
	t.Helper()
	if got := strings.Join(l.calls, " "); got != calls {
		t.Errorf("got through: %s; want %s", got, calls)
	}
}

func newTestGuard(ctx context.Context, drop int) (*guard, *guardedResponse, *statusJudge, context.Context) {
	log, judge := &guardedResponse{header: make(http.Header)}, &statusJudge{drop: drop}
	g := &guard{judge: judge, current: &attempt{Context: ctx}}
	g.ResponseWriter = log
	return g, log, judge, g.current
}

func TestGuardPassesResponsesThrough(t *testing.T) {
	for name, test := range map[string]struct {
		respond func(g *guard)
		want    string
		judged  int
	}{
		"status":                 {func(g *guard) { g.WriteHeader(404) }, "404", 404},
		"status twice":           {func(g *guard) { g.WriteHeader(404); g.WriteHeader(500) }, "404 500", 404},
		"informational":          {func(g *guard) { g.WriteHeader(100); g.WriteHeader(103); g.WriteHeader(204) }, "100 103 204", 204},
		"switch of protocols":    {func(g *guard) { g.WriteHeader(101) }, "101", 101},
		"write implies 200":      {func(g *guard) { _, _ = g.Write([]byte("x")) }, "200 x", 200},
		"flush implies 200":      {func(g *guard) { _ = g.FlushError() }, "200 flush", 200},
		"controller flushes":     {func(g *guard) { _ = http.NewResponseController(g).Flush() }, "200 flush", 200},
		"ReadFrom implies 200":   {func(g *guard) { _, _ = g.ReadFrom(strings.NewReader("x")) }, "200 from:x", 200},
		"copy reaches ReadFrom":  {func(g *guard) { _, _ = io.Copy(g, plainReader{strings.NewReader("x")}) }, "200 from:x", 200},
		"write after the status": {func(g *guard) { g.WriteHeader(403); _, _ = g.Write([]byte("x")); _ = g.FlushError() }, "403 x flush", 403},
		"another status":         {func(g *guard) { g.WriteHeader(418); _, _ = g.Write([]byte("x")) }, "502 x", 418},
	} {
		t.Run(name, func(t *testing.T) {
			g, log, judge, attempt := newTestGuard(t.Context(), 401)
			judge.answers = map[int]int{418: 502}
			test.respond(g)
			log.want(t, test.want)
			if !slices.Equal(judge.judged, []int{test.judged}) {
				t.Errorf("judged %v, want %d", judge.judged, test.judged)
			}
			if attempt.Err() != nil {
				t.Error("the attempt was cut off")
			}
		})
	}
}

// plainReader hides WriteTo from io.Copy.
type plainReader struct{ io.Reader }

func TestDroppedResponseDoesNotGetThrough(t *testing.T) {
	g, log, judge, attempt := newTestGuard(t.Context(), 401)
	defer g.reset()
	g.WriteHeader(103)
	g.WriteHeader(401)
	g.WriteHeader(401)
	g.WriteHeader(103)
	n, err := g.Write([]byte("token rejected"))
	if n != 14 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := g.ReadFrom(strings.NewReader("token rejected")); n != 14 || err != nil {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	if err := http.NewResponseController(g).Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	log.want(t, "103")
	if !slices.Equal(judge.judged, []int{401}) {
		t.Errorf("judged %v", judge.judged)
	}
	if attempt.Err() != nil {
		t.Error("the attempt was cut off")
	}
}

func TestDroppedBodyIsDrainedWithinItsLimit(t *testing.T) {
	for name, test := range map[string]struct {
		write  func(g *guard, data []byte) (int64, error)
		second string // attempt
	}{
		"Write": {func(g *guard, data []byte) (int64, error) {
			n, err := g.Write(data)
			return int64(n), err
		}, "200 second"},
		"ReadFrom": {func(g *guard, data []byte) (int64, error) { return g.ReadFrom(bytes.NewReader(data)) }, "200 from:second"},
	} {
		t.Run(name, func(t *testing.T) {
			g, log, _, attempt := newTestGuard(t.Context(), 401)
			g.WriteHeader(401)
			for range 4 {
				if n, err := test.write(g, make([]byte, drainBytes/4)); n != drainBytes/4 || err != nil {
					t.Fatalf("%d, %v", n, err)
				}
			}
			if attempt.Err() != nil {
				t.Error("the attempt was cut off within the limit")
			}
			for range 2 {
				if n, err := test.write(g, []byte("x")); n != 0 || err != errDropped {
					t.Errorf("%d, %v", n, err)
				}
			}
			if attempt.Err() == nil {
				t.Error("the attempt was not cut off")
			}
			g.reset()
			g.WriteHeader(200)
			if n, err := test.write(g, []byte("second")); n != 6 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			log.want(t, test.second)
		})
	}
}

func TestDroppedBodyIsDrainedWithinItsTime(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		cut   bool
	}{{0, false}, {drainTime - 1, false}, {drainTime, true}, {time.Minute, true}} {
		synctest.Test(t, func(t *testing.T) {
			g, _, _, attempt := newTestGuard(t.Context(), 401)
			g.WriteHeader(401)
			time.Sleep(test.after)
			synctest.Wait()
			if cut := attempt.Err() != nil; cut != test.cut {
				t.Errorf("after %v cut off: %v", test.after, cut)
			}
			g.reset()
			time.Sleep(time.Minute)
			if cut := attempt.Err() != nil; cut != test.cut {
				t.Error("the attempt was cut off after the reset")
			}
		})
	}
}

func TestGuardJudgesTheSecondAttempt(t *testing.T) {
	g, log, judge, _ := newTestGuard(t.Context(), 401)
	g.WriteHeader(401)
	_, _ = g.Write([]byte("first"))
	g.reset()
	judge.drop = 0
	g.WriteHeader(401)
	_, _ = g.Write([]byte("second"))
	if !slices.Equal(judge.judged, []int{401, 401}) {
		t.Errorf("judged %v", judge.judged)
	}
	log.want(t, "401 second")
}

// readerFrom notes what reaches the connection by way of io.ReaderFrom.
type readerFrom struct {
	*httptest.ResponseRecorder
	source io.Reader
}

func (w *readerFrom) ReadFrom(r io.Reader) (int64, error) {
	w.source = r
	return io.Copy(w.ResponseRecorder, r)
}

func TestReadFromReachesTheConnection(t *testing.T) {
	for name, status := range map[string]int{"status written": 200, "status implied": 0} {
		t.Run(name, func(t *testing.T) {
			below := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
			g := &guard{judge: passingJudge{}}
			g.ResponseWriter = below
			if status != 0 {
				g.WriteHeader(status)
			}
			file := strings.NewReader("content")
			if n, err := g.ReadFrom(file); n != 7 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
			if below.source != file || below.Body.String() != "content" || !g.decided {
				t.Errorf("the connection read from %v and got %q", below.source, below.Body)
			}
		})
	}
}

// passingJudge is a judge that drops nothing.
type passingJudge struct{}

func (passingJudge) Verdict(status int, _ http.Header) (int, bool) { return status, false }
