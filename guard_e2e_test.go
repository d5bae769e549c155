package oauthcc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestEarlyHintsReachTheClient(t *testing.T) {
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Link", "</"+bearer(r)+".css>; rel=preload")
					w.WriteHeader(http.StatusEarlyHints)
					w.Header().Del("Link")
					acceptOnly("token-2")(w, r)
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				for i, want := range []string{"[</token-1.css>; rel=preload </token-2.css>; rel=preload]", "[</token-2.css>; rel=preload]"} {
					var links []string
					trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
						links = append(links, header.Get("Link"))
						return nil
					}}
					req := clientRequest(t, http.MethodPost, base, strings.NewReader("payload"))
					a := protocol.exchange(t, client, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
					checkAnswer(t, a, 200, "payload")
					if got := fmt.Sprint(links); got != want || a.header.Get("Link") != "" {
						t.Errorf("request %d: hints %s, want %s; the answer has Link %q", i, got, want, a.header.Get("Link"))
					}
				}
			})
		}
	}
}

func TestEventsArriveOneByOne(t *testing.T) {
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				next := make(chan struct{})
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if bearer(r) != "token-2" {
						rejectToken(w)
						return
					}
					w.Header().Set("Content-Type", "text/event-stream")
					for i := range 3 {
						fmt.Fprintf(w, "data: %d\n\n", i)
						_ = http.NewResponseController(w).Flush()
						select {
						case <-next:
						case <-r.Context().Done():
							return
						}
					}
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				res, err := client.Do(clientRequest(t, http.MethodGet, base, nil))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				for i := range 3 {
					event := make([]byte, len("data: 0\n\n"))
					if _, err := io.ReadFull(res.Body, event); err != nil || string(event) != fmt.Sprintf("data: %d\n\n", i) {
						t.Fatalf("event %d: %q, %v", i, event, err)
					}
					next <- struct{}{}
				}
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
					t.Errorf("the stream ends with %q, %v", rest, err)
				}
			})
		}
	}
}

func TestResponseTrailersReachTheClient(t *testing.T) {
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "X-Announced")
					if bearer(r) != "token-2" {
						rejectToken(w)
					}
					_, _ = io.WriteString(w, "body")
					_ = http.NewResponseController(w).Flush() // else it has a length, and then no trailers
					w.Header().Set("X-Announced", bearer(r))
					w.Header().Set(http.TrailerPrefix+"X-Late", bearer(r))
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				a := protocol.exchange(t, client, clientRequest(t, http.MethodGet, base, nil))
				checkAnswer(t, a, 200, "body")
				if a.trailer.Get("X-Announced") != "token-2" || a.trailer.Get("X-Late") != "token-2" {
					t.Errorf("trailers are %v", a.trailer)
				}
			})
		}
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if bearer(r) != "token-2" {
						rejectToken(w)
						return
					}
					w.Header().Set("Etag", `"1"`)
					switch r.URL.Path {
					case "/204":
						w.WriteHeader(http.StatusNoContent)
					case "/304":
						w.WriteHeader(http.StatusNotModified)
					default:
						w.Header().Set("Content-Length", "1234")
					}
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				for _, test := range []struct {
					method, path string
					status       int
					length       string
				}{{"HEAD", "/", 200, "1234"}, {"GET", "/204", 204, ""}, {"GET", "/304", 304, ""}, {"HEAD", "/", 200, "1234"}} {
					a := protocol.exchange(t, client, clientRequest(t, test.method, base+test.path, nil))
					checkAnswer(t, a, test.status, "")
					if a.header.Get("Etag") != `"1"` || a.header.Get("Content-Length") != test.length {
						t.Errorf("%s %s: header is %v", test.method, test.path, a.header)
					}
				}
			})
		}
	}
}

