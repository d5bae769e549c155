package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// The names of claims tell upper from lower case.
func TestClaimsOfOtherNamesDontCount(t *testing.T) {
	now := time.Unix(1772366400, 0)
	for claims, want := range map[string]time.Duration{
		`{"exp":1772370000,"iat":1772366400,"EXP":5,"Iat":7}`: time.Hour,
		`{"Exp":1772366400,"exp":1772370000}`:                 time.Hour,
		`{"Exp":1772370000}`:                                  0,
		`{"exp":1772370000,"IAT":1772369999}`:                 time.Hour,
	} {
		if got, ok := JWTLifetime(cannedJWT(claims), now); got != want || ok != (want > 0) {
			t.Errorf("%s: got %v, %t", claims, got, ok)
		}
	}
}

// FuzzLifetime compares the lifetime of a token with what exact arithmetic makes of expires_in and of the
// token's own exp and iat. All are JSON of any kind; before them, and in another case, are other members.
func FuzzLifetime(f *testing.F) {
	for _, seed := range []struct{ expiresIn, refreshIn, exp, iat string }{
		{`3600`, `1800`, ``, ``}, {`"3600"`, `"1e2"`, ``, ``}, {`" 60.5\n"`, ``, `1772370000`, `1772366400`}, {`0`, `0`, ``, ``}, {`-1`, `-1`, ``, ``},
		{`3599.999999999`, ``, ``, ``}, {`1e3`, `1E+2`, `1.7723700e9`, ``}, {`1e400`, `-1e400`, `1e400`, `-1e400`}, {`-1e400`, ``, `-1e400`, ``},
		{`1e-400`, ``, `1e-400`, `1e-400`}, {`"NaN"`, `"Inf"`, `"1772370000"`, `"1"`}, {`"0x10"`, `"1_000"`, `null`, `null`}, {`null`, `true`, `true`, `[1]`},
		{`{}`, `[5]`, `{"a":1}`, `1772366400`}, {`3153600000`, `3153600001`, `1775520000`, `1772366400`}, {`0.999`, `1.001`, `1772366400.5`, `1772366399`}, {`"+5"`, `".5"`, ``, `1`}, {`"5."`, `"-.5e1"`, `1772366401`, `1772366401`},
	} {
		for _, shape := range []byte{0, 1, 2, 3, 4} {
			f.Add(seed.expiresIn, seed.refreshIn, seed.exp, seed.iat, shape)
		}
	}
	f.Fuzz(func(t *testing.T, expiresIn, refreshIn, exp, iat string, shape byte) {
		for _, raw := range []*string{&expiresIn, &refreshIn, &exp, &iat} {
			if *raw != "" && !json.Valid([]byte(*raw)) {
				return
			}
			*raw = strings.TrimSpace(*raw)
		}
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // 1772366400
		token, isJWT := "tok-1", exp != "" || iat != ""
		if isJWT {
			claims := object(shape, "exp", exp, "iat", iat)
			token = "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
		}
		body, mediaType := object(shape, "access_token", `"`+token+`"`, "expires_in", expiresIn, "refresh_in", refreshIn), "application/json"
		if shape%4 == 3 { // as a form, with the same texts
			expiresIn, refreshIn = asText(expiresIn), asText(refreshIn)
			body, mediaType = url.Values{"access_token": {token}, "expires_in": {expiresIn}, "refresh_in": {refreshIn}}.Encode(), "application/x-www-form-urlencoded"
		}
		vetting := &vettingTransport{tokenType: TypeBearer, secrets: cannedRequest.secrets(), now: func() time.Time { return now }}
		res := &http.Response{StatusCode: http.StatusOK, Header: servertest.WithType(mediaType), Request: &http.Request{URL: &url.URL{}}}
		answer, failure := vetting.vet(res, []byte(body))
		if failure != nil {
			if len(token) < 60<<10 { // longer ones may be refused
				t.Fatalf("%s is refused: %+v", body, failure)
			}
			return
		}
		want, known := exactly(asText(expiresIn))
		if own, ok := exactLifetime(exp, iat, now); ok && isJWT && (!known || own.Cmp(want) < 0) {
			want, known = own, true
		}
		got := grantedBy(answer, res.Header, now)
		if second := big.NewRat(1, 1); known && want.Cmp(second) < 0 {
			checkSeconds(t, "lifetime", body, got.Lifetime, second)
			if below := big.NewRat(999_999, 1_000_000); want.Cmp(below) < 0 && !got.AtEnd {
				t.Errorf("%s: the token is not at its end", body)
			}
		} else if known {
			checkSeconds(t, "lifetime", body, got.Lifetime, want)
		}
		if got.LifetimeGuessed == known && !isNearly(want, longest) {
			t.Errorf("%s: guessed: %t, lifetime %v", body, got.LifetimeGuessed, got.Lifetime)
		}
		if refresh, ok := exactly(asText(refreshIn)); ok {
			checkSeconds(t, "refresh_in", body, got.RefreshIn, refresh)
		} else if got.RefreshIn != 0 && !isNearly(refresh, longest) {
			t.Errorf("%s: refresh_in %v", body, got.RefreshIn)
		}
	})
}

