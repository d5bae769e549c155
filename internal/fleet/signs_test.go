package fleet

import (
	"testing"
	"time"
)

// It takes two looks to see that a gateway lives, and the second has to find something new.
func TestSignWatchWantsANewSign(t *testing.T) {
	key, now := testRecordKey(t, nil), time.Now()
	one, other := key.makeSign(now), key.makeSign(now)
	for name, test := range map[string]struct {
		looks [][]byte
		want  bool // at the last look
	}{
		"the first look":           {[][]byte{one}, false},
		"no sign":                  {[][]byte{nil, nil}, false},
		"one that is there":        {[][]byte{one, one}, false},
		"another one":              {[][]byte{one, other}, true},
		"the first one":            {[][]byte{nil, one}, true},
		"one that is gone":         {[][]byte{one, nil}, false},
		"one that is put back":     {[][]byte{one, other, one}, true}, // by who can write; patience is bounded
		"another one, and no more": {[][]byte{one, other, other}, false},
	} {
		var w signWatch
		isNew := false
		for _, sign := range test.looks {
			isNew = w.isNewSign(sign)
		}
		if isNew != test.want {
			t.Errorf("%s: new: %v", name, isNew)
		}
	}
}

// A sign of life does not pass for a token, nor the other way round.
func TestSignsAndTokensAreToldApart(t *testing.T) {
	key, now := testRecordKey(t, nil), time.Now()
	token, err := key.seal(testRecord(now))
	if err != nil {
		t.Fatal(err)
	}
	if key.isSign(token) {
		t.Error("a token passes for a sign of life")
	}
	if got, ok := key.open(key.makeSign(now)); ok {
		t.Errorf("a sign of life is read as %+v", got)
	}
}
