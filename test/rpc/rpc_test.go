//go:build !race

package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// caller is a client of a gateway before an API.
type caller struct {
	grpc_testing.TestServiceClient
	api      *api
	endpoint *gatewaytest.TokenServer
	g        *gatewaytest.Gateway
}

// way is with or without TLS on each side of the gateway.
type way struct {
	client    gatewaytest.ClientProtocol
	encrypted bool // the API's side
}

func (w way) String() string {
	return fmt.Sprintf("%s, API with TLS %t", w.client.Name, w.encrypted)
}

// ways are all of them; gRPC is not spoken over HTTP/1.1.
func ways() (all []way) {
	for _, protocol := range gatewaytest.ClientProtocols {
		if protocol.Version == "HTTP/2.0" {
			all = append(all, way{protocol, false}, way{protocol, true})
		}
	}
	return all
}

func (w way) start(t *testing.T, inTrailers bool, options ...string) *caller {
	t.Helper()
	c := &caller{api: startAPI(t, w.encrypted, inTrailers), endpoint: gatewaytest.StartTokenServer(t)}
	g, base, client := w.client.Start(t, c.endpoint.Options(options...)+c.api.proxy)
	transport := insecure.NewCredentials()
	if config := client.Transport.(*http.Transport).TLSClientConfig; config != nil {
		transport = credentials.NewTLS(config)
	}
	_, addr, _ := strings.Cut(base, "://")
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(transport), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the gateway waits for it when it stops
	c.g, c.TestServiceClient = g, grpc_testing.NewTestServiceClient(conn)
	return c
}

// call makes a call of some kind, and wants the API's answer.
type call func(ctx context.Context, c *caller, options ...grpc.CallOption) error

var calls = map[string]call{"unary": unary, "server streaming": serverStreaming, "client streaming": clientStreaming, "bidirectional": bidirectional}

func payload(size int) *grpc_testing.Payload {
	return &grpc_testing.Payload{Body: bytes.Repeat([]byte("x"), size)}
}

// wantSize is the error for a message that did not come back whole.
func wantSize(got *grpc_testing.Payload, want int) error {
	if !proto.Equal(got, payload(want)) {
		return fmt.Errorf("a message of %d bytes came back, want %d", len(got.GetBody()), want)
	}
	return nil
}

func unary(ctx context.Context, c *caller, options ...grpc.CallOption) error {
	return unaryOf(ctx, c, 1000, options...)
}

func unaryOf(ctx context.Context, c *caller, size int, options ...grpc.CallOption) error {
	res, err := c.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: payload(size)}, options...)
	if err != nil {
		return err
	}
	return wantSize(res.Payload, size)
}

func serverStreaming(ctx context.Context, c *caller, options ...grpc.CallOption) error {
	stream, err := c.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{Payload: payload(1000)}, options...)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		res, err := stream.Recv()
		if err == io.EOF && n == 3 {
			return nil
		}
		if err != nil {
			return err
		}
		if err := wantSize(res.Payload, 1000); err != nil {
			return err
		}
	}
}

func clientStreaming(ctx context.Context, c *caller, options ...grpc.CallOption) error {
	stream, err := c.StreamingInputCall(ctx, options...)
	if err != nil {
		return err
	}
	for range 3 {
		// A stream that has ended says why when the answer is read.
		if err := stream.Send(&grpc_testing.StreamingInputCallRequest{Payload: payload(1000)}); err != nil && err != io.EOF {
			return err
		}
	}
	res, err := stream.CloseAndRecv()
	if err == nil && res.AggregatedPayloadSize != 3000 {
		err = fmt.Errorf("%d bytes arrived, want 3000", res.AggregatedPayloadSize)
	}
	return err
}

// bidirectional sends a message only when the one before has come back.
func bidirectional(ctx context.Context, c *caller, options ...grpc.CallOption) error {
	stream, err := c.FullDuplexCall(ctx, options...)
	if err != nil {
		return err
	}
	for range 3 {
		if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload(1000)}); err != nil && err != io.EOF {
			return err
		}
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := wantSize(res.Payload, 1000); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("the stream does not end: %w", err)
	}
	return nil
}

