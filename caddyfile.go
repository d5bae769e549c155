package oauthcc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("oauth_cc", parseCaddyfile)
	// After authentication, headers and whatever wraps responses, before what
	// dispatches and proxies.
	httpcaddyfile.RegisterDirectiveOrder("oauth_cc", httpcaddyfile.Before, "invoke")
}

func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	return h, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	oauth_cc [<matcher>] [<token_endpoint>] {
//	    token_endpoint            <url>
//	    issuer                    <url>
//	    timeout                   <duration>
//	    transport {
//	        # the options of reverse_proxy's transport http
//	    }
//	    insecure_http
//
//	    client_id                 <id>
//	    client_secret             <secret>
//	    auth_method               client_secret_basic|client_secret_basic_raw|client_secret_post|
//	                              client_secret_jwt|private_key_jwt|tls_client_auth|none
//	    signing_key               [<file>] {
//	        alg      <alg>
//	        key_id   <kid>
//	        audience <value>
//	        typ      <value>
//	        lifetime <duration>
//	    }
//
//	    request_format            form|json
//	    scope                     <scope...>
//	    audience                  <audience...>
//	    resource                  <uri...>
//	    param                     <name> <value>
//	    request_header            <name> <value>
//
//	    refresh_ahead             <duration>|<percent>%|off
//	    default_ttl               <duration>
//	    prefetch
//
//	    token_header              <name> [<scheme>]
//	    keep_client_authorization
//	    retry_status              <status...>|off
//	    replay_buffer             <per request> [<total>]
//	    mask_rejection            [<status>]
//	    allow_without_token
//
//	    max_tokens                <n>
//	    storage                   [<module> ...]
//
//	    dpop                      <origin>
//	}
//
// The options scope, audience, resource, param and request_header can be repeated.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	seen := make(map[string]bool)
	if args := d.RemainingArgs(); len(args) > 0 {
		if len(args) > 1 {
			return d.Errf("too many arguments: give one token endpoint, and everything else in a block")
		}
		h.TokenEndpoint = args[0]
		seen["token_endpoint"] = true
	}
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] && !slices.Contains(repeatable, option) {
			return d.Errf("%s is given twice; keep one of them", option)
		}
		seen[option] = true
		if unmarshal := h.blockOption(option); unmarshal != nil {
			if err := unmarshal(d); err != nil {
				return err
			}
			continue
		}
		args := d.RemainingArgs()
		if err := h.unmarshalOption(d, option, args); err != nil {
			return err
		}
		if err := endLine(d, option); err != nil {
			return err
		}
	}
	return nil
}

// endLine refuses what is left of an option's line, which is a brace.
func endLine(d *caddyfile.Dispenser, option string) error {
	if !d.NextLine() {
		return d.Errf("%s takes no block; write all of it on one line, without braces", option)
	}
	d.Prev()
	return nil
}

// blockOption returns the parser of an option that takes a block, or nil.
func (h *Handler) blockOption(option string) func(*caddyfile.Dispenser) error {
	switch option {
	case "transport":
		return h.unmarshalTransport
	case "signing_key":
		return h.unmarshalSigningKey
	case "storage":
		return h.unmarshalStorage
	}
	return nil
}

