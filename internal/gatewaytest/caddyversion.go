package gatewaytest

import (
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
)

// CaddySince reports whether the tests run with v2.11.<patch> of Caddy or a later one. They run with the newest, and with the
// lowest that go.mod names.
func CaddySince(patch int) bool {
	return slices.Compare(caddyVersion, []int{2, 11, patch}) >= 0
}

// PassedTrailer is the value with which a trailer of a request arrives. Before v2.11.8 reverse_proxy passes on its name
// only, unless oauth_cc sends the request again.
func PassedTrailer(value string) string {
	if CaddySince(8) {
		return value
	}
	return ""
}

// caddyVersion is that of the module that Caddy's source is in: a test program has no list of its modules. Without a
// version there, it is a Caddy that somebody works on.
var caddyVersion = func() []int {
	entry := reflect.ValueOf(caddy.Version).Pointer()
	file, _ := runtime.FuncForPC(entry).FileLine(entry)
	found := regexp.MustCompile(`/caddy/v2@v(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(file)
	if found == nil {
		return []int{3}
	}
	var version []int
	for _, digits := range found[1:] {
		number, err := strconv.Atoi(digits)
		if err != nil {
			panic(err)
		}
		version = append(version, number)
	}
	return version
}()
