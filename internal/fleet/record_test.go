package fleet

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func testRecordKey(t testing.TB, change func(*endpoint.Request)) recordKey {
	t.Helper()
	r := endpoint.Request{
		Endpoint: "https://auth.example.com/token", ClientID: "app", ClientSecret: "s3cret-canary", AuthMethod: endpoint.AuthSecretBasic,
		Certificate: "certificate",
	}
	if change != nil {
		change(&r)
	}
	key, err := recordKeyFor(r, []string{"tls"})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testRecord(now time.Time) record {
	return record{Value: "token-canary", Sent: now, Lifetime: time.Hour, RefreshIn: time.Minute, Sequence: 7}
}

func TestSharedTokenIsReadByWhoHasTheCredential(t *testing.T) {
	key, now := testRecordKey(t, nil), time.Now().UTC().Round(0)
	sealed, err := key.seal(testRecord(now))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := testRecordKey(t, nil).open(sealed); !ok || got != testRecord(now) {
		t.Errorf("got %+v, %v", got, ok)
	}
	if expiry, ok := expiryOf(sealed); !ok || expiry.Unix() != now.Add(time.Hour).Unix() {
		t.Errorf("it expires at %s, %v", expiry, ok)
	}
	again, err := key.seal(testRecord(now))
	if err != nil || bytes.Equal(sealed, again) {
		t.Error("the same is encrypted to the same")
	}
	for _, secret := range []string{"token-canary", "s3cret-canary", "app", "example.com"} {
		for _, text := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if bytes.Contains(sealed, []byte(text)) || strings.Contains(key.path()+key.lockName(0, firstLock), text) {
				t.Errorf("who reads the storage sees %q", text)
			}
		}
	}
}

// What is sealed with an empty credential could be read by everyone.
func TestNothingIsSealedWithoutACredential(t *testing.T) {
	for _, credential := range [][]byte{nil, {}} {
		if key, err := newRecordKey(credential, endpoint.GrantKey{}); err == nil || key.aead != nil {
			t.Errorf("a key of no credential: %+v, %v", key, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		request := g.request()
		request.AuthMethod, request.ClientSecret = endpoint.AuthNone, ""
		g.request = func() endpoint.Request { return request }
		if a := g.mustGet(); a.token != "token-1" || a.waited > 0 {
			t.Errorf("got %+v", a)
		}
		if g.sharing.HasNewer(t.Context(), request, nil) {
			t.Error("there is a token of nobody")
		}
		synctest.Wait()
		for _, operation := range []string{"load", "store", "lock"} {
			if n := storage.Count(operation); n > 0 {
				t.Errorf("%d times %s", n, operation)
			}
		}
	})
}

// Another grant's record can be neither found nor read, and none can be made to pass for
// another's.
func TestSharedTokenIsBoundToItsGrant(t *testing.T) {
	now := time.Now().UTC()
	key := testRecordKey(t, nil)
	sealed, err := key.seal(testRecord(now))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*endpoint.Request){
		"secret":              func(r *endpoint.Request) { r.ClientSecret = "another" },
		"client":              func(r *endpoint.Request) { r.ClientID = "another" },
		"endpoint":            func(r *endpoint.Request) { r.Endpoint += "/v2" },
		"issuer":              func(r *endpoint.Request) { r.Issuer = "https://auth.example.com" },
		"scope":               func(r *endpoint.Request) { r.Scopes = []string{"admin"} },
		"audience":            func(r *endpoint.Request) { r.Audience = []string{"other"} },
		"header":              func(r *endpoint.Request) { r.Headers = map[string][]string{"X-Key": {"1"}} },
		"another certificate": func(r *endpoint.Request) { r.Certificate = "another certificate" },
	} {
		other := testRecordKey(t, change)
		if _, ok := other.open(sealed); ok {
			t.Errorf("%s: read with the key of another grant", name)
		}
		if other.path() == key.path() || other.lockName(0, firstLock) == key.lockName(0, firstLock) {
			t.Errorf("%s: at the same place", name)
		}
	}
	r := endpoint.Request{
		Endpoint: "https://auth.example.com/token", ClientID: "app", ClientSecret: "s3cret-canary", AuthMethod: endpoint.AuthSecretBasic,
		Certificate: "certificate",
	}
	if other, err := recordKeyFor(r, []string{"other tls"}); err != nil || other.path() == key.path() {
		t.Errorf("another trust leads to the same place, %v", err)
	}
}

