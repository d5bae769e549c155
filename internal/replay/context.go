package replay

import (
	"context"
	"net/http"
	"reflect"
	"unsafe"
)

// contextAt is where in a request its context is, if contextFound.
var contextAt, contextFound = func() (uintptr, bool) {
	field, ok := reflect.TypeFor[http.Request]().FieldByName("ctx")
	return field.Offset, ok && field.Type == reflect.TypeFor[context.Context]()
}()

// setContext changes the context of r in place, and nothing else. Package http can only do that by writing the
// whole request. But when a transport has read the body to its end, Caddy's proxy reads r.Trailer on the transport's
// goroutine. That can be long after the attempt, and with HTTP/2 nothing tells that it is over.
func setContext(r *http.Request, ctx context.Context) {
	if !contextFound { // in a version of Go that TestOnlyTheContextIsSet fails with
		*r = *r.WithContext(ctx)
		return
	}
	*(*context.Context)(unsafe.Add(unsafe.Pointer(r), contextAt)) = ctx //nolint:gosec // see above
}
