//go:build !race

package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// api is a gRPC API that accepts the tokens that were not revoked.
type api struct {
	grpc_testing.UnimplementedTestServiceServer

	proxy      string // the reverse_proxy directive for it
	inTrailers bool   // a refusal comes after the header

	mu      sync.Mutex
	revoked string // the token; there is one at a time
	last    string // the token that was accepted last
	refused int    // calls
}

// startAPI runs one, with or without TLS.
func startAPI(t *testing.T, encrypted, inTrailers bool) *api {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &api{inTrailers: inTrailers, proxy: "reverse_proxy h2c://" + listener.Addr().String() + "\n"}
	options := []grpc.ServerOption{grpc.UnaryInterceptor(a.authorizeCall), grpc.StreamInterceptor(a.authorizeStream)}
	if encrypted {
		ca := servertest.NewCA(t)
		certificate := ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour))
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
		a.proxy = "reverse_proxy https://" + listener.Addr().String() + " {\ntransport http {\ntls_trust_pool file " + ca.File(t) + "\n}\n}\n"
	}
	server := grpc.NewServer(options...)
	grpc_testing.RegisterTestServiceServer(server, a)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return a
}

// revoke takes back the token that was accepted last.
func (a *api) revoke() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = a.last
}

// refusals counts the calls that were refused.
func (a *api) refusals() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// authorize looks at the token of a call, and sends it back in the header and the trailers. A call that is
// refused has no header yet, unless the refusal is to come in trailers.
func (a *api) authorize(ctx context.Context) error {
	incoming, _ := metadata.FromIncomingContext(ctx)
	token := strings.TrimPrefix(strings.Join(incoming["authorization"], " "), "Bearer ")
	a.mu.Lock()
	defer a.mu.Unlock()
	if token == "" || token == a.revoked {
		a.refused++
		if a.inTrailers {
			if err := grpc.SendHeader(ctx, metadata.Pairs("token", token)); err != nil {
				return err
			}
		}
		return status.Error(codes.Unauthenticated, "the token was revoked")
	}
	a.last = token
	return errors.Join(grpc.SetHeader(ctx, metadata.Pairs("token", token)), grpc.SetTrailer(ctx, metadata.Pairs("token", token)))
}

func (a *api) authorizeCall(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := a.authorize(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (a *api) authorizeStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := a.authorize(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}

func (a *api) UnaryCall(_ context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return &grpc_testing.SimpleResponse{Payload: req.Payload}, nil
}

// StreamingOutputCall answers with the message three times.
func (a *api) StreamingOutputCall(req *grpc_testing.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	for range 3 {
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: req.Payload}); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall answers with the size of all messages.
func (a *api) StreamingInputCall(stream grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	size := 0
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(req.Payload.Body)
	}
}

// FullDuplexCall answers each message with itself. An empty one ends the stream.
func (a *api) FullDuplexCall(stream grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	for {
		req, err := stream.Recv()
		if err == io.EOF || err == nil && len(req.Payload.Body) == 0 {
			return nil
		}
		if err == nil {
			err = stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: req.Payload})
		}
		if err != nil {
			return err
		}
	}
}
