package oauthcc

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// projected is an assertion of that number, as Kubernetes writes it, and as large as some are.
func projected(t testing.TB, number int, ends time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": "https://kubernetes.example.com", "sub": "system:serviceaccount:shop:gateway", "aud": []string{"partner"},
		"exp": ends.Unix(), "number": number, "more": strings.Repeat("x", 3800),
	})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(claims) + "." + encode([]byte("signature"))
}

// assertedGateway makes a gateway with a client_assertion from a file, before an endpoint that notes what it gets.
func assertedGateway(t *testing.T, file string) (g *virtualGateway, sent func() []string) {
	t.Helper()
	g = newVirtualGateway(t, &Handler{ClientID: "-", ClientAssertion: &ClientAssertion{Value: "{file." + file + "}"}})
	var mu sync.Mutex
	var list []string
	g.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		_ = req.ParseForm()
		mu.Lock()
		list = append(list, req.PostForm.Get("client_assertion"))
		mu.Unlock()
		return g.endpoint.RoundTrip(req)
	})
	return g, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

// The file is a link that is swapped, as on a volume of Kubernetes, and ends in a line break.
func TestReplacedAssertionIsUsedForTheNextTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "token")
		var want []string
		write := func(number int) {
			assertion := projected(t, number, time.Now().Add(time.Hour))
			want = append(want, assertion)
			version := filepath.Join(dir, "..data_"+string(rune('a'+number)))
			servertest.WriteFile(t, version, assertion+"\n")
			if err := os.Symlink(version, file+".next"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file+".next", file); err != nil {
				t.Fatal(err)
			}
		}
		write(1)
		g, sent := assertedGateway(t, file)
		g.endpoint.expiresIn = "600"
		if a := g.mustGet(); a.token != "token-1" || len(want[0]) < 5000 {
			t.Errorf("got %+v for an assertion of %d bytes", a, len(want[0]))
		}
		key := g.tokens.key
		write(2)
		if a := g.mustGet(); a.token != "token-1" || g.endpoint.count() != 1 {
			t.Errorf("a new assertion made another token: %+v", a)
		}
		time.Sleep(601 * time.Second)
		if a := g.mustGet(); a.token != "token-2" {
			t.Errorf("got %+v", a)
		}
		if got := sent(); !slices.Equal(got, want) {
			t.Errorf("sent %.100q", got)
		}
		if key != g.tokens.key {
			t.Error("it is another grant")
		}
	})
}

func TestAssertionThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		g, sent := assertedGateway(t, file)
		if a := g.get(); a.status != 502 || a.cause != "refused" || len(sent()) != 0 {
			t.Errorf("without an assertion got %+v, and %d were sent", a, len(sent()))
		}
		whole := projected(t, 1, time.Now().Add(time.Hour))
		for _, content := range []string{"", "\n", whole[:40], whole[:5000]} { // it is just being written
			servertest.WriteFile(t, file, content)
			time.Sleep(2 * time.Second)
			if a := g.get(); a.status != 502 || len(sent()) != 0 {
				t.Errorf("with %q got %+v, and %d were sent", content, a, len(sent()))
			}
		}
		servertest.WriteFile(t, file, whole)
		start := time.Now()
		for g.get().status != 200 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it is used after %s", took)
		}
	})
}

func TestAssertionThatHasEndedWaitsForItsRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		servertest.WriteFile(t, file, projected(t, 1, time.Now().Add(time.Minute)))
		g, sent := assertedGateway(t, file)
		g.endpoint.expiresIn = "120"
		g.mustGet()
		time.Sleep(121 * time.Second)
		if a := g.get(); a.status != 502 || a.cause != "refused" || len(sent()) != 1 {
			t.Errorf("got %+v, and %d were sent", a, len(sent()))
		}
		if log := g.log(); !strings.Contains(log, "client_assertion: it ended at ") || !strings.Contains(log, "1m1s ago by this machine's clock; whatever writes it has to renew it") {
			t.Errorf("logged %s", log)
		}
		servertest.WriteFile(t, file, projected(t, 2, time.Now().Add(time.Hour)))
		start := time.Now()
		for g.get().status != 200 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the next one is used after %s", took)
		}
		if strings.Contains(g.log(), sent()[0][:60]) {
			t.Error("an assertion was logged")
		}
	})
}
