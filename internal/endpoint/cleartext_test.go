package endpoint

import (
	"strings"
	"testing"
)

// Over http, everyone on the way could read the credential, or name another endpoint. Names that only look like this
// machine are others.
func TestCleartextIsForThisMachineAlone(t *testing.T) {
	for host, isHere := range map[string]bool{
		"localhost": true, "LocalHost.": true, "auth.localhost": true, "localhost:8080": true,
		"127.0.0.1": true, "127.1.2.3": true, "[::1]": true, "[::1]:8080": true, "[::ffff:127.0.0.1]": true,

		"localhost.example.com": false, "notlocalhost": false, "localhost..": false, "127.0.0.1.example.com": false,
		"127.1": false, "2130706433": false, "0x7f000001": false, "0177.0.0.1": false, "0.0.0.0": false, "[::]": false,
		"10.0.0.1": false, "169.254.169.254": false, "[fe80::1%25lo]": false, "ⓛocalhost": false, "auth.example.com": false,
		"app@localhost": false, "localhost@example.com": false, "localhost%00.example.com": false, `localhost\.example.com`: false, "": false,
	} {
		for kind, r := range map[string]Request{
			"token_endpoint": {Endpoint: "http://" + host + "/token", AuthMethod: AuthNone},
			"issuer":         {Issuer: "http://" + host, AuthMethod: AuthNone},
		} {
			err := r.Check()
			if isHere != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), kind+": ") {
				t.Errorf("%s at %q: %v", kind, host, err)
			}
		}
	}
}
