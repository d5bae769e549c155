package oauthcc

import (
	"net/http"
	"strings"
)

// grpcUnauthenticated is gRPC's UNAUTHENTICATED, as it is written in the header.
const grpcUnauthenticated = "16"

// judgedStatus returns the status by which an answer is judged, and whether it is an error. The HTTP status of a gRPC
// call is 200. The call has its own status, which is in the header if no message precedes it ("Trailers-Only").
// UNAUTHENTICATED counts as 401.
func judgedStatus(status int, header http.Header) (judged int, isError bool) {
	if status != http.StatusOK || !isGRPC(header) {
		return status, status >= http.StatusBadRequest
	}
	switch header.Get("Grpc-Status") {
	case grpcUnauthenticated:
		return http.StatusUnauthorized, true
	case "", "0": // it comes in the trailers, or is OK
		return status, false
	default:
		return status, true
	}
}

// isGRPC reports whether an answer is one of gRPC or gRPC-Web.
func isGRPC(header http.Header) bool {
	const grpc = "application/grpc" // followed by -web, a codec or parameters
	contentType := header.Get("Content-Type")
	return len(contentType) >= len(grpc) && strings.EqualFold(contentType[:len(grpc)], grpc)
}

// maskRejection gives the answer of a rejection the status mask, and returns its HTTP status. What is
// meant for the gateway is removed: the challenge, and where to log in. gRPC clients go by the status in the
// header, so that one is replaced. The HTTP status of a call stays 200.
func maskRejection(status int, header http.Header, mask int) int {
	delete(header, "Www-Authenticate")
	delete(header, "Location")
	if !isGRPC(header) || header["Grpc-Status"] == nil {
		return mask
	}
	header["Grpc-Status"] = []string{grpcStatus(mask)}
	delete(header, "Grpc-Message")
	delete(header, "Grpc-Status-Details-Bin") // repeats the status and the message
	if status == http.StatusOK {
		return status
	}
	return mask
}

// grpcStatus is the gRPC status for an HTTP status, as clients see an answer that has none of gRPC's ("HTTP to gRPC
// Status Code Mapping", https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
func grpcStatus(status int) string {
	switch status {
	case http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge:
		return "13" // INTERNAL
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return "7" // PERMISSION_DENIED
	case http.StatusNotFound:
		return "12" // UNIMPLEMENTED
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "14" // UNAVAILABLE
	default:
		return "2" // UNKNOWN
	}
}
