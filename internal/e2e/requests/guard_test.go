package requests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestEarlyHintsReachTheClient(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Link", "</"+gatewaytest.Bearer(r)+".css>; rel=preload")
					w.WriteHeader(http.StatusEarlyHints)
					w.Header().Del("Link")
					gatewaytest.AcceptOnly("token-2")(w, r)
				})
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				for i, want := range []string{"[</token-1.css>; rel=preload </token-2.css>; rel=preload]", "[</token-2.css>; rel=preload]"} {
					var links []string
					trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
						links = append(links, header.Get("Link"))
						return nil
					}}
					req := gatewaytest.ClientRequest(t, http.MethodPost, base, strings.NewReader("payload"))
					a := protocol.Exchange(t, client, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
					gatewaytest.CheckAnswer(t, a, 200, "payload")
					if got := fmt.Sprint(links); got != want || a.Header.Get("Link") != "" {
						t.Errorf("request %d: hints %s, want %s; the answer has Link %q", i, got, want, a.Header.Get("Link"))
					}
				}
			})
		}
	}
}

// A client gives up when there are too many hints, so it gets none twice. What is for the gateway alone
// reaches it in no part of an answer.
func TestHintsReachTheClientOnceWithoutTheNonce(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				server := gatewaytest.StartBindingServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					for n := range 3 {
						w.Header().Set("DPoP-Nonce", "nonce-canary")
						w.Header().Set("Link", fmt.Sprintf("</%d.css>; rel=preload", n))
						w.WriteHeader(http.StatusEarlyHints)
					}
					clear(w.Header())
					if r.Header.Get("Authorization") != "DPoP token-2" {
						gatewaytest.RejectToken(w)
						return
					}
					w.Header().Set("Trailer", "DPoP-Nonce, X-Other")
					_, _ = io.WriteString(w, "payload")
					_ = http.NewResponseController(w).Flush()
					w.Header().Set("DPoP-Nonce", "nonce-canary")
					w.Header().Set("X-Other", "other")
					w.Header().Set(http.TrailerPrefix+"X-Late", "late")
				})
				_, base, client := protocol.Start(t, server.Options("dpop "+upstream.URL)+gatewaytest.ProxyTo(upstream, way.Option))
				links := ""
				trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					links += header.Get("Link") + header.Get("DPoP-Nonce") + " "
					return nil
				}}
				req := gatewaytest.ClientRequest(t, http.MethodGet, base, nil)
				a := protocol.Exchange(t, client, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
				gatewaytest.CheckAnswer(t, a, 200, "payload")
				if want := "</0.css>; rel=preload </1.css>; rel=preload </2.css>; rel=preload "; links != want {
					t.Errorf("hints %q, want %q", links, want)
				}
				if a.Trailer.Get("X-Other") != "other" || strings.Contains(fmt.Sprint(a), "nonce-canary") || strings.Contains(strings.ToLower(fmt.Sprint(a)), "dpop-nonce") {
					t.Errorf("got %+v", a)
				}
			})
		}
	}
}

func TestEventsArriveOneByOne(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				next := make(chan struct{})
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if gatewaytest.Bearer(r) != "token-2" {
						gatewaytest.RejectToken(w)
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
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				res, err := client.Do(gatewaytest.ClientRequest(t, http.MethodGet, base, nil))
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
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "X-Announced")
					if gatewaytest.Bearer(r) != "token-2" {
						gatewaytest.RejectToken(w)
					}
					_, _ = io.WriteString(w, "body")
					_ = http.NewResponseController(w).Flush() // else it has a length, and then no trailers
					w.Header().Set("X-Announced", gatewaytest.Bearer(r))
					w.Header().Set(http.TrailerPrefix+"X-Late", gatewaytest.Bearer(r))
				})
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				a := protocol.Exchange(t, client, gatewaytest.ClientRequest(t, http.MethodGet, base, nil))
				gatewaytest.CheckAnswer(t, a, 200, "body")
				if a.Trailer.Get("X-Announced") != "token-2" || a.Trailer.Get("X-Late") != "token-2" {
					t.Errorf("trailers are %v", a.Trailer)
				}
			})
		}
	}
}

