package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// thisProcess stands in for a gateway.
func thisProcess() *gateway {
	return &gateway{process: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
}

func driveFor(t *testing.T, handler http.HandlerFunc) (*slice, error) {
	clients := closing(t, newHTTP1Clients(serve(t, handler), getSmall, 4))
	return drive(t.Context(), thisProcess(), clients, 10*time.Millisecond, getSmall.answer)
}

func TestASliceCountsWhatWasAnswered(t *testing.T) {
	var served, refused atomic.Int32
	api := newAPI(nil)
	s, err := driveFor(t, func(w http.ResponseWriter, r *http.Request) {
		if served.Load() < 3 {
			served.Add(1)
			api.ServeHTTP(w, r)
			return
		}
		refused.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.statuses[200] != int(served.Load()) || s.statuses[401] != int(refused.Load()) || s.requests() != s.statuses[200]+s.statuses[401] {
		t.Errorf("counted %v and %d latencies, served %d, refused %d", s.statuses, s.requests(), served.Load(), refused.Load())
	}
	if s.cpu <= 0 || s.elapsed <= 0 || s.latencies[0] <= 0 || s.cost() <= 0 || s.rate() <= 0 {
		t.Errorf("measured %v of CPU time in %v, and a latency of %v", s.cpu, s.elapsed, s.latencies[0])
	}
	if refused.Load() > 0 && s.onlyServed() == nil {
		t.Error("a refused request went unnoticed")
	}
}

func TestOnlyServedWantsNothingElse(t *testing.T) {
	s := slice{statuses: map[int]int{200: 7}, latencies: make([]time.Duration, 7)}
	if err := s.onlyServed(); err != nil {
		t.Error(err)
	}
	s.statuses[502]++
	if err := s.onlyServed(); err == nil || !strings.Contains(err.Error(), "answered 502") {
		t.Errorf("got %v", err)
	}
}

func TestAWrongAnswerFailsTheSlice(t *testing.T) {
	_, err := driveFor(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("short")) })
	if err == nil || !strings.Contains(err.Error(), "an answer had 5 instead of 200 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestABrokenConnectionFailsTheSlice(t *testing.T) {
	_, err := driveFor(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if err == nil || !strings.Contains(err.Error(), "reading the status line") {
		t.Errorf("got %v", err)
	}
}
