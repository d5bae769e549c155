package oauthcc

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
)

const mebibyte = 1 << 20

// wholeBody makes rejectAfter read to the end.
const wholeBody = 1 << 30

// rejectAfter is an API that rejects token-1 once it has read so much of a body, and
// goes on reading it afterwards if asked to. It tells what it accepted.
func rejectAfter(read int64, goOn bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) != "token-1" {
			acceptOnly("token-2")(w, r)
			return
		}
		if read != wholeBody {
			answerEarly(w, r)
		}
		_, _ = io.CopyN(io.Discard, r.Body, read)
		rejectToken(w)
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
		body := numberedText(test.size)
		for _, way := range upstreamProtocols[:test.ways] {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, chunked %t", test.name, way.name, chunked), func(t *testing.T) {
					var seen attemptLog
					endpoint, upstream := startTokenServer(t), startScriptedAPI(t, seen.observe(rejectAfter(test.read, test.goOn)))
					g := startGateway(t, endpoint.options()+proxyTo(upstream, way.option))
					var reader io.Reader = strings.NewReader(body)
					if chunked {
						reader = io.MultiReader(reader)
					}
					checkAnswer(t, g.do(clientRequest(t, http.MethodPost, g.url("/"), reader)), 200, body)
					if got := seen.tokens(); got != "token-1 token-2" {
						t.Errorf("the upstream got the tokens %q", got)
					}
				})
			}
		}
	}
}

// Over HTTP/1.1 the upstream may reject a request before it reads any of the body.
func TestRequestThatIsRejectedUnreadIsReplayed(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startScriptedAPI(t, rejectAfter(0, false))
	g := startGateway(t, endpoint.options()+proxyTo(upstream))
	body := numberedText(900 << 10)
	checkAnswer(t, g.post("/", "text/plain", body), 200, body)
}

func TestBodyLargerThanTheBufferIsNotReplayed(t *testing.T) {
	for _, way := range upstreamProtocols {
		t.Run(way.name, func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, acceptOnly("token-2"))
			g := startGateway(t, endpoint.options()+proxyTo(upstream, way.option))
			body := numberedText(5 * mebibyte)
			a := g.post("/", "text/plain", body)
			if a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("got %d with %v, want the upstream's 401", a.status, a.header)
			}
			awaitCondition(t, "renewal in the background", func() bool { return endpoint.count() == 2 })
			awaitCondition(t, "the new token in use", func() bool { return g.get("/").status == 200 })
			checkAnswer(t, g.post("/", "text/plain", body), 200, body)
		})
	}
}

// With Expect: 100-continue nothing of the body is sent before the upstream asks for
// it, so it can be replayed whatever its size.
func TestUnreadBodyOfAnySizeIsReplayed(t *testing.T) {
	for _, protocol := range clientProtocols {
		t.Run(protocol.name, func(t *testing.T) {
			var seen attemptLog
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, seen.observe(rejectAfter(0, false)))
			options := "transport http {\nexpect_continue_timeout 5s\n}\n"
			if protocol.version != "HTTP/1.1" {
				options += "header_up Expect 100-continue" // Go's HTTP/2 server keeps the header to itself
			}
			_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, options))
			body := numberedText(5 * mebibyte)
			req := clientRequest(t, http.MethodPost, base, strings.NewReader(body))
			req.Header.Set("Expect", "100-continue")
			checkAnswer(t, protocol.exchange(t, client, req), 200, body)
			if got := seen.tokens(); got != "token-1 token-2" {
				t.Errorf("the upstream got the tokens %q", got)
			}
		})
	}
}

func TestTrailersArriveAfterAReplay(t *testing.T) {
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				told := make(chan http.Header, 1)
				endpoint, upstream := startTokenServer(t), startScriptedAPI(t, trailersFrom("token-1", told))
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				req := clientRequest(t, http.MethodPost, base, io.MultiReader(strings.NewReader(numberedText(100<<10))))
				req.Trailer = http.Header{"X-Checksum": {"abc"}, "X-Signed": {"yes"}}
				if a := protocol.exchange(t, client, req); a.status != 200 {
					t.Fatalf("got %d %q", a.status, a.body)
				}
				if got := awaitSignal(t, "trailers", told); !maps.EqualFunc(got, req.Trailer, slices.Equal) {
					t.Errorf("the upstream got the trailers %v, want %v", got, req.Trailer)
				}
			})
		}
	}
}

// The second half of the body is sent only when the first has arrived twice.
func TestSlowBodyArrivesOnceAndInOrder(t *testing.T) {
	first, second := numberedText(70<<10), strings.Repeat("second half, ", 5000)
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				resumed := make(chan struct{})
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					start := make([]byte, len(first))
					if _, err := io.ReadFull(r.Body, start); err != nil || bearer(r) == "token-1" {
						answerEarly(w, r)
						rejectToken(w)
						return
					}
					close(resumed)
					rest, _ := io.ReadAll(r.Body)
					_, _ = w.Write(append(start, rest...))
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				req := clientRequest(t, http.MethodPost, base, inTwoParts(first, second, resumed))
				checkAnswer(t, protocol.exchange(t, client, req), 200, first+second)
			})
		}
	}
}

