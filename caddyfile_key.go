package oauthcc

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// This file reads the options about what the client signs, or has signed by somebody else.

// blockOption is an option in the block of another one.
type blockOption struct {
	name       string
	repeatable bool
	parse      func(d *caddyfile.Dispenser, args []string) error
}

// unmarshalBlock reads the block of an option, if it has one. Each option in it takes a line.
func unmarshalBlock(d *caddyfile.Dispenser, of string, options []blockOption) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		i := slices.IndexFunc(options, func(o blockOption) bool { return o.name == name })
		if i < 0 {
			names := make([]string, len(options))
			for i, o := range options {
				names[i] = o.name
			}
			return d.Errf("%s: unknown option %s; the options are %s", of, name, strings.Join(names, ", "))
		}
		if seen[name] && !options[i].repeatable {
			return d.Errf("%s: %s is given twice; keep one of them", of, name)
		}
		seen[name] = true
		if err := options[i].parse(d, d.RemainingArgs()); err != nil {
			return err
		}
		if err := endLine(d, name); err != nil {
			return err
		}
	}
	return nil
}

// text is an option in a block with a single argument.
func text(name, argument string, target *string) blockOption {
	return blockOption{name: name, parse: func(d *caddyfile.Dispenser, args []string) error {
		return single(d, name, argument, args, target)
	}}
}

func (h *Handler) unmarshalSigningKey(d *caddyfile.Dispenser) error {
	k := new(SigningKey)
	h.SigningKey = k
	switch args := d.RemainingArgs(); {
	case len(args) == 1 && args[0] != "":
		k.File = args[0]
	case len(args) > 0:
		return d.Errf("signing_key takes one file at the most, and the rest in a block: signing_key [<file>] { ... }")
	}
	err := unmarshalBlock(d, "signing_key", []blockOption{
		text("alg", "<alg>", &k.Alg),
		text("key_id", "<kid>", &k.KeyID),
		{name: "certificate", parse: k.unmarshalCertificate},
		text("audience", "<value>", &k.Audience),
		text("typ", "<value>", &k.Typ),
		{name: "lifetime", parse: func(d *caddyfile.Dispenser, args []string) error {
			return positiveDuration(d, "lifetime", args, &k.Lifetime)
		}},
	})
	if err == nil && *k == (SigningKey{}) {
		return d.Errf("signing_key takes a file, a block or both: signing_key [<file>] { ... }")
	}
	return err
}

func (k *SigningKey) unmarshalCertificate(d *caddyfile.Dispenser, args []string) error {
	if len(args) < 1 || len(args) > 2 || args[0] == "" || len(args) == 2 && args[1] != "x5c" {
		return d.Errf("certificate takes a file, and x5c to send the certificates as well: certificate <file> [x5c]")
	}
	k.Certificate, k.X5C = args[0], len(args) == 2
	return nil
}

func (h *Handler) unmarshalClientAssertion(d *caddyfile.Dispenser, args []string) error {
	if len(args) < 1 || len(args) > 2 || slices.Contains(args, "") {
		return d.Errf("client_assertion takes one or two arguments that are not empty: client_assertion <jwt> [<type>], such as client_assertion {file./path/to/file}")
	}
	h.ClientAssertion = &ClientAssertion{Value: args[0]}
	if len(args) == 2 {
		if err := endpoint.CheckAssertionType(args[1]); err != nil {
			return d.WrapErr(err)
		}
		h.ClientAssertion.Type = args[1]
	}
	return nil
}

func (h *Handler) unmarshalGrant(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 || args[0] != endpoint.GrantJWTBearer {
		return d.Errf("grant takes one kind of grant and a block: grant %s { ... }; leave it out for the client-credentials grant, and write others with param grant_type", endpoint.GrantJWTBearer)
	}
	g := &Grant{Type: args[0]}
	h.Grant = g
	return unmarshalBlock(d, "grant", []blockOption{
		text("issuer", "<value>", &g.Issuer),
		text("subject", "<value>", &g.Subject),
		text("audience", "<value>", &g.Audience),
		{name: "scope_claim", parse: func(d *caddyfile.Dispenser, args []string) error {
			if len(args) > 0 {
				return d.Errf("scope_claim takes no arguments; its presence turns it on")
			}
			g.ScopeClaim = true
			return nil
		}},
		{name: "claim", repeatable: true, parse: g.unmarshalClaim},
		{name: "lifetime", parse: func(d *caddyfile.Dispenser, args []string) error {
			return positiveDuration(d, "lifetime", args, &g.Lifetime)
		}},
	})
}

func (g *Grant) unmarshalClaim(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 2 || args[0] == "" {
		return d.Errf("claim takes a name that is not empty and one value: claim <name> <value>")
	}
	if _, isGiven := g.Claims[args[0]]; isGiven {
		return d.Errf("grant: claim %s is given twice; keep one of them", args[0])
	}
	if g.Claims == nil {
		g.Claims = make(map[string]string)
	}
	g.Claims[args[0]] = args[1]
	return nil
}
