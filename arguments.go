package oauthcc

import (
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// This file has the kinds of arguments that options take in a Caddyfile.

// parseFunc reads the arguments of an option.
type parseFunc = func(h *Handler, d *caddyfile.Dispenser, args []string) error

// one takes a single argument that is not empty.
func one(name, argument string, target func(*Handler) *string) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		return single(d, name, argument, args, target(h))
	}
}

func single(d *caddyfile.Dispenser, name, argument string, args []string, target *string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Errf("%s takes one argument that is not empty: %s %s", name, name, argument)
	}
	*target = args[0]
	return nil
}

// oneOf takes one of several words.
func oneOf(name string, values []string, target func(*Handler) *string) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		if len(args) != 1 || !slices.Contains(values, args[0]) {
			return d.Errf("%s takes one of %s", name, strings.Join(values, ", "))
		}
		*target(h) = args[0]
		return nil
	}
}

// some takes arguments that add up.
func some(name, arguments string, target func(*Handler) *[]string) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		if len(args) == 0 || slices.Contains(args, "") {
			return d.Errf("%s takes arguments that are not empty: %s %s", name, name, arguments)
		}
		*target(h) = append(*target(h), args...)
		return nil
	}
}

// pair takes a name and a value, which adds to the others of that name.
func pair(name string, target func(*Handler) *map[string][]string) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		if len(args) != 2 || args[0] == "" {
			return d.Errf("%s takes a name that is not empty and one value: %s <name> <value>", name, name)
		}
		pairs := target(h)
		if *pairs == nil {
			*pairs = make(map[string][]string)
		}
		(*pairs)[args[0]] = append((*pairs)[args[0]], args[1])
		return nil
	}
}

// flag is turned on by its presence.
func flag(name string, target func(*Handler) *bool) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		if len(args) != 0 {
			return d.Errf("%s takes no arguments; its presence turns it on", name)
		}
		*target(h) = true
		return nil
	}
}

// duration takes a duration longer than zero, in the units of caddy.ParseDuration.
func duration(name string, target func(*Handler) *caddy.Duration) parseFunc {
	return func(h *Handler, d *caddyfile.Dispenser, args []string) error {
		return positiveDuration(d, name, args, target(h))
	}
}

func positiveDuration(d *caddyfile.Dispenser, name string, args []string, target *caddy.Duration) error {
	if len(args) == 1 {
		if value, err := caddy.ParseDuration(args[0]); err == nil && value > 0 {
			*target = caddy.Duration(value)
			return nil
		}
	}
	return d.Errf("%s takes a duration longer than zero: %s %s", name, name, 10*time.Second)
}
