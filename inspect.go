package oauthcc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// inspectConfig sets a configuration up as Caddy does, but for its log and its admin endpoint,
// and has its handlers looked at. Its apps are not started, and in the end it is cleaned up.
// What other modules do when they are set up goes on meanwhile, such as active health checks.
func inspectConfig(config *caddy.Config, look func([]*Handler) error) error {
	inspection.Lock()
	defer inspection.Unlock()
	inspection.register.Do(func() { caddy.RegisterModule(inspector{}) })
	i := &inspector{apps: slices.Sorted(maps.Keys(config.AppsRaw)), before: handlers.all(), look: look}
	inspection.current = i
	config.Logging, config.Admin = quietLogging(), nil
	if config.AppsRaw == nil {
		config.AppsRaw = make(caddy.ModuleMap)
	}
	config.AppsRaw[inspectorID] = json.RawMessage("{}")
	err := caddy.Validate(config)
	if i.err != nil {
		return i.err // as it was before Caddy told of the inspector as well
	}
	return err
}

// inspector is an app that is set up after all others. caddy.Validate sets a configuration
// up and cleans it up again, and whoever wants a look in between has to be a part of it:
// of what ProvisionContext sets up the context can't be ended from outside Caddy.
type inspector struct {
	apps   []string   // all others
	before []*Handler // that are not of this configuration
	look   func([]*Handler) error
	err    error
}

const inspectorID = "oauth_cc_inspector"

// inspection is the one in progress.
var inspection struct {
	sync.Mutex
	register sync.Once // not at start: it is nothing to configure, or to list
	current  *inspector
}

// CaddyModule implements caddy.Module.
func (inspector) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: inspectorID, New: func() caddy.Module { return inspection.current }}
}

// Provision implements caddy.Provisioner.
func (i *inspector) Provision(ctx caddy.Context) error {
	for _, name := range i.apps {
		if _, i.err = ctx.App(name); i.err != nil {
			return i.err
		}
	}
	set := slices.DeleteFunc(handlers.all(), func(h *Handler) bool { return slices.Contains(i.before, h) })
	i.err = i.look(set)
	return i.err
}

// Start implements caddy.App. It is not called.
func (inspector) Start() error { return nil }

// Stop implements caddy.App.
func (inspector) Stop() error { return nil }

// quietLogging has warnings on stderr, and writes to no file of a gateway.
func quietLogging() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{
		WriterRaw: json.RawMessage(`{"output":"stderr"}`), Level: "WARN",
	}}}}
}

// quietLog has Caddy itself log so from now on, which it does with the last configuration
// that was set up.
func quietLog() error {
	if err := caddy.Validate(&caddy.Config{Logging: quietLogging()}); err != nil {
		return fmt.Errorf("setting up the log: %w", err)
	}
	return nil
}

// handlerOrder lists the handlers of a configuration as they are written there. Caddy sets
// servers up in any order.
type handlerOrder []string

// handlersIn finds the handlers in a configuration, at any depth.
func handlersIn(config json.RawMessage) handlerOrder {
	var order handlerOrder
	var visit func(raw json.RawMessage)
	visit = func(raw json.RawMessage) {
		decoder := json.NewDecoder(bytes.NewReader(raw))
		start, err := decoder.Token()
		if err != nil || start != json.Delim('{') && start != json.Delim('[') {
			return
		}
		var h struct {
			Name string `json:"handler"`
			Handler
		}
		if json.Unmarshal(raw, &h) == nil && h.Name == "oauth_cc" {
			order = append(order, h.Handler.asWritten())
			return
		}
		for decoder.More() {
			if start == json.Delim('{') {
				if _, err := decoder.Token(); err != nil {
					return
				}
			}
			var element json.RawMessage
			if decoder.Decode(&element) != nil {
				return
			}
			visit(element)
		}
	}
	visit(config)
	return order
}

// asWritten is what distinguishes a handler from others, and is not changed by Provision.
func (h *Handler) asWritten() string {
	text, _ := json.Marshal([]any{
		h.TokenEndpoint, h.Issuer, h.ClientID, h.ClientSecret, h.SigningKey, h.Scopes, h.Audience, h.Resource, h.Params, h.RequestHeaders, h.DPoP,
	})
	return string(text)
}

// sorted puts handlers into the order.
func (o handlerOrder) sorted(list []*Handler) []*Handler {
	place := func(h *Handler) int {
		if i := slices.Index(o, h.asWritten()); i >= 0 {
			return i
		}
		return len(o)
	}
	slices.SortStableFunc(list, func(a, b *Handler) int { return place(a) - place(b) })
	return list
}

// Interface guards
var (
	_ caddy.App         = (*inspector)(nil)
	_ caddy.Provisioner = (*inspector)(nil)
)
