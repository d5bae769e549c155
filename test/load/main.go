// Command load measures what a request costs in a gateway: with oauth_cc, with a static header in its
// place, and with nothing attached. Then it drives the gateway with oauth_cc through storms. It prints
// Markdown tables. ../README.md says how to run it and what the numbers mean.
//
//   - lab.go: what a run has: the gateway's program, the peers and the settings
//   - cases.go, request.go: the requests that are measured
//   - http1.go, h2c.go: clients that send them
//   - slice.go: load on one gateway for a while, and what came of it
//   - compare.go: slices of two gateways by turns
//   - storm.go: load while tokens expire, are revoked or can't be had
//   - gateway.go, listeners.go, process_linux.go: a Caddy as a process of its own
//   - peers.go, tokens.go, control.go: the API and the token endpoint, in a process of their own
//   - stats.go, report.go, machine.go: the numbers and the tables
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	if isPeers() {
		exitWith(servePeers())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	exitWith(err)
}

func exitWith(err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "FAILED:", err)
	os.Exit(1)
}

// settings are what the command line says.
type settings struct {
	starts, pairs int
	slice         time.Duration
	storm         time.Duration
	revoke        time.Duration
	workers       int

	cases       []testCase
	comparisons []comparison
	storms      []storm
}

func parseSettings(args []string, output io.Writer) (s settings, err error) {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.IntVar(&s.starts, "starts", 3, "how often the gateways of a comparison are started")
	flags.IntVar(&s.pairs, "pairs", 12, "pairs of slices in each start")
	flags.DurationVar(&s.slice, "slice", time.Second, "length of a slice")
	flags.DurationVar(&s.storm, "storm", 20*time.Second, "length of a storm")
	flags.DurationVar(&s.revoke, "revoke", 2*time.Second, "time from one revocation of all tokens to the next")
	flags.IntVar(&s.workers, "workers", 16, "requests in progress at a time")
	casePatterns := flags.String("cases", "*", "patterns of cases, with commas between; empty for none")
	comparePatterns := flags.String("compare", "*", "patterns of comparisons; empty for none")
	stormPatterns := flags.String("storms", "*", "patterns of storms; empty for none")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.starts < 1 || s.pairs < 1 || s.workers < 1 || s.slice <= 0 || s.storm <= 0 || s.revoke <= 0 {
		return s, errors.New("-starts, -pairs, -workers, -slice, -storm and -revoke must be more than 0")
	}
	var errs [3]error
	s.cases, errs[0] = choose("-cases", *casePatterns, allCases(), testCase.name)
	s.comparisons, errs[1] = choose("-compare", *comparePatterns, allComparisons(), comparison.name)
	s.storms, errs[2] = choose("-storms", *stormPatterns, allStorms(), func(s storm) string { return s.name })
	if len(s.comparisons) == 0 {
		s.cases = nil
	}
	return s, errors.Join(errs[:]...)
}

// run does everything that the arguments ask for. The report goes to output; progress tells of what is
// measured at the moment.
func run(ctx context.Context, args []string, output, progress io.Writer) error {
	s, err := parseSettings(args, progress)
	if err != nil {
		return err
	}
	l, err := newLab(ctx, s, progress)
	if err != nil {
		return err
	}
	defer l.close()
	if err := writeMachine(output, l); err != nil {
		return err
	}
	// What there is gets written even if the run fails: it may have taken most of an hour.
	compared, err := each(ctx, s.cases, testCase.name, l.measure)
	writeRatios(output, compared)
	writeCosts(output, compared)
	if err != nil {
		return err
	}
	weathered, err := each(ctx, s.storms, func(s storm) string { return s.name }, l.weather)
	writeStorms(output, weathered)
	return err
}

// each does something for each item, up to the first error.
func each[T, R any](ctx context.Context, items []T, name func(T) string, do func(context.Context, T) (R, error)) (results []R, err error) {
	for _, item := range items {
		result, err := do(ctx, item)
		if err != nil {
			return results, fmt.Errorf("%s: %w", name(item), err)
		}
		results = append(results, result)
	}
	return results, nil
}
