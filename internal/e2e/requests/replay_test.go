package requests

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

const mebibyte = 1 << 20

// wholeBody makes rejectAfter read to the end.
const wholeBody = 1 << 30

// rejectAfter is an API that rejects token-1 once it has read so much of a body, and
// goes on reading it afterwards if asked to. It tells what it accepted.
func rejectAfter(read int64, goOn bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) != "token-1" {
			gatewaytest.AcceptOnly("token-2")(w, r)
			return
		}
		if read != wholeBody {
			gatewaytest.AnswerEarly(w, r)
		}
		_, _ = io.CopyN(io.Discard, r.Body, read)
		gatewaytest.RejectToken(w)
		if goOn {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		}
	}
}

func TestBodyIsReplayed(t *testing.T) {
	for _, test := range []struct {
		name string
		size int
		read int64 // of the body before the rejection
		goOn bool
		ways int // HTTP/1.1 alone, or h2c as well
	}{
		{"empty", 0, wholeBody, false, 2},
		{"one byte", 1, wholeBody, false, 2},
		{"900 KiB, rejected after reading", 900 << 10, wholeBody, false, 2},
		// Over h2c Go's transport closes the body that it is reading, which Caddy's
		// wrapper around it does not expect.
		{"900 KiB, rejected while reading", 900 << 10, 300 << 10, true, 1},
		{"900 KiB, rejected early and read no further", 900 << 10, 64 << 10, false, 1},
		{"as large as the buffer", mebibyte, wholeBody, false, 2},
	} {
		body := gatewaytest.NumberedText(test.size)
		for _, way := range gatewaytest.UpstreamProtocols[:test.ways] {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, chunked %t", test.name, way.Name, chunked), func(t *testing.T) {
					var seen gatewaytest.AttemptLog
					endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(rejectAfter(test.read, test.goOn)))
					g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
					var reader io.Reader = strings.NewReader(body)
					if chunked {
						reader = io.MultiReader(reader)
					}
					gatewaytest.CheckAnswer(t, g.Do(gatewaytest.ClientRequest(t, http.MethodPost, g.URL("/"), reader)), 200, body)
					if got := seen.Tokens(); got != "token-1 token-2" {
						t.Errorf("the upstream got the tokens %q", got)
					}
				})
			}
		}
	}
}

// Over HTTP/1.1 the upstream may reject a request before it reads any of the body.
func TestRequestThatIsRejectedUnreadIsReplayed(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, rejectAfter(0, false))
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	body := gatewaytest.NumberedText(900 << 10)
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", body), 200, body)
}

func TestBodyLargerThanTheBufferIsNotReplayed(t *testing.T) {
	for _, way := range gatewaytest.UpstreamProtocols {
		t.Run(way.Name, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, gatewaytest.AcceptOnly("token-2"))
			g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
			body := gatewaytest.NumberedText(5 * mebibyte)
			a := g.Post("/", "text/plain", body)
			if a.Status != 401 || a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("got %d with %v, want the upstream's 401", a.Status, a.Header)
			}
			gatewaytest.Await(t, "renewal in the background", func() bool { return endpoint.Count() == 2 })
			gatewaytest.Await(t, "the new token in use", func() bool { return g.Get("/").Status == 200 })
			gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", body), 200, body)
		})
	}
}

// With Expect: 100-continue nothing of the body is sent before the upstream asks for
// it, so it can be replayed whatever its size.
func TestUnreadBodyOfAnySizeIsReplayed(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		t.Run(protocol.Name, func(t *testing.T) {
			var seen gatewaytest.AttemptLog
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(rejectAfter(0, false)))
			options := "transport http {\nexpect_continue_timeout 5s\n}\n"
			if protocol.Version != "HTTP/1.1" {
				options += "header_up Expect 100-continue" // Go's HTTP/2 server keeps the header to itself
			}
			_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, options))
			body := gatewaytest.NumberedText(5 * mebibyte)
			req := gatewaytest.ClientRequest(t, http.MethodPost, base, strings.NewReader(body))
			req.Header.Set("Expect", "100-continue")
			gatewaytest.CheckAnswer(t, protocol.Exchange(t, client, req), 200, body)
			if got := seen.Tokens(); got != "token-1 token-2" {
				t.Errorf("the upstream got the tokens %q", got)
			}
		})
	}
}

func TestTrailersArriveAfterAReplay(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				told := make(chan http.Header, 1)
				endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, trailersFrom("token-1", told))
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				req := gatewaytest.ClientRequest(t, http.MethodPost, base, io.MultiReader(strings.NewReader(gatewaytest.NumberedText(100<<10))))
				req.Trailer = http.Header{"X-Checksum": {"abc"}, "X-Signed": {"yes"}}
				if a := protocol.Exchange(t, client, req); a.Status != 200 {
					t.Fatalf("got %d %q", a.Status, a.Body)
				}
				if got := gatewaytest.AwaitSignal(t, "trailers", told); !maps.EqualFunc(got, req.Trailer, slices.Equal) {
					t.Errorf("the upstream got the trailers %v, want %v", got, req.Trailer)
				}
			})
		}
	}
}

