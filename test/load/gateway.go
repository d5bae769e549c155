package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// kind is what a gateway attaches to requests.
type kind string

const (
	nothing kind = "nothing"  // for an API that asks for no token
	static  kind = "static"   // a token in the configuration
	oauthCC kind = "oauth_cc" // with default options
)

// site is the part of the configuration in which the gateways differ.
func (k kind) site(p *peers) string {
	switch k {
	case nothing:
		return "reverse_proxy " + p.open
	case static:
		return fmt.Sprintf("reverse_proxy %s {\nheader_up Authorization \"Bearer %s\"\n}", p.guarded, staticToken)
	case oauthCC:
		return fmt.Sprintf("oauth_cc http://%s/token {\nclient_id load\nclient_secret %s\n}\nreverse_proxy %s", p.endpoint, clientSecret, p.guarded)
	}
	return ""
}

// gateway is a Caddy that runs as a process of its own.
type gateway struct {
	addr    string
	process *exec.Cmd
	log     string // a file
}

// start starts a gateway. The system has chosen its ports, and its process inherits their listeners, so
// that nobody else can have them and the first request can be sent at once.
func (l *lab) start(ctx context.Context, k kind) (_ *gateway, err error) {
	l.started++
	folder := filepath.Join(l.folder, "gateway-"+strconv.Itoa(l.started))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	caddyfile := filepath.Join(folder, "Caddyfile")
	text := fmt.Sprintf(`{
		admin fd/4
		auto_https off
		persist_config off
		servers {
			protocols h1 h2c
		}
	}
	http:// {
		bind fd/3
		%s
	}
	`, k.site(l.peers))
	if err := os.WriteFile(caddyfile, []byte(text), 0o600); err != nil {
		return nil, err
	}
	g := &gateway{log: filepath.Join(folder, "log")}
	log, err := os.Create(g.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own

	g.process = exec.CommandContext(ctx, l.program, "run", "--adapter", "caddyfile", "--config", caddyfile)
	g.process.Env = append(os.Environ(), "XDG_DATA_HOME="+folder, "XDG_CONFIG_HOME="+folder)
	g.process.Stdout, g.process.Stderr = log, log
	addrs, err := startWithListeners(g.process, 2) // the site and the Admin API
	if err != nil {
		return nil, fmt.Errorf("starting a gateway: %w", err)
	}
	g.addr = addrs[0]
	return g, nil
}

// startWith starts a gateway, makes connections to it and warms both up.
func (l *lab) startWith(ctx context.Context, k kind, c testCase) (*gateway, []client, error) {
	g, err := l.start(ctx, k)
	if err != nil {
		return nil, nil, err
	}
	clients := c.clients(g.addr, l.workers)
	// The very first requests wait until Caddy is up.
	for _, length := range []time.Duration{0, l.slice} {
		warm, err := drive(ctx, g, clients, length, c.answer)
		if err == nil {
			err = warm.onlyServed()
		}
		if err != nil {
			g.stop(clients)
			return nil, nil, fmt.Errorf("the first requests to a gateway with %s: %w", k, err)
		}
	}
	return g, clients, nil
}

func (g *gateway) pid() int { return g.process.Process.Pid }

// stop ends the process and the clients' connections to it.
func (g *gateway) stop(clients []client) {
	for _, c := range clients {
		c.close()
	}
	_ = g.process.Process.Kill()
	_ = g.process.Wait() // killed, which it reports as an error
}

// lastWords are the end of the log, for errors.
func (g *gateway) lastWords() string {
	text, _ := os.ReadFile(g.log) // nothing to show if it fails
	lines := bytes.SplitAfter(text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], nil))
}
