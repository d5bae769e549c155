package servers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// authorizationServer is a process that serves issuers.
type authorizationServer struct {
	issuers map[string]*issuer

	process *exec.Cmd
	stdin   io.Closer
	stderr  *lockedBuffer
	stopped sync.Once
}

// issuer is an authorization server as its metadata describes it (RFC 8414).
type issuer struct {
	Issuer        string `json:"issuer"`
	TokenEndpoint string `json:"token_endpoint"`
	Introspection string `json:"introspection_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
	JWKS          string `json:"jwks_uri"`

	MTLSAliases struct {
		TokenEndpoint string `json:"token_endpoint"`
	} `json:"mtls_endpoint_aliases"`
}

// The issuers of oidc-provider by name.
const (
	plainIssuer    = "plain"   // over http
	secureIssuer   = "secure"  // over https, with an endpoint for clients with a certificate
	noncesIssuer   = "nonces"  // the same, and it requires nonces in DPoP proofs
	fapiIssuer     = "fapi"    // the same, and it wants itself as audience of assertions
	rfc8414Issuer  = "rfc8414" // the same as secure, below a path, with one metadata document
	oidcOnlyIssuer = "oidc"    // the same, with the other document
)

// The issuers of fosite by name.
const (
	opaqueIssuer = "opaque"
	jwtIssuer    = "jwt"
)

const (
	rfc8414WellKnown = "/.well-known/oauth-authorization-server"
	oidcWellKnown    = "/.well-known/openid-configuration"
)

// startOIDCProvider serves every client with oidc-provider.
func startOIDCProvider(dir string) (*authorizationServer, error) {
	const folder = "oidc-provider"
	script := filepath.Join(folder, "server.mjs")
	if err := dependOn(script); err != nil {
		return nil, err
	}
	if err := installOIDCProvider(folder); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	certificate, err := ca.issue("127.0.0.1")
	if err != nil {
		return nil, err
	}
	config := map[string]any{
		"issuers": []map[string]any{
			{"name": plainIssuer},
			{"name": secureIssuer, "tls": true},
			{"name": noncesIssuer, "tls": true, "require_dpop_nonce": true},
			{"name": fapiIssuer, "tls": true, "require_dpop_nonce": true, "fapi": "2.0"},
			{"name": rfc8414Issuer, "tls": true, "path": "/tenant", "well_known": []string{rfc8414WellKnown}},
			{"name": oidcOnlyIssuer, "tls": true, "path": "/tenant", "well_known": []string{oidcWellKnown}},
		},
		"tls":     map[string]string{"key": certificate.keyPEM, "cert": certificate.pem, "ca": ca.pem},
		"jwks":    jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "server-1", Algorithm: "RS256", Use: "sig"}}},
		"clients": registrations(oidcProviderClients),
	}
	return startServer(dir, "oidc-provider", config, "node", script)
}

// dependOn looks at files that only other processes read. "go test" takes note, and runs
// the tests again when one has changed.
func dependOn(files ...string) error {
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	return nil
}

// installOIDCProvider installs what package-lock.json says, unless that has been done.
func installOIDCProvider(folder string) error {
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		return fmt.Errorf("these tests need Node.js 20 or newer, with npm: %w", err)
	}
	if major := regexp.MustCompile(`\d+`).Find(version); len(major) == 0 || atoi(string(major)) < 20 {
		return fmt.Errorf("these tests need Node.js 20 or newer, and this is %s", bytes.TrimSpace(version))
	}
	lock, err := os.Stat(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		return err
	}
	// npm writes this file last.
	installed, err := os.Stat(filepath.Join(folder, "node_modules", ".package-lock.json"))
	if err == nil && !installed.ModTime().Before(lock.ModTime()) {
		return nil
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	install.Dir = folder
	if output, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in test/%s, which needs npm and its package registry: %w\n%s", folder, err, output)
	}
	return nil
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// startFosite builds and starts the server of the module in the folder fosite.
func startFosite(dir string) (*authorizationServer, error) {
	if err := dependOn("fosite/main.go", "fosite/go.mod"); err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "fosite.exe")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "fosite"
	build.Env = append(os.Environ(), "GOWORK=off") // go.work has the other modules, with which it can't be built
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build in test/fosite: %w\n%s", err, output)
	}
	config := map[string]any{
		"issuers": []map[string]any{{"name": opaqueIssuer}, {"name": jwtIssuer, "jwt": true}},
		"clients": registrations(fositeClients),
	}
	return startServer(dir, "fosite", config, program)
}

// patience bounds the waiting for what must happen soon.
const patience = 30 * time.Second

// startServer starts a process that gets its configuration as a file and prints its
// issuers when it listens.
func startServer(dir, name string, config any, command ...string) (*authorizationServer, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	s := &authorizationServer{stderr: new(lockedBuffer)}
	s.process = exec.Command(command[0], append(command[1:], file)...)
	s.process.Stderr = s.stderr
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if s.stdin, err = s.process.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	if err := s.discover(stdout); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, s.stderr)
	}
	return s, nil
}

// discover reads the line with the issuers, and the metadata of each.
func (s *authorizationServer) discover(stdout io.Reader) error {
	line, timeout := make(chan []byte, 1), time.After(patience)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadBytes('\n')
		line <- text
	}()
	var ready map[string]struct {
		Issuer string `json:"issuer"`
	}
	select {
	case text := <-line:
		if err := json.Unmarshal(text, &ready); err != nil {
			return fmt.Errorf("the process did not print its issuers, but %q", text)
		}
	case <-timeout:
		return errors.New("the process did not print its issuers in time")
	}
	s.issuers = make(map[string]*issuer)
	for name, r := range ready {
		found := new(issuer)
		if err := found.discover(r.Issuer); err != nil {
			return fmt.Errorf("metadata of %s: %w", r.Issuer, err)
		}
		s.issuers[name] = found
	}
	return nil
}

// discover tries both places for metadata.
func (i *issuer) discover(identifier string) error {
	u, err := url.Parse(identifier)
	if err != nil {
		return err
	}
	origin := u.Scheme + "://" + u.Host
	for _, document := range []string{origin + rfc8414WellKnown + u.Path, identifier + oidcWellKnown} {
		res, err := newClient().Get(document)
		if err != nil {
			return err
		}
		err = json.NewDecoder(res.Body).Decode(i)
		res.Body.Close()
		if res.StatusCode == http.StatusOK && err == nil && i.Issuer == identifier {
			return nil
		}
	}
	return errors.New("none found")
}

// stop ends the process.
func (s *authorizationServer) stop() {
	s.stopped.Do(func() {
		s.stdin.Close()
		if s.process.Process.Kill() == nil {
			_ = s.process.Wait() // it was killed
		}
	})
}

// apiClient is the client that protected APIs are at the authorization server.
var apiClient = &client{id: "api", method: "client_secret_basic", secret: "the-secret-of-the-api"}

// tokenInfo is what is known of a token: the claims of a JWT, or of an introspection.
type tokenInfo struct {
	Active   bool     `json:"active"`
	Issuer   string   `json:"iss"`
	ClientID string   `json:"client_id"`
	Scope    string   `json:"scope"`
	Audience audience `json:"aud"`
	Expires  int64    `json:"exp"`

	Confirmation struct {
		X5T string `json:"x5t#S256"`
		JKT string `json:"jkt"`
	} `json:"cnf"`
}

// audience is a string or an array of strings (RFC 7519 §4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(`"`)) {
		*a = make(audience, 1)
		return json.Unmarshal(text, &(*a)[0])
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// introspect asks the server about a token (RFC 7662).
func (i *issuer) introspect(token string) (tokenInfo, error) {
	var info tokenInfo
	text, err := i.postToken(i.Introspection, token)
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal(text, &info)
}

// revoke has the server revoke a token (RFC 7009), and the token is not active then.
func (i *issuer) revoke(t testing.TB, token string) {
	t.Helper()
	if info, err := i.introspect(token); err != nil || !info.Active {
		t.Fatalf("the token to revoke is not active: %v", err)
	}
	if _, err := i.postToken(i.Revocation, token); err != nil {
		t.Fatalf("revoking a token: %v", err)
	}
	if info, err := i.introspect(token); err != nil || info.Active {
		t.Fatalf("the token is active after its revocation: %v", err)
	}
}

func (i *issuer) postToken(endpoint, token string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	form := url.Values{"token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(apiClient.id, apiClient.secret)
	res, err := newClient().Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", endpoint, res.Status, text)
	}
	return text, err
}

// verifyJWT verifies the signature of a JWT access token with the server's keys, its
// issuer and its end.
func (i *issuer) verifyJWT(token string) (tokenInfo, error) {
	info := tokenInfo{}
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return info, fmt.Errorf("not a JWT: %w", err)
	}
	res, err := newClient().Get(i.JWKS)
	if err != nil {
		return info, err
	}
	defer res.Body.Close()
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(res.Body).Decode(&keys); err != nil {
		return info, err
	}
	key := keys.Key(signed.Signatures[0].Protected.KeyID)
	if len(key) != 1 {
		return info, fmt.Errorf("%d keys have the id %q", len(key), signed.Signatures[0].Protected.KeyID)
	}
	claims, err := signed.Verify(key[0])
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(claims, &info); err != nil {
		return info, err
	}
	info.Active = info.Expires > time.Now().Unix()
	if info.Issuer != i.Issuer {
		return info, fmt.Errorf("the issuer of the token is %q", info.Issuer)
	}
	return info, nil
}

// lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