// The signing key of an assertion is the credential, in whatever file it is.
func TestSharedKeyOfASigningKey(t *testing.T) {
	request := func(name, file string) endpoint.Request {
		key, err := endpoint.ParsePrivateKey([]byte(servertest.PKCS8(t, servertest.Keys()[name])))
		if err != nil {
			t.Fatal(err)
		}
		return endpoint.Request{
			Endpoint: "https://auth.example.com/token", ClientID: "app", AuthMethod: endpoint.AuthPrivateKeyJWT,
			Assertion: endpoint.NewAssertion(endpoint.AssertionOptions{File: file}, key),
		}
	}
	places := make(map[string]string)
	for name := range maps.Keys(servertest.Keys()) {
		if name == "short RSA" || name == "P-224" {
			continue
		}
		one, err := recordKeyFor(request(name, "/run/secrets/a"), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		other, err := recordKeyFor(request(name, "/run/secrets/b"), nil)
		if err != nil || one.path() != other.path() {
			t.Errorf("%s: another file of the same key leads elsewhere, %v", name, err)
		}
		if same, taken := places[one.path()]; taken {
			t.Errorf("%s and %s lead to the same place", name, same)
		}
		places[one.path()] = name
	}
}

func TestRecordsThatAreNone(t *testing.T) {
	now := time.Now()
	key := testRecordKey(t, nil)
	sealed := func(change func(*record)) []byte {
		token := testRecord(now)
		if change != nil {
			change(&token)
		}
		sealed, err := key.seal(token)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	good := sealed(nil)
	for i := range good {
		changed := slices.Clone(good)
		changed[i] ^= 1
		if _, ok := key.open(changed); ok {
			t.Errorf("a record of which byte %d was changed is read", i)
		}
	}
	newer := slices.Clone(good)
	newer[0] = recordFormat + 1
	for name, data := range map[string][]byte{
		"empty":          {},
		"cut off":        good[:len(good)-1],
		"header alone":   good[:headerSize],
		"longer":         append(slices.Clone(good), 0),
		"newer format":   newer,
		"text":           []byte("token-canary"),
		"no token":       sealed(func(t *record) { t.Value = "" }),
		"no lifetime":    sealed(func(t *record) { t.Lifetime = 0 }),
		"endless":        sealed(func(t *record) { t.Lifetime = endpoint.MaxLifetime + 1 }),
		"without sense":  key.aead.Seal(slices.Clone(good[:headerSize]), nil, []byte("[]"), good[:headerSize]),
		"a huge one":     make([]byte, 3*endpoint.MaxResponse),
		"another header": append(append([]byte{recordFormat}, make([]byte, 8)...), good[headerSize:]...),
	} {
		if got, ok := key.open(data); ok {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

// What can't be read is the same as nothing, and is replaced.
func TestUnreadableRecordIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		path := g.recordKey(t).path()
		storage.Put(path, []byte("\x01planted by someone"))
		g.mustGet()
		synctest.Wait()
		if _, ok := g.recordKey(t).open(storage.All()[path]); !ok {
			t.Error("the record was not replaced")
		}
		if len(g.storageNews()) > 0 {
			t.Errorf("the log says %q", g.storageNews())
		}
	})
}

// The clocks of gateways differ. A token is never used for longer by that than can be seen.
func TestTokenOfAGatewayWithAnotherClock(t *testing.T) {
	for _, test := range []struct {
		ahead  time.Duration // of the other's clock
		usable bool
		life   time.Duration // that is left, measured from now
	}{
		{0, true, time.Hour},
		{-30 * time.Minute, true, 30 * time.Minute},
		{-time.Hour, true, 0}, // which does not make it usable
		{5 * time.Second, true, time.Hour},
		{tokencache.ExpiryMargin, true, time.Hour},
		{tokencache.ExpiryMargin + time.Second, false, 0},
		{24 * time.Hour, false, 0},
	} {
		t.Run(fmt.Sprint(test.ahead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				granted, ok := testRecord(now.Add(test.ahead)).adopt(now, 0)
				if ok != test.usable {
					t.Fatalf("usable: %v", ok)
				}
				if left := time.Until(granted.Sent.Add(granted.Lifetime)); ok && left != test.life {
					t.Errorf("%s are left of its life, want %s", left, test.life)
				}
			})
		})
	}
}