// The second half of the body is sent only when the first has arrived twice.
func TestSlowBodyArrivesOnceAndInOrder(t *testing.T) {
	first, second := gatewaytest.NumberedText(70<<10), strings.Repeat("second half, ", 5000)
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				resumed := make(chan struct{})
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					start := make([]byte, len(first))
					if _, err := io.ReadFull(r.Body, start); err != nil || gatewaytest.Bearer(r) == "token-1" {
						gatewaytest.AnswerEarly(w, r)
						gatewaytest.RejectToken(w)
						return
					}
					close(resumed)
					rest, _ := io.ReadAll(r.Body)
					_, _ = w.Write(append(start, rest...))
				})
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				req := gatewaytest.ClientRequest(t, http.MethodPost, base, gatewaytest.InTwoParts(first, second, resumed))
				gatewaytest.CheckAnswer(t, protocol.Exchange(t, client, req), 200, first+second)
			})
		}
	}
}

func TestTotalOfTheReplayBufferIsBounded(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) == "token-1" {
			_, _ = io.Copy(io.Discard, r.Body)
			arrived <- struct{}{}
			<-release
			gatewaytest.RejectToken(w)
			return
		}
		gatewaytest.AcceptOnly("token-2")(w, r)
	})
	g := gatewaytest.Start(t, endpoint.Options("replay_buffer 64KiB 128KiB")+gatewaytest.ProxyTo(upstream))
	bodies := make([]string, 4)
	answers := make([]gatewaytest.Answer, len(bodies))
	var wait sync.WaitGroup
	for i := range bodies {
		bodies[i] = strings.Repeat(fmt.Sprint(i), 64<<10)
		wait.Go(func() { answers[i] = g.Post("/", "text/plain", bodies[i]) })
		gatewaytest.AwaitSignal(t, "the body", arrived) // the buffer fills in this order
	}
	close(release)
	wait.Wait()
	for i := range bodies[:2] {
		gatewaytest.CheckAnswer(t, answers[i], 200, bodies[i])
	}
	for i := range bodies[2:] {
		gatewaytest.CheckAnswer(t, answers[i+2], 401, "")
	}
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// A buffer that was full is there for later requests.
func TestReplayBufferIsGivenBack(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	var revoked sync.Map
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, ok := revoked.Load(gatewaytest.Bearer(r)); ok {
			gatewaytest.RejectToken(w)
			return
		}
		_, _ = w.Write(body)
	})
	g := gatewaytest.Start(t, endpoint.Options("replay_buffer 64KiB 64KiB")+gatewaytest.ProxyTo(upstream))
	body := gatewaytest.NumberedText(60 << 10)
	for range 3 {
		gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", body), 200, body)
		gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", body+body), 200, body+body) // outgrows it
	}
	revoked.Store("token-1", true)
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", body), 200, body)
}