// wantToken makes a call, and wants the API to have got that token.
func (c *caller) wantToken(t *testing.T, call call, want string) {
	t.Helper()
	var header, trailer metadata.MD
	if err := call(testContext(t), c, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	for where, got := range map[string][]string{"header": header["token"], "trailers": trailer["token"]} {
		if len(got) != 1 || got[0] != want {
			t.Errorf("the %s tell of the tokens %q, want %s", where, got, want)
		}
	}
}

// wantCode makes a call, and wants it to fail.
func (c *caller) wantCode(t *testing.T, call call, want codes.Code) *status.Status {
	t.Helper()
	err := call(testContext(t), c)
	if got := status.Code(err); got != want {
		t.Errorf("got %s by %v, want %s", got, err, want)
	}
	return status.Convert(err)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), gatewaytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// eachCall tests calls of all kinds, by all ways.
func eachCall(t *testing.T, test func(t *testing.T, w way, call call)) {
	for _, w := range ways() {
		for name, call := range calls {
			t.Run(w.String()+"/"+name, func(t *testing.T) { test(t, w, call) })
		}
	}
}

func TestGRPCCallSurvivesARevocation(t *testing.T) {
	eachCall(t, func(t *testing.T, w way, call call) {
		c := w.start(t, false)
		c.wantToken(t, call, "token-1")
		c.api.revoke()
		c.wantToken(t, call, "token-2")
		c.wantToken(t, call, "token-2")
		gatewaytest.WantFetched(t, c.endpoint, 2)
		if n := c.api.refusals(); n != 1 {
			t.Errorf("the API refused %d calls, want 1", n)
		}
	})
}

// A status that comes after the header can't be seen before the header has reached the client.
func TestGRPCStatusInTrailersReachesTheClient(t *testing.T) {
	eachCall(t, func(t *testing.T, w way, call call) {
		c := w.start(t, true)
		c.wantToken(t, call, "token-1")
		c.api.revoke()
		c.wantCode(t, call, codes.Unauthenticated)
		gatewaytest.WantFetched(t, c.endpoint, 1)
	})
}

// The client has not closed its side.
func TestGRPCServerEndsAStream(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.String(), func(t *testing.T) {
			stream, err := w.start(t, false).FullDuplexCall(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{1000, 0} {
				if err := stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: payload(size)}); err != nil {
					t.Fatal(err)
				}
				res, err := stream.Recv()
				if size == 0 && err == io.EOF {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := wantSize(res.Payload, size); err != nil {
					t.Error(err)
				}
			}
			t.Error("the stream goes on")
		})
	}
}

func TestGRPCMessageUpToTheBufferSurvivesARevocation(t *testing.T) {
	const buffer = 1 << 20 // the default
	// The buffer has the prefix and the fields of a message as well.
	size := buffer
	for 5+proto.Size(&grpc_testing.SimpleRequest{Payload: payload(size)}) > buffer {
		size--
	}
	sized := func(size int) call {
		return func(ctx context.Context, c *caller, options ...grpc.CallOption) error {
			return unaryOf(ctx, c, size, options...)
		}
	}
	for _, w := range ways() {
		t.Run(w.String()+"/the buffer's size", func(t *testing.T) {
			c := w.start(t, false)
			c.wantToken(t, sized(size), "token-1")
			c.api.revoke()
			c.wantToken(t, sized(size), "token-2")
		})
		t.Run(w.String()+"/larger", func(t *testing.T) {
			c := w.start(t, false)
			c.wantToken(t, sized(size+1), "token-1")
			c.api.revoke()
			c.wantCode(t, sized(size+1), codes.Unauthenticated)
			gatewaytest.Await(t, "renewal in the background", func() bool { return c.endpoint.Count() == 2 })
			gatewaytest.Await(t, "the new token in use", func() bool { return sized(size+1)(testContext(t), c) == nil })
		})
	}
}

func TestGRPCClientSeesTheMask(t *testing.T) {
	c := ways()[0].start(t, false, "mask_rejection")
	c.api.revoked = "token-1"
	c.endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"access_token":"token-1","token_type":"Bearer","expires_in":3600}`)
	})
	if s := c.wantCode(t, unary, codes.Unavailable); s.Message() != "" || len(s.Details()) != 0 {
		t.Errorf("the client got %q with %v", s.Message(), s.Details())
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) { c.wantCode(t, call, codes.Unavailable) })
	}
}

// What a gateway answers without a token is HTTP.
func TestGRPCClientSeesAnOutage(t *testing.T) {
	c := ways()[0].start(t, false)
	for name, answer := range map[string]gatewaytest.EndpointAnswer{
		"refused":        gatewaytest.RefuseClients,
		"not to be used": gatewaytest.Says(http.StatusOK, "text/html", "Welcome!"),
	} {
		t.Run(name, func(t *testing.T) {
			gatewaytest.ForgetTokens(t)
			c.endpoint.SetAnswer(answer)
			c.wantCode(t, unary, codes.Unavailable)
		})
	}
}