// object is a JSON object with these members, but for those without a value. Its shape decides whether there
// are others, and where.
func object(shape byte, members ...string) string {
	var list []string
	for i := 0; i < len(members); i += 2 {
		if name, value := members[i], members[i+1]; value != "" {
			list = append(list, `"`+name+`":`+value)
		}
	}
	switch shape % 8 {
	case 1:
		list = append([]string{`"other":[1,{"exp":5}]`, `"x.y":null`}, list...)
	case 4:
		list = append(list, `"EXP":5`, `"Iat":7`, `"EXPIRES_IN":9`, `"Access_Token":"other"`)
	}
	return "{" + strings.Join(list, ", ") + "}"
}

// asText is the text of a member that has a number as a number or as a string.
func asText(raw string) string {
	var text string
	if json.Unmarshal([]byte(raw), &text) == nil && text != "" {
		return text
	}
	return raw
}

var (
	longest      = big.NewRat(int64(MaxLifetime/time.Second), 1)
	anyNumber    = regexp.MustCompile(`^([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?$`)
	wayTooMuch   = new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(309), nil))
	mostExponent = big.NewInt(1000)
)

// number is the exact value of a decimal number. One whose exponent is beyond all sense comes to 0, or to so
// much that nothing can hold it.
func number(text string) (*big.Rat, bool) {
	parts := anyNumber.FindStringSubmatch(text)
	if parts == nil {
		return nil, false
	}
	exponent := new(big.Int)
	if parts[3] != "" {
		exponent.SetString(parts[3], 10)
	}
	value := new(big.Rat)
	if digits := strings.Trim(parts[2], "0."); digits == "" {
		return value, true
	}
	if exponent.CmpAbs(mostExponent) > 0 {
		if exponent.Sign() > 0 && len(parts[2]) < 500 {
			value.Set(wayTooMuch)
		}
	} else {
		value.SetString(strings.TrimPrefix(text, "+"))
		return value, true
	}
	if parts[1] == "-" {
		value.Neg(value)
	}
	return value, true
}

// exactly is how long expires_in says a token lives. Nothing is known if it is no number, or too much.
func exactly(text string) (*big.Rat, bool) {
	seconds, ok := number(strings.TrimSpace(text))
	if !ok {
		return new(big.Rat), false
	}
	if seconds.Sign() < 0 {
		seconds = new(big.Rat)
	}
	return seconds, seconds.Cmp(longest) <= 0
}

// exactLifetime is how long a token lives by its own claims: from now, and altogether. A claim that a float
// can't hold is none.
func exactLifetime(exp, iat string, now time.Time) (*big.Rat, bool) {
	end, ok := number(exp)
	if !ok || new(big.Rat).Abs(end).Cmp(wayTooMuch) >= 0 {
		return nil, false
	}
	left := new(big.Rat).Sub(end, big.NewRat(now.Unix(), 1))
	if begin, ok := number(iat); ok && new(big.Rat).Abs(begin).Cmp(wayTooMuch) < 0 {
		if altogether := new(big.Rat).Sub(end, begin); altogether.Cmp(left) < 0 {
			left = altogether
		}
	}
	if left.Sign() < 0 {
		left = new(big.Rat)
	}
	return left, left.Cmp(longest) <= 0
}

// checkSeconds allows for what a float can't hold.
func checkSeconds(t *testing.T, what, body string, got time.Duration, want *big.Rat) {
	t.Helper()
	if !isNearly(big.NewRat(int64(got), int64(time.Second)), want) {
		t.Errorf("%s: %s %v, want %s s", body, what, got, want.FloatString(9))
	}
}

// isNearly reports whether two numbers differ by no more than a microsecond in a year.
func isNearly(a, b *big.Rat) bool {
	if a == nil || b == nil {
		return false
	}
	off := new(big.Rat).Sub(a, b)
	most := new(big.Rat).Add(big.NewRat(1, 1_000_000), new(big.Rat).Mul(big.NewRat(1, 1_000_000_000_000), b))
	return off.Abs(off).Cmp(most) <= 0
}