// repeatable are the options that add up.
var repeatable = []string{"scope", "audience", "resource", "param", "request_header"}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) error {
	switch option {
	case "token_endpoint":
		return one(d, option, "<url>", args, &h.TokenEndpoint)
	case "issuer":
		return one(d, option, "<url>", args, &h.Issuer)
	case "timeout":
		return duration(d, option, args, &h.Timeout)
	case "insecure_http":
		return flag(d, option, args, &h.InsecureHTTP)
	case "client_id":
		return one(d, option, "<id>", args, &h.ClientID)
	case "client_secret":
		return one(d, option, "<secret>", args, &h.ClientSecret)
	case "auth_method":
		return oneOf(d, option, authMethods, args, &h.AuthMethod)
	case "request_format":
		return oneOf(d, option, []string{formatForm, formatJSON}, args, &h.RequestFormat)
	case "scope":
		return some(d, option, "<scope...>", args, &h.Scopes)
	case "audience":
		return some(d, option, "<audience...>", args, &h.Audience)
	case "resource":
		return some(d, option, "<uri...>", args, &h.Resource)
	case "param":
		return pair(d, option, args, &h.Params)
	case "request_header":
		if len(args) == 2 {
			args[0] = http.CanonicalHeaderKey(args[0])
		}
		return pair(d, option, args, &h.RequestHeaders)
	case "refresh_ahead":
		return h.unmarshalRefreshAhead(d, args)
	case "default_ttl":
		return duration(d, option, args, &h.DefaultTTL)
	case "prefetch":
		return flag(d, option, args, &h.Prefetch)
	case "token_header":
		return h.unmarshalTokenHeader(d, args)
	case "keep_client_authorization":
		return flag(d, option, args, &h.KeepClientAuthorization)
	case "retry_status":
		return h.unmarshalRetryStatus(d, args)
	case "replay_buffer":
		return h.unmarshalReplayBuffer(d, args)
	case "mask_rejection":
		return h.unmarshalMaskRejection(d, args)
	case "allow_without_token":
		return flag(d, option, args, &h.AllowWithoutToken)
	case "max_tokens":
		return h.unmarshalMaxTokens(d, args)
	case "dpop":
		return one(d, option, "<origin>", args, &h.DPoP)
	default:
		return d.Errf("unknown option %s; the options are %s", option, strings.Join(options, ", "))
	}
}

// options names every option, for whoever mistyped one.
var options = []string{
	"token_endpoint", "issuer", "timeout", "transport", "insecure_http", "client_id", "client_secret", "auth_method",
	"signing_key", "request_format", "scope", "audience", "resource", "param", "request_header", "refresh_ahead", "default_ttl", "prefetch",
	"token_header",
	"keep_client_authorization", "retry_status", "replay_buffer", "mask_rejection", "allow_without_token",
	"max_tokens", "storage", "dpop",
}

func (h *Handler) unmarshalTransport(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() > 0 {
		return d.Errf("transport takes no arguments; write the options of reverse_proxy's transport http in a block: transport { ... }")
	}
	h.Transport = new(reverseproxy.HTTPTransport)
	return h.Transport.UnmarshalCaddyfile(d.NewFromNextSegment())
}

func (h *Handler) unmarshalStorage(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		h.StorageRaw = json.RawMessage("{}")
		if !d.NextLine() {
			return d.Errf("storage takes the name of a module before a block: storage <module> { ... }")
		}
		d.Prev()
		return nil
	}
	name := d.Val()
	if _, err := caddy.GetModule("caddy.storage." + name); err != nil {
		return d.Errf("storage: this Caddy has no storage module %s; use storage without a name for the storage that Caddy has, or build the module in with xcaddy", name)
	}
	module, err := caddyfile.UnmarshalModule(d, "caddy.storage."+name)
	if err != nil {
		return fmt.Errorf("storage takes what Caddy's global option of that name takes: %w", err)
	}
	h.StorageRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

func (h *Handler) unmarshalSigningKey(d *caddyfile.Dispenser) error {
	h.SigningKey = new(SigningKey)
	switch args := d.RemainingArgs(); {
	case len(args) == 1 && args[0] != "":
		h.SigningKey.File = args[0]
	case len(args) > 0:
		return d.Errf("signing_key takes one file at the most, and the rest in a block: signing_key [<file>] { ... }")
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("signing_key: %s is given twice; keep one of them", option)
		}
		seen[option] = true
		args := d.RemainingArgs()
		var err error
		switch option {
		case "alg":
			err = one(d, option, "<alg>", args, &h.SigningKey.Alg)
		case "key_id":
			err = one(d, option, "<kid>", args, &h.SigningKey.KeyID)
		case "audience":
			err = one(d, option, "<value>", args, &h.SigningKey.Audience)
		case "typ":
			err = one(d, option, "<value>", args, &h.SigningKey.Typ)
		case "lifetime":
			err = duration(d, option, args, &h.SigningKey.Lifetime)
		default:
			err = d.Errf("signing_key: unknown option %s; the options are alg, key_id, audience, typ, lifetime", option)
		}
		if err == nil {
			err = endLine(d, option)
		}
		if err != nil {
			return err
		}
	}
	if *h.SigningKey == (SigningKey{}) {
		return d.Errf("signing_key takes a file, a block or both: signing_key [<file>] { ... }")
	}
	return nil
}