// A token that has come while it was waited for can't be older than the wait and a fetch,
// whatever the clocks say.
func TestTokenFromTheFutureThatWasWaitedForIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 2, plain)
		ahead, late := fleet[0], fleet[1]
		ahead.sharing.now = func() time.Time { return time.Now().Add(time.Minute) }
		ahead.endpoint.takes = time.Second
		answers := make(chan answer)
		go func() { answers <- ahead.get() }()
		time.Sleep(500 * time.Millisecond)
		if a := late.mustGet(); a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		<-answers
		got := late.grant.Current()
		if left := time.Until(got.Expiry()); left > time.Hour-late.timeout || left < time.Hour-2*late.timeout {
			t.Errorf("%s are left of its life", left)
		}
		// One that was there before can be of any age.
		restarted := newFleet(t, storagetest.NewMemory(), 1, plain)[0]
		restarted.sharing, restarted.endpoint = late.sharing, late.endpoint
		restarted.client.Transport = late.endpoint
		if a := restarted.mustGet(); a.token != "token-2" {
			t.Errorf("got %+v", a)
		}
	})
}

// A JWT says when it ends by the clock of who issued it.
func TestSharedJWTEndsWhenItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		token := testRecord(now.Add(-10 * time.Minute))
		claims := fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Add(-10*time.Minute).Unix(), now.Add(20*time.Minute).Unix())
		token.Value = "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
		granted, ok := token.adopt(now, 0)
		if left := time.Until(granted.Sent.Add(granted.Lifetime)); !ok || left != 20*time.Minute {
			t.Errorf("%s are left of its life, %v", left, ok)
		}
		for _, late := range []time.Duration{20 * time.Minute, 25 * time.Minute} {
			if granted, ok := token.adopt(now.Add(late), 0); ok && tokencache.NewToken(granted.Granted).Timely(time.Now()) {
				t.Errorf("it is used at its end, %s from now", late)
			}
		}
		// Unless the configuration says how long it lives.
		fixed := newRecord(tokencache.Offer{Granted: endpoint.Granted{Value: token.Value, Sent: now, Lifetime: time.Hour, LifetimeFixed: true}}, now)
		granted, ok = fixed.adopt(now, 0)
		if left := time.Until(granted.Sent.Add(granted.Lifetime)); !ok || left != time.Hour {
			t.Errorf("%s are left of a life that is fixed, %v", left, ok)
		}
	})
}

// A credential that is replaced while a token is fetched leads to the record of the new one.
func TestTokenIsSharedUnderTheCredentialItWasFetchedWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 2, plain)
		request := fleet[0].request()
		secret, asked := "before", 0
		for _, g := range fleet {
			g.request = func() endpoint.Request {
				request := request
				request.ClientSecret = secret
				return request
			}
			g.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
				asked++
				_, sent, _ := req.BasicAuth()
				if secret = "after"; sent != secret {
					return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
				}
				return servertest.Answer{Body: `{"access_token":"of-after","token_type":"Bearer","expires_in":100}`}.RoundTrip(req)
			})
		}
		if a := fleet[0].mustGet(); a.token != "of-after" {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		values := storage.All()
		if _, ok := values[fleet[1].recordKey(t).path()]; !ok || len(values) != 2 { // with the sweeper's mark
			t.Errorf("%d values, that of the new credential among them: %v", len(values), ok)
		}
		n := asked
		if a := fleet[1].mustGet(); a.token != "of-after" || asked != n {
			t.Errorf("got %+v with %d more token requests", a, asked-n)
		}
	})
}

// Whatever is in the storage, nothing is read but what was sealed. Each worker of the fuzzer
// seals the token anew, so it is not the bytes that count.
func FuzzSharedToken(f *testing.F) {
	key, token := testRecordKey(f, nil), testRecord(time.Unix(1e9, 0).UTC())
	sealed, err := key.seal(token)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte{})
	f.Add([]byte{recordFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, ok := key.open(data); ok && got != token {
			t.Errorf("%x is read as %+v", data, got)
		}
		expiryOf(data)
	})
}
