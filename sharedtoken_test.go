package oauthcc

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
)

func testSharedKey(t testing.TB, change func(*grantRequest)) sharedKey {
	t.Helper()
	r := grantRequest{endpoint: "https://auth.example.com/token", clientID: "app", clientSecret: "s3cret-canary", authMethod: authSecretBasic}
	if change != nil {
		change(&r)
	}
	key, err := r.sharedKey("tls", "certificate")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testSharedToken(now time.Time) sharedToken {
	return sharedToken{Value: "token-canary", Sent: now, Lifetime: time.Hour, RefreshIn: time.Minute, Sequence: 7}
}

func TestSharedTokenIsReadByWhoHasTheCredential(t *testing.T) {
	key, now := testSharedKey(t, nil), time.Now().UTC().Round(0)
	record, err := key.seal(testSharedToken(now))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := testSharedKey(t, nil).open(record); !ok || got != testSharedToken(now) {
		t.Errorf("got %+v, %v", got, ok)
	}
	if expiry, ok := expiryOf(record); !ok || expiry.Unix() != now.Add(time.Hour).Unix() {
		t.Errorf("it expires at %s, %v", expiry, ok)
	}
	again, err := key.seal(testSharedToken(now))
	if err != nil || bytes.Equal(record, again) {
		t.Error("the same is encrypted to the same")
	}
	for _, secret := range []string{"token-canary", "s3cret-canary", "app", "example.com"} {
		for _, text := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if bytes.Contains(record, []byte(text)) || strings.Contains(key.path()+key.lock(0, false), text) {
				t.Errorf("who reads the storage sees %q", text)
			}
		}
	}
}

// Another grant's record can be neither found nor read, and none can be made to pass for
// another's.
func TestSharedTokenIsBoundToItsGrant(t *testing.T) {
	now := time.Now().UTC()
	key := testSharedKey(t, nil)
	record, err := key.seal(testSharedToken(now))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*grantRequest){
		"secret":   func(r *grantRequest) { r.clientSecret = "another" },
		"client":   func(r *grantRequest) { r.clientID = "another" },
		"endpoint": func(r *grantRequest) { r.endpoint += "/v2" },
		"issuer":   func(r *grantRequest) { r.issuer = "https://auth.example.com" },
		"scope":    func(r *grantRequest) { r.scopes = []string{"admin"} },
		"audience": func(r *grantRequest) { r.audience = []string{"other"} },
		"header":   func(r *grantRequest) { r.headers = map[string][]string{"X-Key": {"1"}} },
	} {
		other := testSharedKey(t, change)
		if _, ok := other.open(record); ok {
			t.Errorf("%s: read with the key of another grant", name)
		}
		if other.path() == key.path() || other.lock(0, false) == key.lock(0, false) {
			t.Errorf("%s: at the same place", name)
		}
	}
	r := grantRequest{endpoint: "https://auth.example.com/token", clientID: "app", clientSecret: "s3cret-canary", authMethod: authSecretBasic}
	if other, err := r.sharedKey("tls", "another certificate"); err != nil || other.path() == key.path() {
		t.Errorf("another certificate leads to the same place, %v", err)
	}
}

