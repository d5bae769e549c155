package fleet

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// FuzzTamperedRecord does to a sealed record what someone who can write to the storage may do: flip, cut,
// insert and mix with another grant's, or with another one of the same grant. Nothing but the record itself
// may be read, and nothing by another grant. The record is any that a gateway can have sealed.
func FuzzTamperedRecord(f *testing.F) {
	f.Add("token-canary", int64(time.Hour), int64(time.Minute), uint64(7), "s3cret-canary", "other", []byte{0, 1, 1})
	f.Add("t", int64(1), int64(0), uint64(0), "\x00", "\x00\x00", []byte{1, 9, 0, 2, 30, 3, 3, 40, 1})
	f.Add("token \"\xff\"", int64(endpoint.MaxLifetime), int64(-1), ^uint64(0), "s", "S", []byte{4, 0, 0})
	f.Add("token-canary", int64(time.Second), int64(time.Hour), uint64(1), "a", "b", []byte{5, 9, 0, 0, 9, 0})
	f.Fuzz(func(t *testing.T, value string, lifetime, refreshIn int64, sequence uint64, secret, other string, changes []byte) {
		now := time.Unix(1e9, 0).UTC()
		r := record{Value: value, Sent: now, Lifetime: time.Duration(lifetime), RefreshIn: time.Duration(refreshIn), Sequence: sequence}
		if secret == "" || other == "" || secret == other || len(value) > endpoint.MaxResponse/8 {
			return
		}
		withSecret := func(secret string) recordKey {
			return testRecordKey(t, func(r *endpoint.Request) { r.ClientSecret = secret })
		}
		key, another := withSecret(secret), withSecret(other)
		if key.path() == another.path() {
			t.Errorf("the secrets %q and %q lead to the same place", secret, other)
		}
		sealed, err := key.seal(r)
		if err != nil {
			t.Fatal(err)
		}
		// JSON replaces what is no UTF-8, which no vetted token has.
		text, err := json.Marshal(r)
		var want record
		if err != nil || json.Unmarshal(text, &want) != nil {
			t.Fatal(err)
		}
		isSane := value != "" && lifetime > 0 && time.Duration(lifetime) <= endpoint.MaxLifetime
		if got, ok := key.open(sealed); ok != isSane || ok && got != want {
			t.Fatalf("%+v is read as %+v, %t", want, got, ok)
		}
		if got, ok := another.open(sealed); ok {
			t.Errorf("another grant reads %+v", got)
		}
		if expiry, ok := expiryOf(sealed); !ok || isSane && expiry.Unix() != now.Add(time.Duration(lifetime)).Unix() {
			t.Errorf("it expires at %s, %t", expiry, ok)
		}
		mix, err := another.seal(r)
		if err != nil {
			t.Fatal(err)
		}
		tampered := tamper(sealed, mix, changes)
		if got, ok := key.open(tampered); ok && !bytes.Equal(tampered, sealed) {
			t.Errorf("%x is read as %+v", tampered, got)
		}
		if got, ok := another.open(tampered); ok && !bytes.Equal(tampered, mix) {
			t.Errorf("another grant reads %x as %+v", tampered, got)
		}
		if expiry, ok := expiryOf(tampered); ok && expiry.Unix() < 0 {
			t.Errorf("%x expires at %s", tampered, expiry)
		}
	})
}

// tamper applies changes of three bytes each: what is done, where, and with what.
func tamper(sealed, mix, changes []byte) []byte {
	tampered := slices.Clone(sealed)
	for change := range slices.Chunk(changes, 3) {
		if len(change) < 3 || len(tampered) == 0 {
			break
		}
		at := int(change[1]) % len(tampered)
		switch change[0] % 6 {
		case 0:
			tampered[at] ^= change[2]
		case 1:
			tampered = tampered[:at]
		case 2:
			tampered = slices.Insert(tampered, at, change[2])
		case 3:
			tampered = slices.Delete(tampered, at, min(at+int(change[2]), len(tampered)))
		case 4: // the rest of the other one
			tampered = slices.Concat(tampered[:at], mix[min(at, len(mix)):])
		case 5: // with another expiry
			if len(tampered) >= headerSize {
				binary.BigEndian.PutUint64(tampered[1:], uint64(change[1])<<56|uint64(change[2]))
			}
		}
	}
	return tampered
}