func TestTotalOfTheReplayBufferIsBounded(t *testing.T) {
	endpoint := startTokenServer(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) == "token-1" {
			_, _ = io.Copy(io.Discard, r.Body)
			arrived <- struct{}{}
			<-release
			rejectToken(w)
			return
		}
		acceptOnly("token-2")(w, r)
	})
	g := startGateway(t, endpoint.options("replay_buffer 64KiB 128KiB")+proxyTo(upstream))
	bodies := make([]string, 4)
	answers := make([]answer, len(bodies))
	var wait sync.WaitGroup
	for i := range bodies {
		bodies[i] = strings.Repeat(fmt.Sprint(i), 64<<10)
		wait.Go(func() { answers[i] = g.post("/", "text/plain", bodies[i]) })
		awaitSignal(t, "the body", arrived) // the buffer fills in this order
	}
	close(release)
	wait.Wait()
	for i := range bodies[:2] {
		checkAnswer(t, answers[i], 200, bodies[i])
	}
	for i := range bodies[2:] {
		checkAnswer(t, answers[i+2], 401, "")
	}
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// A buffer that was full is there for later requests.
func TestReplayBufferIsGivenBack(t *testing.T) {
	endpoint := startTokenServer(t)
	var revoked sync.Map
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, ok := revoked.Load(bearer(r)); ok {
			rejectToken(w)
			return
		}
		_, _ = w.Write(body)
	})
	g := startGateway(t, endpoint.options("replay_buffer 64KiB 64KiB")+proxyTo(upstream))
	body := numberedText(60 << 10)
	for range 3 {
		checkAnswer(t, g.post("/", "text/plain", body), 200, body)
		checkAnswer(t, g.post("/", "text/plain", body+body), 200, body+body) // outgrows it
	}
	revoked.Store("token-1", true)
	checkAnswer(t, g.post("/", "text/plain", body), 200, body)
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
			var seen attemptLog
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, seen.observe(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if strings.HasPrefix(bearer(r), "token-1") {
					rejectToken(w)
					return
				}
				_, _ = w.Write(body)
			}))
			g := startGateway(t, "route {\n"+endpoint.options()+test.handlers+"\n"+proxyTo(upstream,
				"header_up X-Uri {http.request.uri}", "header_up X-Orig {http.request.orig_uri}", "header_up X-Method {http.request.method}",
				"header_up X-Copy {http.request.header.X-Set}", "header_up X-Token-Then {http.request.header.Authorization}")+"}")
			req := clientRequest(t, http.MethodPost, g.url("/in/a?q=1"), strings.NewReader("payload"))
			for _, name := range []string{"X-Set", "X-Add", "X-Drop", "X-Replace"} {
				req.Header[name] = []string{"a", "ba"}
			}
			checkAnswer(t, g.do(req), 200, "payload")
			all := seen.all()
			if len(all) != 2 {
				t.Fatalf("%d attempts, want 2", len(all))
			}
			for i, token := range []string{"token-1", "token-2"} {
				for _, name := range []string{"Authorization", "X-Token-Then"} {
					if got := all[i].header.Get(name); !strings.HasPrefix(got, "Bearer "+token) {
						t.Errorf("attempt %d has %s %q", i+1, name, got)
					}
					all[i].header.Set(name, strings.Replace(all[i].header.Get(name), token, "", 1))
				}
				if all[i].uri != test.uri || all[i].header.Get("X-Uri") != test.uri || all[i].header.Get("X-Orig") != "/in/a?q=1" {
					t.Errorf("attempt %d went to %s with %v", i+1, all[i].uri, all[i].header)
				}
			}
			if all[0].method != all[1].method || all[0].host != all[1].host || !maps.EqualFunc(all[0].header, all[1].header, slices.Equal) {
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
			var seen attemptLog
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, seen.observe(acceptOnly("token-2")))
			g := startGateway(t, fmt.Sprintf(test.site, endpoint.options(), proxyTo(upstream)))
			checkAnswer(t, g.post(test.path, "text/plain", "payload"), 200, "payload")
			all := seen.all()
			if len(all) != 2 || all[0].uri != test.want || all[1].uri != test.want {
				t.Errorf("the upstream got %+v, want %s twice", all, test.want)
			}
		})
	}
}