func (h *Handler) unmarshalRefreshAhead(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Errf("refresh_ahead takes one argument: refresh_ahead <duration>|<percent>%%|off")
	}
	if _, err := parseRefreshAhead(args[0]); err != nil {
		return d.WrapErr(err)
	}
	h.RefreshAhead = args[0]
	return nil
}

func (h *Handler) unmarshalTokenHeader(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 && len(args) != 2 {
		return d.Errf("token_header takes one or two arguments: token_header <name> [<scheme>]")
	}
	h.TokenHeader = &TokenHeader{Name: args[0]}
	if len(args) == 2 {
		h.TokenHeader.Scheme = args[1]
	}
	return nil
}

func (h *Handler) unmarshalRetryStatus(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 {
		return d.Errf("retry_status takes arguments: retry_status <status...> or retry_status off")
	}
	h.RetryStatus = []int{}
	if len(args) == 1 && args[0] == "off" {
		return nil
	}
	for _, arg := range args {
		status, err := strconv.Atoi(arg)
		if err != nil || !isErrorStatus(status) {
			return d.Errf("retry_status: %q is not a status of a rejection; use numbers from 400 to 599, or off alone", arg)
		}
		h.RetryStatus = append(h.RetryStatus, status)
	}
	return nil
}

func (h *Handler) unmarshalReplayBuffer(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 && len(args) != 2 {
		return d.Errf("replay_buffer takes one or two arguments: replay_buffer <per request> [<total>]")
	}
	sizes := make([]int64, 2)
	for i, arg := range args {
		size, err := humanize.ParseBytes(arg)
		if err != nil || size == 0 || size > 1<<62 {
			return d.Errf("replay_buffer: %q is not a size greater than zero; write one such as 1MiB", arg)
		}
		sizes[i] = int64(size)
	}
	h.ReplayBuffer = &ReplayBuffer{PerRequest: sizes[0], Total: sizes[1]}
	return nil
}

func (h *Handler) unmarshalMaskRejection(d *caddyfile.Dispenser, args []string) error {
	h.MaskRejection = 502
	if len(args) == 0 {
		return nil
	}
	status, err := strconv.Atoi(args[0])
	if err != nil || len(args) > 1 || !isErrorStatus(status) {
		return d.Errf("mask_rejection takes one status at most, from 400 to 599: mask_rejection [<status>]")
	}
	h.MaskRejection = status
	return nil
}

func (h *Handler) unmarshalMaxTokens(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 1 {
		if n, err := strconv.Atoi(args[0]); err == nil && n > 0 {
			h.MaxTokens = n
			return nil
		}
	}
	return d.Errf("max_tokens takes a number greater than zero: max_tokens %d", defaultMaxTokens)
}

func one(d *caddyfile.Dispenser, option, argument string, args []string, target *string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Errf("%s takes one argument that is not empty: %s %s", option, option, argument)
	}
	*target = args[0]
	return nil
}

func oneOf(d *caddyfile.Dispenser, option string, values, args []string, target *string) error {
	if len(args) != 1 || !slices.Contains(values, args[0]) {
		return d.Errf("%s takes one of %s", option, strings.Join(values, ", "))
	}
	*target = args[0]
	return nil
}

func some(d *caddyfile.Dispenser, option, arguments string, args []string, target *[]string) error {
	if len(args) == 0 || slices.Contains(args, "") {
		return d.Errf("%s takes arguments that are not empty: %s %s", option, option, arguments)
	}
	*target = append(*target, args...)
	return nil
}

func pair(d *caddyfile.Dispenser, option string, args []string, target *map[string][]string) error {
	if len(args) != 2 || args[0] == "" {
		return d.Errf("%s takes a name that is not empty and one value: %s <name> <value>", option, option)
	}
	if *target == nil {
		*target = make(map[string][]string)
	}
	(*target)[args[0]] = append((*target)[args[0]], args[1])
	return nil
}

func flag(d *caddyfile.Dispenser, option string, args []string, target *bool) error {
	if len(args) != 0 {
		return d.Errf("%s takes no arguments; its presence turns it on", option)
	}
	*target = true
	return nil
}

func duration(d *caddyfile.Dispenser, option string, args []string, target *caddy.Duration) error {
	if len(args) == 1 {
		if value, err := caddy.ParseDuration(args[0]); err == nil && value > 0 {
			*target = caddy.Duration(value)
			return nil
		}
	}
	return d.Errf("%s takes a duration longer than zero: %s %s", option, option, 10*time.Second)
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