// What later handlers do to a request is done once to each attempt: both reach the
// upstream alike, but for the token.
func TestBothAttemptsAreAlike(t *testing.T) {
	for _, test := range []struct{ name, handlers, uri string }{
		{"rewrite", "rewrite * /v1{uri}", "/v1/in/a?q=1"},
		{"rewrite of method and query", "method PATCH\nrewrite * {path}?{query}&added=1", "/in/a?q=1&added=1"},
		{"uri strip_prefix", "uri strip_prefix /in", "/a?q=1"},
		{"uri replace", "uri replace a b", "/in/b?q=1"},
		{"uri query", "uri query +q 2", "/in/a?q=1&q=2"},
		{"request_header", "request_header X-Set one\nrequest_header +X-Add more\nrequest_header -X-Drop\nrequest_header X-Replace a aa\nrequest_header Host other.example", "/in/a?q=1"},
		{"request_header of the token's header", "request_header +Authorization second", "/in/a?q=1"},
		{"placeholders in later handlers", "rewrite * /new{uri}\nrequest_header X-Set {uri}-{http.request.header.X-Set}-{http.request.orig_uri}", "/new/in/a?q=1"},
		{"body placeholder", "request_header X-Body {http.request.body}", "/in/a?q=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var seen gatewaytest.AttemptLog
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if strings.HasPrefix(gatewaytest.Bearer(r), "token-1") {
					gatewaytest.RejectToken(w)
					return
				}
				_, _ = w.Write(body)
			}))
			g := gatewaytest.Start(t, "route {\n"+endpoint.Options()+test.handlers+"\n"+gatewaytest.ProxyTo(upstream,
				"header_up X-Uri {http.request.uri}", "header_up X-Orig {http.request.orig_uri}", "header_up X-Method {http.request.method}",
				"header_up X-Copy {http.request.header.X-Set}", "header_up X-Token-Then {http.request.header.Authorization}")+"}")
			req := gatewaytest.ClientRequest(t, http.MethodPost, g.URL("/in/a?q=1"), strings.NewReader("payload"))
			for _, name := range []string{"X-Set", "X-Add", "X-Drop", "X-Replace"} {
				req.Header[name] = []string{"a", "ba"}
			}
			gatewaytest.CheckAnswer(t, g.Do(req), 200, "payload")
			all := seen.All()
			if len(all) != 2 {
				t.Fatalf("%d attempts, want 2", len(all))
			}
			for i, token := range []string{"token-1", "token-2"} {
				for _, name := range []string{"Authorization", "X-Token-Then"} {
					if got := all[i].Header.Get(name); !strings.HasPrefix(got, "Bearer "+token) {
						t.Errorf("attempt %d has %s %q", i+1, name, got)
					}
					all[i].Header.Set(name, strings.Replace(all[i].Header.Get(name), token, "", 1))
				}
				if all[i].URI != test.uri || all[i].Header.Get("X-Uri") != test.uri || all[i].Header.Get("X-Orig") != "/in/a?q=1" {
					t.Errorf("attempt %d went to %s with %v", i+1, all[i].URI, all[i].Header)
				}
			}
			if all[0].Method != all[1].Method || all[0].Host != all[1].Host || !maps.EqualFunc(all[0].Header, all[1].Header, slices.Equal) {
				t.Errorf("the attempts differ:\n%v\n%v", all[0], all[1])
			}
		})
	}
}

func TestReplayTakesTheSameRoute(t *testing.T) {
	const grouped = "rewrite /in/* /first{uri}\nrewrite /first/* /second{uri}\nrewrite /second/* /third{uri}\n"
	for _, test := range []struct{ name, site, path, want string }{
		{"handle", "%s handle /in/* {\n%s}\nhandle {\nrespond fallback\n}", "/in/a", "/in/a"},
		{"handle, the last", "%s handle /out/* {\nrespond wrong\n}\nhandle {\n%s}", "/in/a", "/in/a"},
		{"handle_path", "%s handle_path /in/* {\n%s}\nhandle {\nrespond fallback\n}", "/in/a", "/a"},
		{"nested", "%s handle /in/* {\nhandle_path /in/deep/* {\n%s}\nhandle {\nrespond wrong\n}\n}\nhandle {\nrespond fallback\n}", "/in/deep/a", "/a"},
		{"inside of one", "handle_path /in/* {\n%s handle {\n%s}\n}\nhandle {\nrespond fallback\n}", "/in/a", "/a"},
		{"exclusive rewrites", "%s handle {\n" + grouped + "%s}", "/in/a", "/first/in/a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var seen gatewaytest.AttemptLog
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(gatewaytest.AcceptOnly("token-2")))
			g := gatewaytest.Start(t, fmt.Sprintf(test.site, endpoint.Options(), gatewaytest.ProxyTo(upstream)))
			gatewaytest.CheckAnswer(t, g.Post(test.path, "text/plain", "payload"), 200, "payload")
			all := seen.All()
			if len(all) != 2 || all[0].URI != test.want || all[1].URI != test.want {
				t.Errorf("the upstream got %+v, want %s twice", all, test.want)
			}
		})
	}
}