// The signing key of an assertion is the credential, in whatever file it is.
func TestSharedKeyOfASigningKey(t *testing.T) {
	request := func(name, file string) grantRequest {
		key, err := parseSigningKey([]byte(pkcs8(t, testKeys()[name])))
		if err != nil {
			t.Fatal(err)
		}
		return grantRequest{
			endpoint: "https://auth.example.com/token", clientID: "app", authMethod: authPrivateKeyJWT,
			assertion: newClientAssertion(SigningKey{File: file}, key),
		}
	}
	places := make(map[string]string)
	for name := range maps.Keys(testKeys()) {
		if name == "short RSA" || name == "P-224" {
			continue
		}
		one, err := request(name, "/run/secrets/a").sharedKey()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		other, err := request(name, "/run/secrets/b").sharedKey()
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
	key := testSharedKey(t, nil)
	sealed := func(change func(*sharedToken)) []byte {
		token := testSharedToken(now)
		if change != nil {
			change(&token)
		}
		record, err := key.seal(token)
		if err != nil {
			t.Fatal(err)
		}
		return record
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
	newer[0] = storageFormat + 1
	for name, record := range map[string][]byte{
		"empty":          {},
		"cut off":        good[:len(good)-1],
		"header alone":   good[:storageHeader],
		"longer":         append(slices.Clone(good), 0),
		"newer format":   newer,
		"text":           []byte("token-canary"),
		"no token":       sealed(func(t *sharedToken) { t.Value = "" }),
		"no lifetime":    sealed(func(t *sharedToken) { t.Lifetime = 0 }),
		"endless":        sealed(func(t *sharedToken) { t.Lifetime = maxLifetime + 1 }),
		"without sense":  key.aead.Seal(slices.Clone(good[:storageHeader]), nil, []byte("[]"), good[:storageHeader]),
		"a huge one":     make([]byte, 3*maxResponse),
		"another header": append(append([]byte{storageFormat}, make([]byte, 8)...), good[storageHeader:]...),
	} {
		if got, ok := key.open(record); ok {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

// What can't be read is the same as nothing, and is replaced.
func TestUnreadableRecordIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		g := newFleet(t, storage, 1, plain)[0]
		path := g.sharedKey(t).path()
		storage.put(path, []byte("\x01planted by someone"))
		g.mustGet()
		synctest.Wait()
		if _, ok := g.sharedKey(t).open(storage.all()[path]); !ok {
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
		{expiryMargin, true, time.Hour},
		{expiryMargin + time.Second, false, 0},
		{24 * time.Hour, false, 0},
	} {
		t.Run(fmt.Sprint(test.ahead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				granted, ok := testSharedToken(now.Add(test.ahead)).adopt(now, 0)
				if ok != test.usable {
					t.Fatalf("usable: %v", ok)
				}
				if left := time.Until(granted.sent.Add(granted.lifetime)); ok && left != test.life {
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
		fleet := newFleet(t, newMemoryStorage(), 2, plain)
		ahead, late := fleet[0], fleet[1]
		ahead.sharing.now = func() time.Time { return time.Now().Add(time.Minute) }
		ahead.endpoint.takes = time.Second
		answers := make(chan virtualAnswer)
		go func() { answers <- ahead.get() }()
		time.Sleep(500 * time.Millisecond)
		if a := late.mustGet(); a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		<-answers
		got := late.source.grant.current.Load()
		if left := time.Until(got.sent.monotonic.Add(got.lifetime)); left > time.Hour-time.Duration(late.Timeout) || left < time.Hour-2*time.Duration(late.Timeout) {
			t.Errorf("%s are left of its life", left)
		}
		// One that was there before can be of any age.
		restarted := newFleet(t, newMemoryStorage(), 1, plain)[0]
		restarted.sharing, restarted.endpoint = late.sharing, late.endpoint
		restarted.client.transport = late.endpoint
		if a := restarted.mustGet(); a.token != "token-2" {
			t.Errorf("got %+v", a)
		}
	})
}

// A JWT says when it ends by the clock of who issued it.
func TestSharedJWTEndsWhenItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		token := testSharedToken(now.Add(-10 * time.Minute))
		claims := fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Add(-10*time.Minute).Unix(), now.Add(20*time.Minute).Unix())
		token.Value = "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
		granted, ok := token.adopt(now, 0)
		if left := time.Until(granted.sent.Add(granted.lifetime)); !ok || left != 20*time.Minute {
			t.Errorf("%s are left of its life, %v", left, ok)
		}
		for _, late := range []time.Duration{20 * time.Minute, 25 * time.Minute} {
			if granted, ok := token.adopt(now.Add(late), 0); ok && newToken(granted).usable(time.Now()) {
				t.Errorf("it is used at its end, %s from now", late)
			}
		}
	})
}

// A credential that is replaced while a token is fetched leads to the record of the new one.
func TestTokenIsSharedUnderTheCredentialItWasFetchedWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		t.Setenv("OAUTH_CC_TEST_SECRET", "before")
		options := func() *Handler { return &Handler{ClientSecret: "{env.OAUTH_CC_TEST_SECRET}"} }
		fleet := newFleet(t, storage, 2, options)
		locked := &lockedEndpoint{secret: "after"}
		fleet[0].client.transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
			defer t.Setenv("OAUTH_CC_TEST_SECRET", "after")
			return locked.RoundTrip(req)
		})
		fleet[1].client.transport = locked
		if a := fleet[0].mustGet(); a.token != "of-after" {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		values := storage.all()
		if _, ok := values[fleet[1].sharedKey(t).path()]; !ok || len(values) != 2 { // with the sweeper's mark
			t.Errorf("%d values, that of the new credential among them: %v", len(values), ok)
		}
		n := locked.count()
		if a := fleet[1].mustGet(); a.token != "of-after" || locked.count() != n {
			t.Errorf("got %+v with %d more token requests", a, locked.count()-n)
		}
	})
}

// Whatever is in the storage, nothing is read but what was sealed. Each worker of the fuzzer
// seals the token anew, so it is not the bytes that count.
func FuzzSharedToken(f *testing.F) {
	key, token := testSharedKey(f, nil), testSharedToken(time.Unix(1e9, 0).UTC())
	record, err := key.seal(token)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Add([]byte{})
	f.Add([]byte{storageFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, ok := key.open(data); ok && got != token {
			t.Errorf("%x is read as %+v", data, got)
		}
		expiryOf(data)
	})
}
