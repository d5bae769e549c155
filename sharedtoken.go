package oauthcc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
)

const (
	// storagePrefix is the folder in the storage.
	storagePrefix = "oauth_cc"

	// storageFormat is the first byte of a record. What begins with another is of a
	// version that is not known here.
	storageFormat = 1

	// storageHeader is what a record begins with, and the only part of it that is not
	// encrypted: the format, and when the token expires, in seconds since 1970, for whoever
	// tidies up.
	storageHeader = 1 + 8
)

// sharedKey is where a grant's token is in the storage, and how it is encrypted.
type sharedKey struct {
	name string
	aead cipher.AEAD
}

// newSharedKey derives it from the client's credential (HKDF, RFC 5869) and what identifies
// the grant, so who does not have the credential can neither find, read nor make a record.
func newSharedKey(credential []byte, grant grantKey) (sharedKey, error) {
	derive := func(use string) ([]byte, error) {
		return hkdf.Key(sha256.New, credential, nil, "oauth_cc "+use+" "+string(grant[:]), 32)
	}
	name, err := derive("name")
	if err != nil {
		return sharedKey{}, err
	}
	key, err := derive("token")
	if err != nil {
		return sharedKey{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sharedKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sharedKey{name: hex.EncodeToString(name), aead: aead}, err
}

func (k sharedKey) path() string { return storagePrefix + "/" + k.name }

// lockNames is how many renewals in a row have locks of their own.
const lockNames = 16

// lock is the name of the lock under which the token is fetched that follows the one with
// that sequence number in the storage. The second is for those who have waited for the first
// in vain. A lock that is never released is in the way of one renewal and not of the next:
// Caddy's file storage keeps the lock of a holder that has died fresh for as long as a
// process lives that had a lock of that name a few seconds before.
func (k sharedKey) lock(stored uint64, second bool) string {
	name := storagePrefix + "-" + k.name + "-" + strconv.FormatUint(stored%lockNames, 10)
	if second {
		name += "-2"
	}
	return name
}

// sharedToken is a token in the storage.
type sharedToken struct {
	Value     string        `json:"access_token"`
	Sent      time.Time     `json:"sent"` // when it was asked for, by the clock of who did
	Lifetime  time.Duration `json:"lifetime"`
	RefreshIn time.Duration `json:"refresh_in,omitempty"`

	// One more than that of the token before it. It tells which of two is newer, on
	// machines whose clocks don't agree.
	Sequence uint64 `json:"sequence"`
}

// seal encrypts a token (AES-256-GCM).
func (k sharedKey) seal(t sharedToken) ([]byte, error) {
	text, err := json.Marshal(t) //nolint:gosec // to be encrypted
	if err != nil {
		return nil, err
	}
	header := headerOf(t.Sent.Add(t.Lifetime))
	return k.aead.Seal(header, nil, text, header), nil //nolint:gosec // it draws a nonce
}

// signPath is where the holder of a lock gives signs of life.
func signPath(lock string) string { return storagePrefix + "/" + lock }

const signText = "alive"

// makeSign makes a sign of life, each time another one.
func (k sharedKey) makeSign(now time.Time) []byte {
	header := headerOf(now)
	return k.aead.Seal(header, nil, []byte(signText), header) //nolint:gosec // it draws a nonce
}

func (k sharedKey) isSign(record []byte) bool {
	text, ok := k.openText(record)
	return ok && string(text) == signText
}

// headerOf is what is not encrypted of a record that nobody needs after that.
func headerOf(expiry time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{storageFormat}, uint64(max(0, expiry.Unix())))
}

// openText decrypts a record.
func (k sharedKey) openText(record []byte) ([]byte, bool) {
	if len(record) < storageHeader || len(record) > 2*maxResponse || record[0] != storageFormat {
		return nil, false
	}
	text, err := k.aead.Open(nil, nil, record[storageHeader:], record[:storageHeader])
	return text, err == nil
}

// open decrypts a token, if the record is one of this grant.
func (k sharedKey) open(record []byte) (sharedToken, bool) {
	var t sharedToken
	text, ok := k.openText(record)
	if !ok || json.Unmarshal(text, &t) != nil || t.Value == "" || t.Lifetime <= 0 || t.Lifetime > maxLifetime {
		return sharedToken{}, false
	}
	return t, true
}

// expiryOf reads from a record's header when its token expires.
func expiryOf(record []byte) (time.Time, bool) {
	if len(record) < storageHeader || record[0] != storageFormat {
		return time.Time{}, false
	}
	return time.Unix(int64(min(binary.BigEndian.Uint64(record[1:]), 1<<40)), 0), true
}

// share makes the record of a token.
func (t grantedToken) share(now time.Time) sharedToken {
	return sharedToken{
		Value: t.value, Sent: now.Add(-time.Since(t.sent)).UTC(), Lifetime: t.lifetime, RefreshIn: t.refreshIn, Sequence: t.sequence,
	}
}

// adopt makes a record's token one of this gateway's. A clock that is behind that of the
// gateway which got it would have the token used for too long. Where that can be seen, as it
// comes from the future, its greatest possible age counts, or it is refused if that is not
// known either and 0. What a JWT says of its own end holds by the clock here as well.
func (t sharedToken) adopt(now time.Time, most time.Duration) (grantedToken, bool) {
	age := now.Sub(t.Sent)
	if age < -min(expiryMargin, t.Lifetime/10) {
		if most == 0 {
			return grantedToken{}, false
		}
		age = most
	}
	age = max(age, 0)
	lifetime := t.Lifetime
	if left, known := jwtLifetime(t.Value, now); known {
		lifetime = min(lifetime, age+left)
	}
	return grantedToken{
		value: t.Value, sent: time.Now().Add(-age), lifetime: lifetime, lifetimeKnown: true, refreshIn: t.RefreshIn,
		sequence: t.Sequence, adopted: true,
	}, lifetime > 0
}

// sharedKey derives where the token for a request is shared.
func (r grantRequest) sharedKey(trust ...string) (sharedKey, error) {
	credential, err := r.credential()
	if err != nil {
		return sharedKey{}, err
	}
	r.assertion.file = "" // its content counts, wherever it is
	if r.issuer != "" {
		r.endpoint = "" // what is discovered can change, and is not known at first
	}
	return newSharedKey(credential, newGrantKey(append(r.fields(), trust)...))
}

// credential is what nobody but the client has.
func (r grantRequest) credential() ([]byte, error) {
	switch {
	case r.assertion.key != nil:
		return x509.MarshalPKCS8PrivateKey(r.assertion.key.signer)
	case r.authMethod == authTLS:
		return r.certificateKey, nil
	}
	return []byte(r.clientSecret), nil
}
