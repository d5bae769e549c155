package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "oauth-cc",
		Usage: "[command]",
		Short: "Commands for the oauth_cc handler",
		Long: `
Commands for oauth_cc, which gets OAuth 2.0 access tokens for what the gateway
proxies.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs // so that a subcommand that is not there is an error
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(newCheckCommand(), newTokensCommand())
		},
	})
}

const checkHelp = `
Sets the configuration up as "caddy validate" does, without starting it, asks the token
endpoint of each oauth_cc handler for a token, and prints what came of it. Where
that failed it tells why, what may help, and where the documentation says more.
Tokens and secrets are never printed, and the tokens are thrown away.

Placeholders such as {env.*} and {file.*} stand for what they do in this command's
environment: run it as the user that Caddy runs as, with the same variables.
--envfile loads some from a file.

Handlers that have the same grant are asked once, and a client that is refused is not
tried again with the grants that it has besides. Where placeholders of the request
choose the grant, --value tells what they stand for, by the name in the
configuration, with or without braces; it can be repeated. {env.*} and {file.*} in
the value are replaced, so that a secret need not be on the command line:

    --value header.X-Tenant=acme --value 'header.X-Api-Key={env.ACME_KEY}'

Where a map sets the placeholder, give what goes into the map, and the map is checked
as well: a tenant that is not in it is a failure. What comes out of the map can be
given instead, and then the map is not used. Handlers whose values are missing are
listed as not checked, with the names of those values.

--try-methods has an endpoint that refuses the client asked again with the other
ways to send a secret, until one is accepted, and tells what to write: auth_method,
and request_format where that is another. It tries the methods with a form first,
then, after 400, 401 or 415, with JSON: five more requests at most. Each try that
fails may count as one, where an endpoint locks clients out.

--json prints an array with an object for each grant. Members that have no value are
omitted: endpoint, issuer, client_id, auth_method, grant, request_format, result ("ok",
"not_checked" or an error code), status, token_type, lifetime_seconds,
default_ttl_seconds (used where the lifetime is not known), scope, missing_scope,
clock_skew_seconds (positive if the endpoint's clock is ahead), detail,
endpoint_message, hint, retry_after_seconds, accepted_auth_method and
accepted_request_format (found by --try-methods), help (the address of what the
documentation says about a result that is not "ok"), missing_values (for --value) and
notes.

The exit status is 0 if each endpoint that was asked has granted a token, else 1: also
if the configuration can't be set up or has no oauth_cc handler.
`

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--config <path>] [--adapter <name>] [--envfile <path>] [--value <placeholder>=<value>] [--try-methods] [--json]",
		Short: "Asks each token endpoint of a configuration for a token",
		Long:  checkHelp,
		Example: `  $ caddy oauth-cc check
  $ caddy oauth-cc check --config /etc/caddy/Caddyfile --envfile /etc/caddy/env
  $ caddy oauth-cc check --config caddy.json --json`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Configuration file, or - for stdin (default: the Caddyfile in this folder)")
	flags.StringP("adapter", "a", "", "Name of config adapter")
	flags.StringSlice("envfile", nil, "Environment file(s) to load")
	flags.StringArray("value", nil, "What a placeholder of the request stands for, as `placeholder=value`; repeatable")
	flags.Bool("try-methods", false, "Try the other ways to send the secret when the client is refused")
	flags.Bool("json", false, "Print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			if err := runCheck(cmd.Context(), fl, cmd.OutOrStdout()); err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
	return cmd
}

// runCheck runs "caddy oauth-cc check". It is an error as well if a token was not granted.
func runCheck(ctx context.Context, fl caddycmd.Flags, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the process
	envFiles, err := fl.GetStringSlice("envfile")
	if err != nil {
		return err
	}
	values, err := fl.GetStringArray("value")
	if err != nil {
		return err
	}
	if err := quietLog(); err != nil {
		return err
	}
	if err := loadEnvFiles(envFiles); err != nil {
		return err
	}
	given, err := parseValues(values)
	if err != nil {
		return err
	}
	c := check.Checker{Given: slices.Sorted(maps.Keys(given)), TryMethods: fl.Bool("try-methods")}
	results, err := checkConfig(ctx, c, given, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return err
	}
	write := check.WriteTable
	if fl.Bool("json") {
		write = check.WriteJSON
	}
	if err := write(out, results); err != nil {
		return err
	}
	return check.Summarize(results)
}

// checkConfig checks the handlers of a configuration. values are those of --value, by placeholder.
func checkConfig(ctx context.Context, c check.Checker, values map[string]string, path, adapter string) (results []check.Result, err error) {
	config, order, err := readConfig(path, adapter)
	if err != nil {
		return nil, err
	}
	err = inspectConfig(config, func(app *caddyhttp.App, set []*Handler) (err error) {
		before, found := findMaps(app)
		// Caddy provisions servers in any order.
		set = append(found, slices.DeleteFunc(set, func(h *Handler) bool { return slices.Contains(found, h) })...)
		targets := make([]check.Target, len(set))
		for i, h := range order.sorted(set) {
			targets[i] = h.target(before[h], values)
		}
		results, err = c.All(ctx, targets)
		return err
	})
	return results, err
}

// readConfig reads and adapts a configuration as other commands do.
func readConfig(path, adapter string) (*caddy.Config, handlerOrder, error) {
	const byDefault = "Caddyfile"
	if path == "" {
		if _, err := os.Stat(byDefault); err != nil {
			return nil, nil, errors.New("no configuration: there is no Caddyfile in this folder; use --config")
		}
		path = byDefault
	}
	text, _, _, err := caddycmd.LoadConfig(path, adapter)
	if err != nil {
		return nil, nil, err
	}
	text = caddy.RemoveMetaFields(text)
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(text, config); err != nil {
		return nil, nil, fmt.Errorf("decoding config: %w", err)
	}
	return config, handlersIn(text), nil
}

// parseValues reads the values of --value, by placeholder. A placeholder can have its short form, as in a
// Caddyfile.
func parseValues(texts []string) (map[string]string, error) {
	values := make(map[string]string, len(texts))
	shorthands := httpcaddyfile.NewShorthandReplacer()
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		name = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(name), "{"), "}")
		if !ok || name == "" {
			return nil, errors.New("--value: write <placeholder>=<value>, such as http.request.header.X-Tenant=acme")
		}
		segment := caddyfile.Segment{{Text: "{" + name + "}"}}
		shorthands.ApplyToSegment(&segment)
		values[strings.Trim(segment[0].Text, "{}")] = caddy.NewReplacer().ReplaceKnown(value, "")
	}
	return values, nil
}