// echoUpgrades is an API that switches to a protocol in which it echoes.
func echoUpgrades(w http.ResponseWriter, r *http.Request) {
	if bearer(r) != "token-2" {
		rejectToken(w)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}

// echo sends lines over an upgraded connection and wants each of them back.
func echo(t testing.TB, w io.Writer, r *bufio.Reader) {
	t.Helper()
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != line {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestUpgradeOverHTTP1(t *testing.T) {
	for _, upgrade := range []string{"websocket", "partner/1"} {
		t.Run(upgrade, func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, echoUpgrades)
			g := startGateway(t, endpoint.options()+proxyTo(upstream))
			conn := dialFor(t, g.addr)
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: authorization, Upgrade\r\nUpgrade: %s\r\n\r\n", g.addr, upgrade)
			reader := bufio.NewReader(conn)
			res, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != 101 || res.Header.Get("Upgrade") != upgrade || res.Header.Get("WWW-Authenticate") != "" {
				t.Fatalf("got %d with %v", res.StatusCode, res.Header)
			}
			echo(t, conn, reader)
		})
	}
}

// Go's HTTP/2 takes extended CONNECT (RFC 8441) only if the process is started so.
func TestUpgradeOverHTTP2(t *testing.T) {
	const setting = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), setting) {
		command := exec.Command(os.Args[0], "-test.run=^TestUpgradeOverHTTP2$", "-test.v")
		command.Env = append(os.Environ(), "GODEBUG="+setting)
		if output, err := command.CombinedOutput(); !bytes.Contains(output, []byte("--- PASS: TestUpgradeOverHTTP2")) {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}
	endpoint, upstream := startTokenServer(t), startScriptedAPI(t, echoUpgrades)
	g := startGateway(t, endpoint.options()+proxyTo(upstream))
	conn := dialFor(t, g.addr)
	client := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) {
		return conn, nil
	}}}
	reader, writer := io.Pipe()
	req := clientRequest(t, http.MethodConnect, g.url("/"), reader)
	req.Header.Set(":protocol", "websocket")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	echoed := bufio.NewReader(res.Body)
	echo(t, writer, echoed)
	_ = writer.Close()
	// The tunnel has to be gone before Caddy stops, which writes to it without a lock.
	if rest, err := io.ReadAll(echoed); err != nil || len(rest) != 0 {
		t.Errorf("the tunnel ends with %q, %v", rest, err)
	}
	_ = res.Body.Close()
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

func (passingJudge) verdict(status int, _ http.Header) (int, bool) { return status, false }

func TestLargeDownloads(t *testing.T) {
	content := numberedText(8 * mebibyte)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "large"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range clientProtocols {
		t.Run(protocol.name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if bearer(r) != "token-2" {
					rejectToken(w)
					return
				}
				_, _ = io.WriteString(w, content)
			})
			_, base, client := protocol.start(t, endpoint.options()+"root "+root+"\nhandle /large {\nfile_server\n}\n"+proxyTo(upstream))
			for _, path := range []string{"/large", "/proxied"} {
				checkAnswer(t, protocol.exchange(t, client, clientRequest(t, http.MethodGet, base+path, nil)), 200, content)
			}
		})
	}
}

// A client that leaves ends what was done for it, whichever attempt is on its way.
func TestClientThatLeavesEndsTheAttempt(t *testing.T) {
	for _, rejected := range []string{"", "token-1"} {
		for _, protocol := range clientProtocols {
			for _, way := range upstreamProtocols {
				t.Run(fmt.Sprintf("rejected %q, %s, %s", rejected, protocol.name, way.name), func(t *testing.T) {
					arrived, ended := make(chan struct{}), make(chan struct{})
					endpoint := startTokenServer(t)
					upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body)
						if bearer(r) == rejected {
							rejectToken(w)
							return
						}
						close(arrived)
						<-r.Context().Done()
						close(ended)
					})
					_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
					ctx, leave := context.WithCancel(context.Background())
					defer leave()
					left := make(chan error)
					req := clientRequest(t, http.MethodPost, base, strings.NewReader("payload")).WithContext(ctx)
					go func() {
						_, err := exchangeWith(client, req)
						left <- err
					}()
					awaitSignal(t, "the request", arrived)
					leave()
					if err := awaitSignal(t, "the client", left); err == nil {
						t.Error("the client got an answer")
					}
					awaitSignal(t, "end of the attempt", ended)
				})
			}
		}
	}
}

// A response that breaks off does not look complete to the client.
func TestUpstreamThatDiesAbortsTheResponse(t *testing.T) {
	for _, rejected := range []string{"", "token-1"} {
		for _, protocol := range clientProtocols {
			t.Run(fmt.Sprintf("rejected %q, %s", rejected, protocol.name), func(t *testing.T) {
				endpoint := startTokenServer(t)
				upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if bearer(r) == rejected {
						rejectToken(w)
						return
					}
					_, _ = io.WriteString(w, "half an ans")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				})
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream))
				a, err := exchangeWith(client, clientRequest(t, http.MethodGet, base, nil))
				if err == nil {
					t.Errorf("the client got a complete answer: %d %q", a.status, a.body)
				}
				if a.status != 200 || a.body != "half an ans" {
					t.Errorf("got %d %q", a.status, a.body)
				}
			})
		}
	}
}
