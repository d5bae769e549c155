package oauthcc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
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
//	        alg         <alg>
//	        key_id      <kid>
//	        certificate <file> [x5c]
//	        audience    <value>
//	        typ         <value>
//	        lifetime    <duration>
//	    }
//	    client_assertion          <jwt> [<type>]
//	    grant                     jwt_bearer {
//	        issuer      <value>
//	        subject     <value>
//	        audience    <value>
//	        scope_claim
//	        claim       <name> <value>
//	        lifetime    <duration>
//	    }
//
//	    request_format            form|json
//	    scope                     <scope...>
//	    audience                  <audience...>
//	    resource                  <uri...>
//	    param                     <name> <value>
//	    request_header            <name> <value>
//
//	    response_field            access_token|expires_in|token_type <path>
//
//	    refresh_ahead             <duration>|<percent>%|off
//	    default_ttl               <duration>
//	    ttl                       <duration>
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
// The options scope, audience, resource, param and request_header can be repeated, and response_field
// once for each name.
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
		name := d.Val()
		i := slices.IndexFunc(options, func(o option) bool { return o.name == name })
		if i < 0 {
			return d.Errf("unknown option %s; the options are %s", name, strings.Join(optionNames(), ", "))
		}
		if seen[name] && !options[i].repeatable {
			return d.Errf("%s is given twice; keep one of them", name)
		}
		seen[name] = true
		if err := options[i].unmarshal(h, d); err != nil {
			return err
		}
	}
	return nil
}

// option is one of the handler's options in a Caddyfile.
type option struct {
	name       string
	repeatable bool // its values add up
	parse      func(h *Handler, d *caddyfile.Dispenser, args []string) error
	block      func(h *Handler, d *caddyfile.Dispenser) error // instead of parse, if the option takes a block
}

// options are all that there are, in the order of the syntax above.
var options = []option{
	{name: "token_endpoint", parse: one("token_endpoint", "<url>", func(h *Handler) *string { return &h.TokenEndpoint })},
	{name: "issuer", parse: one("issuer", "<url>", func(h *Handler) *string { return &h.Issuer })},
	{name: "timeout", parse: duration("timeout", func(h *Handler) *caddy.Duration { return &h.Timeout })},
	{name: "transport", block: (*Handler).unmarshalTransport},
	{name: "insecure_http", parse: flag("insecure_http", func(h *Handler) *bool { return &h.InsecureHTTP })},

	{name: "client_id", parse: one("client_id", "<id>", func(h *Handler) *string { return &h.ClientID })},
	{name: "client_secret", parse: one("client_secret", "<secret>", func(h *Handler) *string { return &h.ClientSecret })},
	{name: "auth_method", parse: oneOf("auth_method", endpoint.MethodNames(), func(h *Handler) *string { return &h.AuthMethod })},
	{name: "signing_key", block: (*Handler).unmarshalSigningKey},
	{name: "client_assertion", parse: (*Handler).unmarshalClientAssertion},
	{name: "grant", block: (*Handler).unmarshalGrant},

	{name: "request_format", parse: oneOf("request_format", []string{endpoint.FormatForm, endpoint.FormatJSON}, func(h *Handler) *string { return &h.RequestFormat })},
	{name: "scope", repeatable: true, parse: some("scope", "<scope...>", func(h *Handler) *[]string { return &h.Scopes })},
	{name: "audience", repeatable: true, parse: some("audience", "<audience...>", func(h *Handler) *[]string { return &h.Audience })},
	{name: "resource", repeatable: true, parse: some("resource", "<uri...>", func(h *Handler) *[]string { return &h.Resource })},
	{name: "param", repeatable: true, parse: pair("param", func(h *Handler) *map[string][]string { return &h.Params })},
	{name: "request_header", repeatable: true, parse: (*Handler).unmarshalRequestHeader},

	{name: "response_field", repeatable: true, parse: (*Handler).unmarshalResponseField},

	{name: "refresh_ahead", parse: (*Handler).unmarshalRefreshAhead},
	{name: "default_ttl", parse: duration("default_ttl", func(h *Handler) *caddy.Duration { return &h.DefaultTTL })},
	{name: "ttl", parse: duration("ttl", func(h *Handler) *caddy.Duration { return &h.TTL })},
	{name: "prefetch", parse: flag("prefetch", func(h *Handler) *bool { return &h.Prefetch })},

	{name: "token_header", parse: (*Handler).unmarshalTokenHeader},
	{name: "keep_client_authorization", parse: flag("keep_client_authorization", func(h *Handler) *bool { return &h.KeepClientAuthorization })},
	{name: "retry_status", parse: (*Handler).unmarshalRetryStatus},
	{name: "replay_buffer", parse: (*Handler).unmarshalReplayBuffer},
	{name: "mask_rejection", parse: (*Handler).unmarshalMaskRejection},
	{name: "allow_without_token", parse: flag("allow_without_token", func(h *Handler) *bool { return &h.AllowWithoutToken })},

	{name: "max_tokens", parse: (*Handler).unmarshalMaxTokens},
	{name: "storage", block: (*Handler).unmarshalStorage},

	{name: "dpop", parse: one("dpop", "<origin>", func(h *Handler) *string { return &h.DPoP })},
}

// optionNames lists the options for those who mistyped one.
func optionNames() []string {
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	return names
}

// unmarshal reads the option, up to the end of its line or its block.
func (o option) unmarshal(h *Handler, d *caddyfile.Dispenser) error {
	if o.block != nil {
		return o.block(h, d)
	}
	if err := o.parse(h, d, d.RemainingArgs()); err != nil {
		return err
	}
	return endLine(d, o.name)
}

// endLine refuses what is left of an option's line, which is a brace.
func endLine(d *caddyfile.Dispenser, option string) error {
	if !d.NextLine() {
		return d.Errf("%s takes no block; write all of it on one line, without braces", option)
	}
	d.Prev()
	return nil
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

func (h *Handler) unmarshalRequestHeader(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 2 {
		args[0] = http.CanonicalHeaderKey(args[0])
	}
	return pair("request_header", func(h *Handler) *map[string][]string { return &h.RequestHeaders })(h, d, args)
}

func (h *Handler) unmarshalResponseField(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 2 {
		return d.Errf("response_field takes two arguments: response_field %s <path>", strings.Join(endpoint.ResponseFieldNames, "|"))
	}
	name, path := args[0], args[1]
	if err := endpoint.CheckResponseField(name, path); err != nil {
		return d.WrapErr(err)
	}
	if h.ResponseFields[name] != "" {
		return d.Errf("response_field %s is given twice; keep one of them", name)
	}
	if h.ResponseFields == nil {
		h.ResponseFields = make(map[string]string)
	}
	h.ResponseFields[name] = path
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
		if err != nil || !isRejectionStatus(status) {
			return d.Errf("retry_status: %q is not a status of a rejection; use numbers from 300 to 599, or off alone", arg)
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

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