func TestHandlersAroundSeeTheFinalAnswerAlone(t *testing.T) {
	page := strings.Repeat("compressible ", 1000)
	valid := "token-2"
	var mu sync.Mutex
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if gatewaytest.Bearer(r) != valid {
			gatewaytest.RejectToken(w)
			_, _ = io.WriteString(w, strings.Repeat("rejected ", 500))
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
	})
	endpoint := gatewaytest.StartTokenServer(t)
	g := gatewaytest.Start(t, "encode gzip\nintercept {\n@rejected status 401\nhandle_response @rejected {\nrespond intercepted 418\n}\n}\n"+
		endpoint.Options()+gatewaytest.ProxyTo(upstream))
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("Accept-Encoding", "gzip")
	a := g.Do(req)
	if a.Status != 200 || a.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("got %d with %v", a.Status, a.Header)
	}
	unpacked, err := gzip.NewReader(strings.NewReader(a.Body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(unpacked); err != nil || string(text) != page {
		t.Errorf("got %s, %v", gatewaytest.Excerpt(string(text)), err)
	}
	mu.Lock()
	valid = "none"
	mu.Unlock()
	gatewaytest.CheckAnswer(t, g.Get("/"), 418, "intercepted")
}

func TestNothingOfADroppedResponseReachesTheClient(t *testing.T) {
	for _, way := range gatewaytest.UpstreamProtocols {
		t.Run(way.Name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if gatewaytest.Bearer(r) == "token-1" {
					header := w.Header()
					header.Set("Set-Cookie", "rejected=1")
					header.Set("X-Rejected", "yes")
					header.Set("X-Both", "rejected")
					header.Set("Trailer", "X-Late")
					gatewaytest.RejectToken(w)
					_, _ = io.WriteString(w, "no")
					header.Set("X-Late", "rejected")
					return
				}
				w.Header().Set("X-Both", "accepted")
				w.Header().Set("Set-Cookie", "session=2")
				_, _ = io.WriteString(w, "yes")
			})
			g := gatewaytest.Start(t, "header X-Early kept\nheader >X-Deferred kept\n"+endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
			a := g.Get("/")
			gatewaytest.CheckAnswer(t, a, 200, "yes")
			for name, want := range map[string][]string{
				"X-Early": {"kept"}, "X-Deferred": {"kept"}, "X-Both": {"accepted"}, "Set-Cookie": {"session=2"},
				"X-Rejected": nil, "Www-Authenticate": nil, "Trailer": nil,
			} {
				if got := a.Header[name]; !slices.Equal(got, want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if via := a.Header["Via"]; len(via) != 1 || len(a.Trailer) != 0 {
				t.Errorf("Via is %q, trailers are %v", via, a.Trailer)
			}
		})
	}
}

// A rejection whose body does not end, or never comes, is cut off: the client gets
// its answer, the upstream sees the first request cancelled.
func TestRejectionWithoutEndIsCutOff(t *testing.T) {
	rejections := map[string]func(http.ResponseWriter, *http.Request){
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for data := make([]byte, 16<<10); ; {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		},
		"silent": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // fails, or the context ends
			<-r.Context().Done()
		},
	}
	first, second := gatewaytest.NumberedText(50<<10), strings.Repeat("second half, ", 5000)
	var sites []string
	var runs []func(*gatewaytest.Gateway)
	var names []string
	for name, goOn := range rejections {
		for _, way := range gatewaytest.UpstreamProtocols {
			for _, request := range []string{"GET", "POST, read", "POST, half read"} {
				cancelled, resumed := make(chan struct{}), make(chan struct{})
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					start := make([]byte, len(first))
					n, _ := io.ReadFull(r.Body, start)
					if gatewaytest.Bearer(r) == "token-1" {
						if request == "POST, read" {
							_, _ = io.Copy(io.Discard, r.Body)
						}
						gatewaytest.AnswerEarly(w, r)
						gatewaytest.RejectToken(w)
						_ = http.NewResponseController(w).Flush()
						goOn(w, r)
						close(cancelled)
						return
					}
					close(resumed)
					rest, _ := io.ReadAll(r.Body)
					_, _ = w.Write(append(start[:n], rest...))
				})
				names = append(names, name+", "+way.Name+", "+request)
				sites = append(sites, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				runs = append(runs, func(g *gatewaytest.Gateway) {
					req, want := gatewaytest.ClientRequest(g.T, http.MethodGet, g.URL("/"), nil), ""
					switch request {
					case "POST, read":
						want = first + second
						req = gatewaytest.ClientRequest(g.T, http.MethodPost, g.URL("/"), io.MultiReader(strings.NewReader(want)))
						req.Trailer = http.Header{"X-Checksum": {"abc"}}
					case "POST, half read":
						want = first + second
						req = gatewaytest.ClientRequest(g.T, http.MethodPost, g.URL("/"), gatewaytest.InTwoParts(first, second, resumed))
					}
					gatewaytest.CheckAnswer(g.T, g.Do(req), 200, want)
					gatewaytest.AwaitSignal(g.T, "cancellation of the first attempt", cancelled)
				})
			}
		}
	}
	gateways := gatewaytest.StartSites(t, sites...)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs[i](gateways[i].For(t))
		})
	}
}

func TestConnectionOfASmallRejectionIsUsedAgain(t *testing.T) {
	for _, way := range gatewaytest.UpstreamProtocols {
		t.Run(way.Name, func(t *testing.T) {
			var mu sync.Mutex
			var connections []string
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				connections = append(connections, r.RemoteAddr)
				mu.Unlock()
				if gatewaytest.Bearer(r) == "token-1" {
					gatewaytest.RejectToken(w)
					_, _ = io.WriteString(w, gatewaytest.NumberedText(10<<10))
				}
			})
			g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
			gatewaytest.CheckAnswer(t, g.Get("/"), 200, "")
			if len(connections) != 2 || connections[0] != connections[1] {
				t.Errorf("attempts over %q, want one connection", connections)
			}
		})
	}
}