// A server can end a stream that the client still has open.
func TestResponseEndsBeforeTheRequest(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols[1:] { // HTTP/1.1 has no such streams
		t.Run(protocol.Name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				_, _ = io.CopyN(w, r.Body, int64(len("message")))
				w.Header().Set(http.TrailerPrefix+"X-Status", "done")
			})
			_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, gatewaytest.UpstreamProtocols[1].Option))
			body, writer := io.Pipe()
			defer writer.Close()
			res, err := client.Do(gatewaytest.ClientRequest(t, http.MethodPost, base, body))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.WriteString(writer, "message"); err != nil {
				t.Fatal(err)
			}
			text := make(chan string, 1)
			go func() {
				all, _ := io.ReadAll(res.Body)
				text <- string(all)
			}()
			got := gatewaytest.AwaitSignal(t, "the end of the response", text)
			if status := res.Trailer.Get("X-Status"); got != "message" || status != "done" {
				t.Errorf("got %q, trailers %v", got, res.Trailer)
			}
		})
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if gatewaytest.Bearer(r) != "token-2" {
						gatewaytest.RejectToken(w)
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
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				for _, test := range []struct {
					method, path string
					status       int
					length       string
				}{{"HEAD", "/", 200, "1234"}, {"GET", "/204", 204, ""}, {"GET", "/304", 304, ""}, {"HEAD", "/", 200, "1234"}} {
					a := protocol.Exchange(t, client, gatewaytest.ClientRequest(t, test.method, base+test.path, nil))
					gatewaytest.CheckAnswer(t, a, test.status, "")
					if a.Header.Get("Etag") != `"1"` || a.Header.Get("Content-Length") != test.length {
						t.Errorf("%s %s: header is %v", test.method, test.path, a.Header)
					}
				}
			})
		}
	}
}

// echoUpgrades is an API that switches to a protocol in which it echoes.
func echoUpgrades(w http.ResponseWriter, r *http.Request) {
	if gatewaytest.Bearer(r) != "token-2" {
		gatewaytest.RejectToken(w)
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
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, echoUpgrades)
			g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
			conn := gatewaytest.DialFor(t, g.Addr)
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: authorization, Upgrade\r\nUpgrade: %s\r\n\r\n", g.Addr, upgrade)
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
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, echoUpgrades)
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	conn := gatewaytest.DialFor(t, g.Addr)
	client := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) {
		return conn, nil
	}}}
	reader, writer := io.Pipe()
	req := gatewaytest.ClientRequest(t, http.MethodConnect, g.URL("/"), reader)
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

func TestLargeDownloads(t *testing.T) {
	content := gatewaytest.NumberedText(8 * mebibyte)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "large"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range gatewaytest.ClientProtocols {
		t.Run(protocol.Name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if gatewaytest.Bearer(r) != "token-2" {
					gatewaytest.RejectToken(w)
					return
				}
				_, _ = io.WriteString(w, content)
			})
			_, base, client := protocol.Start(t, endpoint.Options()+"root "+root+"\nhandle /large {\nfile_server\n}\n"+gatewaytest.ProxyTo(upstream))
			for _, path := range []string{"/large", "/proxied"} {
				gatewaytest.CheckAnswer(t, protocol.Exchange(t, client, gatewaytest.ClientRequest(t, http.MethodGet, base+path, nil)), 200, content)
			}
		})
	}
}

// A client that leaves ends what was done for it, whichever attempt is on its way.
func TestClientThatLeavesEndsTheAttempt(t *testing.T) {
	for _, rejected := range []string{"", "token-1"} {
		for _, protocol := range gatewaytest.ClientProtocols {
			for _, way := range gatewaytest.UpstreamProtocols {
				t.Run(fmt.Sprintf("rejected %q, %s, %s", rejected, protocol.Name, way.Name), func(t *testing.T) {
					arrived, ended := make(chan struct{}), make(chan struct{})
					endpoint := gatewaytest.StartTokenServer(t)
					upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body)
						if gatewaytest.Bearer(r) == rejected {
							gatewaytest.RejectToken(w)
							return
						}
						close(arrived)
						<-r.Context().Done()
						close(ended)
					})
					_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
					ctx, leave := context.WithCancel(context.Background())
					defer leave()
					left := make(chan error)
					req := gatewaytest.ClientRequest(t, http.MethodPost, base, strings.NewReader("payload")).WithContext(ctx)
					go func() {
						_, err := gatewaytest.Exchange(client, req)
						left <- err
					}()
					gatewaytest.AwaitSignal(t, "the request", arrived)
					leave()
					if err := gatewaytest.AwaitSignal(t, "the client", left); err == nil {
						t.Error("the client got an answer")
					}
					gatewaytest.AwaitSignal(t, "end of the attempt", ended)
				})
			}
		}
	}
}

// A response that breaks off does not look complete to the client.
func TestUpstreamThatDiesAbortsTheResponse(t *testing.T) {
	for _, rejected := range []string{"", "token-1"} {
		for _, protocol := range gatewaytest.ClientProtocols {
			t.Run(fmt.Sprintf("rejected %q, %s", rejected, protocol.Name), func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if gatewaytest.Bearer(r) == rejected {
						gatewaytest.RejectToken(w)
						return
					}
					_, _ = io.WriteString(w, "half an ans")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				})
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
				a, err := gatewaytest.Exchange(client, gatewaytest.ClientRequest(t, http.MethodGet, base, nil))
				if err == nil {
					t.Errorf("the client got a complete answer: %d %q", a.Status, a.Body)
				}
				if a.Status != 200 || a.Body != "half an ans" {
					t.Errorf("got %d %q", a.Status, a.Body)
				}
			})
		}
	}
}
