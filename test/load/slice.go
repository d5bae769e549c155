package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// patience is how long the last requests of a slice may take. It is longer than oauth_cc waits for a token.
const patience = 30 * time.Second

// slice is what came of load on a gateway for a while.
type slice struct {
	statuses  map[int]int // how many answers had each
	latencies []time.Duration
	elapsed   time.Duration
	cpu       time.Duration // of the gateway's process
}

func (s *slice) requests() int { return len(s.latencies) }

// cost is the CPU time of a request, in seconds.
func (s *slice) cost() float64 { return s.cpu.Seconds() / float64(s.requests()) }

func (s *slice) rate() float64 { return float64(s.requests()) / s.elapsed.Seconds() }

// onlyServed says what is wrong with a slice in which all requests should have been served.
func (s *slice) onlyServed() error {
	for status, n := range s.statuses {
		if status != 200 {
			return fmt.Errorf("%d of %d requests were answered %d", n, s.requests(), status)
		}
	}
	return nil
}

// drive has each client send requests one after the other until the time is over, and waits for the last
// answers. A request without an answer, and a served one whose answer has another length than it should,
// fail the slice.
func drive(ctx context.Context, g *gateway, clients []client, length time.Duration, answerLength int) (*slice, error) {
	ctx, cancel := context.WithTimeout(ctx, length+patience)
	defer cancel()
	workers := make([]worker, len(clients))
	before, err := cpuTime(g.pid())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	var running sync.WaitGroup
	for i, c := range clients {
		w := &workers[i]
		running.Go(func() {
			if w.err = w.work(ctx, c, start.Add(length), int64(answerLength)); w.err != nil {
				cancel() // the others need not go on
			}
		})
	}
	running.Wait()
	s := &slice{statuses: make(map[int]int), elapsed: time.Since(start)}
	after, err := cpuTime(g.pid())
	if err != nil {
		return nil, err
	}
	s.cpu = after - before
	for _, w := range workers {
		if w.err != nil {
			return nil, fmt.Errorf("%w\n%s", firstFault(workers), g.lastWords())
		}
		for status, n := range w.statuses {
			s.statuses[status] += n
		}
		s.latencies = append(s.latencies, w.latencies...)
	}
	slices.Sort(s.latencies)
	return s, nil
}

// worker is what one client has seen.
type worker struct {
	statuses  map[int]int
	latencies []time.Duration
	err       error
}

// work sends one request at the least.
func (w *worker) work(ctx context.Context, c client, end time.Time, length int64) error {
	w.statuses = make(map[int]int)
	sent := time.Now()
	for first := true; first || sent.Before(end) && ctx.Err() == nil; first = false {
		got, err := c.exchange(ctx)
		if err != nil {
			return err
		}
		if got.status == 200 && got.length != length {
			return fmt.Errorf("an answer had %d instead of %d bytes", got.length, length)
		}
		answered := time.Now()
		w.statuses[got.status]++
		w.latencies = append(w.latencies, answered.Sub(sent))
		sent = answered
	}
	return nil
}

// firstFault is an error that is not merely the end of the others.
func firstFault(workers []worker) (err error) {
	for _, w := range workers {
		if err == nil || w.err != nil && isCancelled(err) {
			err = w.err
		}
	}
	return err
}
