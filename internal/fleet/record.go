package fleet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

const (
	// storagePrefix is the folder of all records, and what the names of locks begin with.
	storagePrefix = "oauth_cc"

	// recordFormat is the first byte of a sealed record. Later versions of this package may use
	// another one. This version leaves such records alone.
	recordFormat = 1

	// headerSize is the length of the header, the only part of a sealed record that is not
	// encrypted: the format, and when the token expires, in seconds since 1970. A sweeper
	// needs no more.
	headerSize = 1 + 8

	// maxRecord is the length of the longest sealed record.
	maxRecord = 2 * endpoint.MaxResponse
)

// record is a token as it is stored, before it is sealed.
type record struct {
	Value     string        `json:"access_token"`
	Sent      time.Time     `json:"sent"` // when it was asked for, by the clock of the machine that asked
	Lifetime  time.Duration `json:"lifetime"`
	Guessed   bool          `json:"lifetime_guessed,omitempty"` // the lifetime, as in endpoint.Granted
	Fixed     bool          `json:"lifetime_fixed,omitempty"`   // likewise
	RefreshIn time.Duration `json:"refresh_in,omitempty"`       // likewise

	// One more than in the record before it. It tells which of two tokens is newer, even if
	// the clocks of the machines differ.
	Sequence uint64 `json:"sequence"`
}

// recordKey says where a grant's token is stored, and seals it.
type recordKey struct {
	name string
	aead cipher.AEAD
}

// errNoCredential is for a client that has nothing to seal with.
var errNoCredential = errors.New("the client has no credential to encrypt tokens with")

// recordKeyFor derives the key of the token that a request asks for.
func recordKeyFor(r endpoint.Request, trust []string) (recordKey, error) {
	credential, err := r.Credential()
	if err != nil {
		return recordKey{}, err
	}
	return newRecordKey(credential, r.PortableKey(trust))
}

// newRecordKey derives the key from the client's credential and from the key of the grant. Without
// the credential, a record can't be found, read or made. An empty credential is an error, as everyone
// knows it.
//
// There is no salt, as gateways have nothing else in common (RFC 5869 §3.1). The info parameter
// makes path and key independent of each other (§3.2).
func newRecordKey(credential []byte, grant endpoint.GrantKey) (recordKey, error) {
	if len(credential) == 0 {
		return recordKey{}, errNoCredential
	}
	derive := func(use string) ([]byte, error) {
		return hkdf.Key(sha256.New, credential, nil, "oauth_cc "+use+" "+string(grant[:]), 32)
	}
	name, err := derive("name")
	if err != nil {
		return recordKey{}, err
	}
	key, err := derive("token")
	if err != nil {
		return recordKey{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return recordKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return recordKey{}, err
	}
	return recordKey{name: hex.EncodeToString(name), aead: aead}, nil
}

// path returns where the token is stored.
func (k recordKey) path() string { return storagePrefix + "/" + k.name }

// seal encrypts a token.
func (k recordKey) seal(r record) ([]byte, error) {
	text, err := json.Marshal(r) //nolint:gosec // to be encrypted
	if err != nil {
		return nil, err
	}
	return k.sealText(text, r.Sent.Add(r.Lifetime)), nil
}

// open decrypts a token. It reports false if it was not sealed with this key, or if no gateway would
// have sealed it.
func (k recordKey) open(sealed []byte) (record, bool) {
	var r record
	text, ok := k.openText(sealed)
	if !ok || json.Unmarshal(text, &r) != nil || r.Value == "" || len(r.Value) > endpoint.MaxToken || r.Lifetime <= 0 || r.Lifetime > endpoint.MaxLifetime {
		return record{}, false
	}
	return r, true
}

// sealText encrypts a text that nobody needs after its expiry (AES-256-GCM), and authenticates the
// header with it. The nonce is random, which is safe for 2^32 texts with one key (NIST SP 800-38D
// §8.3). With a sign of life every 300 ms, that is 40 years.
func (k recordKey) sealText(text []byte, expiry time.Time) []byte {
	header := binary.BigEndian.AppendUint64([]byte{recordFormat}, uint64(max(0, expiry.Unix())))
	return k.aead.Seal(header, nil, text, header) //nolint:gosec // it draws a nonce
}

// openText decrypts a sealed text, unless it is longer than any record can be.
func (k recordKey) openText(sealed []byte) ([]byte, bool) {
	if len(sealed) < headerSize || len(sealed) > maxRecord || sealed[0] != recordFormat {
		return nil, false
	}
	text, err := k.aead.Open(nil, nil, sealed[headerSize:], sealed[:headerSize])
	return text, err == nil
}

// expiryOf reads from the header when a token expires. Without the key, it can't be checked.
func expiryOf(sealed []byte) (time.Time, bool) {
	if len(sealed) < headerSize || sealed[0] != recordFormat {
		return time.Time{}, false
	}
	seconds := min(binary.BigEndian.Uint64(sealed[1:]), 1<<40) // so that time.Time does not overflow
	return time.Unix(int64(seconds), 0), true
}
