package oauthcc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// inspectConfig provisions a configuration as Caddy does, except for its log and its admin endpoint, and calls look
// with its handlers and the app that they are in. The apps are not started, and are cleaned up in the end. Other
// modules do what they do when they are provisioned, such as active health checks. Caddy's storage module is not
// cleaned up: the process ends soon after.
func inspectConfig(config *caddy.Config, look func(*caddyhttp.App, []*Handler) error) error {
	before := handlers.all()
	apps := config.AppsRaw
	config.Logging, config.Admin, config.AppsRaw = quietLogging(), nil, make(caddy.ModuleMap)
	// Nobody outside Caddy can cancel the context that it makes here. So that has only the storage, and the apps
	// are provisioned in a context that can be cancelled.
	whole, err := caddy.ProvisionContext(config)
	if err != nil {
		return err
	}
	ctx, end := caddy.NewContext(whole)
	defer end()
	maps.Copy(config.AppsRaw, apps)
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		if _, err := ctx.App(name); err != nil {
			return err
		}
	}
	set := slices.DeleteFunc(handlers.all(), func(h *Handler) bool { return slices.Contains(before, h) })
	app, err := ctx.App("http") // an empty one if the configuration has none
	if err != nil {
		return err
	}
	return look(app.(*caddyhttp.App), set)
}

// quietLogging logs warnings to stderr, and nothing to the files of a gateway.
func quietLogging() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{
		WriterRaw: json.RawMessage(`{"output":"stderr"}`), Level: "WARN",
	}}}}
}

// quietLog makes Caddy itself log so from now on: it logs as the last configuration says that was provisioned.
func quietLog() error {
	if err := caddy.Validate(&caddy.Config{Logging: quietLogging()}); err != nil {
		return fmt.Errorf("setting up the log: %w", err)
	}
	return nil
}

// handlerOrder lists the handlers of a configuration in the order in which they are written. Caddy provisions servers
// in any order.
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

// asWritten identifies a handler by options that Provision does not change.
func (h *Handler) asWritten() string {
	text, _ := json.Marshal([]any{
		h.TokenEndpoint, h.Issuer, h.ClientID, h.ClientSecret, h.SigningKey, h.ClientAssertion, h.Grant, h.Scopes, h.Audience, h.Resource, h.Params, h.RequestHeaders, h.ResponseFields, h.TTL, h.DPoP,
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