func TestHandlersAroundSeeTheFinalAnswerAlone(t *testing.T) {
	page := strings.Repeat("compressible ", 1000)
	valid := "token-2"
	var mu sync.Mutex
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if bearer(r) != valid {
			rejectToken(w)
			_, _ = io.WriteString(w, strings.Repeat("rejected ", 500))
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
	})
	endpoint := startTokenServer(t)
	g := startGateway(t, "encode gzip\nintercept {\n@rejected status 401\nhandle_response @rejected {\nrespond intercepted 418\n}\n}\n"+
		endpoint.options()+proxyTo(upstream))
	req := clientRequest(t, http.MethodGet, g.url("/"), nil)
	req.Header.Set("Accept-Encoding", "gzip")
	a := g.do(req)
	if a.status != 200 || a.header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("got %d with %v", a.status, a.header)
	}
	unpacked, err := gzip.NewReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(unpacked); err != nil || string(text) != page {
		t.Errorf("got %s, %v", excerpt(string(text)), err)
	}
	mu.Lock()
	valid = "none"
	mu.Unlock()
	checkAnswer(t, g.get("/"), 418, "intercepted")
}

func TestNothingOfADroppedResponseReachesTheClient(t *testing.T) {
	for _, way := range upstreamProtocols {
		t.Run(way.name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if bearer(r) == "token-1" {
					header := w.Header()
					header.Set("Set-Cookie", "rejected=1")
					header.Set("X-Rejected", "yes")
					header.Set("X-Both", "rejected")
					header.Set("Trailer", "X-Late")
					rejectToken(w)
					_, _ = io.WriteString(w, "no")
					header.Set("X-Late", "rejected")
					return
				}
				w.Header().Set("X-Both", "accepted")
				w.Header().Set("Set-Cookie", "session=2")
				_, _ = io.WriteString(w, "yes")
			})
			g := startGateway(t, "header X-Early kept\nheader >X-Deferred kept\n"+endpoint.options()+proxyTo(upstream, way.option))
			a := g.get("/")
			checkAnswer(t, a, 200, "yes")
			for name, want := range map[string][]string{
				"X-Early": {"kept"}, "X-Deferred": {"kept"}, "X-Both": {"accepted"}, "Set-Cookie": {"session=2"},
				"X-Rejected": nil, "Www-Authenticate": nil, "Trailer": nil,
			} {
				if got := a.header[name]; !slices.Equal(got, want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if via := a.header["Via"]; len(via) != 1 || len(a.trailer) != 0 {
				t.Errorf("Via is %q, trailers are %v", via, a.trailer)
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
	first, second := numberedText(50<<10), strings.Repeat("second half, ", 5000)
	for name, goOn := range rejections {
		for _, way := range upstreamProtocols {
			for _, request := range []string{"GET", "POST, read", "POST, half read"} {
				t.Run(name+", "+way.name+", "+request, func(t *testing.T) {
					cancelled, resumed := make(chan struct{}), make(chan struct{})
					endpoint := startTokenServer(t)
					upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
						start := make([]byte, len(first))
						n, _ := io.ReadFull(r.Body, start)
						if bearer(r) == "token-1" {
							if request == "POST, read" {
								_, _ = io.Copy(io.Discard, r.Body)
							}
							answerEarly(w, r)
							rejectToken(w)
							_ = http.NewResponseController(w).Flush()
							goOn(w, r)
							close(cancelled)
							return
						}
						close(resumed)
						rest, _ := io.ReadAll(r.Body)
						_, _ = w.Write(append(start[:n], rest...))
					})
					g := startGateway(t, endpoint.options()+proxyTo(upstream, way.option))
					req, want := clientRequest(t, http.MethodGet, g.url("/"), nil), ""
					switch request {
					case "POST, read":
						want = first + second
						req = clientRequest(t, http.MethodPost, g.url("/"), io.MultiReader(strings.NewReader(want)))
						req.Trailer = http.Header{"X-Checksum": {"abc"}}
					case "POST, half read":
						want = first + second
						req = clientRequest(t, http.MethodPost, g.url("/"), inTwoParts(first, second, resumed))
					}
					checkAnswer(t, g.do(req), 200, want)
					awaitSignal(t, "cancellation of the first attempt", cancelled)
				})
			}
		}
	}
}

func TestConnectionOfASmallRejectionIsUsedAgain(t *testing.T) {
	for _, way := range upstreamProtocols {
		t.Run(way.name, func(t *testing.T) {
			var mu sync.Mutex
			var connections []string
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				connections = append(connections, r.RemoteAddr)
				mu.Unlock()
				if bearer(r) == "token-1" {
					rejectToken(w)
					_, _ = io.WriteString(w, numberedText(10<<10))
				}
			})
			g := startGateway(t, endpoint.options()+proxyTo(upstream, way.option))
			checkAnswer(t, g.get("/"), 200, "")
			if len(connections) != 2 || connections[0] != connections[1] {
				t.Errorf("attempts over %q, want one connection", connections)
			}
		})
	}
}
