package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"runtime"
	"strings"
)

// writeMachine writes what the numbers depend on.
func writeMachine(w io.Writer, l *lab) error {
	built, err := buildinfo.ReadFile(l.program)
	if err != nil {
		return fmt.Errorf("reading the gateway's versions: %w", err)
	}
	caddy := "unknown"
	for _, dependency := range built.Deps {
		if dependency.Path == "github.com/caddyserver/caddy/v2" {
			caddy = dependency.Version
		}
	}
	_, err = fmt.Fprintf(w, `| | |
|---|---|
| CPU | %s, %d cores, %s/%s |
| Go | %s, GOMAXPROCS %d |
| Caddy | %s |
| oauth_cc | %s |
| load | workers: %d, starts: %d, pairs in each: %d, slices of %s, storms of %s, revocations every %s |

`, processorModel(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, strings.TrimPrefix(built.GoVersion, "go"), runtime.GOMAXPROCS(0),
		caddy, built.Main.Version, l.workers, l.starts, l.pairs, l.slice, l.storm, l.revoke)
	return err
}
