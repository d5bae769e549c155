package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
)

// peers are what the gateways talk to: a process of its own, so that its CPU time is not the gateways'.
type peers struct {
	open, guarded string // addresses of the API, without and with a token
	endpoint      string // the token endpoint's address

	process *exec.Cmd
	input   io.Closer
}

// peerListeners is how many addresses the peers have.
const peerListeners = 3

// longLived is how the token endpoint behaves when there is no storm.
var longLived = conduct{Lifetime: 3600}

// startPeers starts this program once more.
func startPeers(ctx context.Context) (_ *peers, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &peers{process: exec.CommandContext(ctx, program)}
	p.process.Env = append(os.Environ(), peersVariable+"=1")
	p.process.Stderr = os.Stderr
	if p.input, err = p.process.StdinPipe(); err != nil {
		return nil, err
	}
	addrs, err := startWithListeners(p.process, peerListeners)
	if err != nil {
		return nil, err
	}
	p.open, p.guarded, p.endpoint = addrs[0], addrs[1], addrs[2]
	if err := p.behave(ctx, longLived); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *peers) stop() {
	_ = p.input.Close()
	_ = p.process.Wait() // whatever it died of, it is over
}

// behave has the token endpoint behave so from now on.
func (p *peers) behave(ctx context.Context, wanted conduct) error {
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	_, err = p.call(ctx, http.MethodPut, "/conduct", body)
	return err
}

// revokeAll revokes all tokens.
func (p *peers) revokeAll(ctx context.Context) error {
	_, err := p.call(ctx, http.MethodPost, "/revocation", nil)
	return err
}

// asked is how many token requests there have been.
func (p *peers) asked(ctx context.Context) (int, error) {
	text, err := p.call(ctx, http.MethodGet, "/asked", nil)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

func (p *peers) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+p.endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return text, err
}
