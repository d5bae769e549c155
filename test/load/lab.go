package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// lab is what all measurements of a run share.
type lab struct {
	settings

	folder   string // for the gateways' files, removed at the end
	program  string // the gateway
	peers    *peers
	progress io.Writer

	started int // gateways so far
}

const module = "github.com/caddy-oauth-cc/caddy-oauth-cc"

// newLab builds the gateway and starts the peers.
func newLab(ctx context.Context, s settings, progress io.Writer) (_ *lab, err error) {
	l := &lab{settings: s, progress: progress}
	if l.folder, err = os.MkdirTemp("", "oauth-cc-load"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.program, err = buildGateway(ctx, l.folder); err != nil {
		return nil, err
	}
	if l.peers, err = startPeers(ctx); err != nil {
		return nil, fmt.Errorf("starting the API and the token endpoint: %w", err)
	}
	return l, nil
}

func (l *lab) close() {
	if l.peers != nil {
		l.peers.stop()
	}
	_ = os.RemoveAll(l.folder)
}

// buildGateway builds cmd/caddy of the module that this one is nested in.
func buildGateway(ctx context.Context, folder string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("looking for the module: %w", err)
	}
	program := filepath.Join(folder, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-o", program, "./cmd/caddy")
	build.Dir = strings.TrimSpace(string(root))
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the gateway: %w\n%s", err, output)
	}
	return program, nil
}

// tell writes a line of progress.
func (l *lab) tell(format string, args ...any) { _, _ = fmt.Fprintf(l.progress, format+"\n", args...) }
