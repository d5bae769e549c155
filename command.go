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
Commands for the oauth_cc handler, which adds OAuth 2.0 access tokens to proxied
requests: check a configuration before you load it, and see and renew the tokens of
a running Caddy.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs // so that a subcommand that is not there is an error
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(newCheckCommand(), newTokensCommand())
		},
	})
}

const checkHelp = `
Checks that you get a token before you load a configuration. It asks the token
endpoint of each oauth_cc handler for a token and prints the results. For each
failure it prints the cause, what may help, and where to read more.

The configuration is set up as by "caddy validate", but not started. Tokens and
secrets are never printed, and the tokens are thrown away.

Placeholders such as {env.*} and {file.*} are resolved in the environment of this
command. So run it as the user that Caddy runs as, with the same variables.
--envfile loads variables from a file.

Handlers with the same grant are checked once. When a client is refused, its other
grants are not checked.

If the grant depends on placeholders of the request, give their values with --value.
The name is that in the configuration, with or without braces. You can repeat the
flag. {env.*} and {file.*} in the value are replaced, so that no secret has to be on
the command line:

    --value header.X-Tenant=acme --value 'header.X-Api-Key={env.ACME_KEY}'

If a map sets the placeholder, give the input of the map. The map is then checked as
well: a tenant that is not in the map is a failure. If you give the output instead,
the map is not used. Handlers whose values are missing are listed as not checked,
with the names of the values.

--try-methods is for an endpoint that refuses the client. It tries the other ways to
send the secret until one is accepted, and prints which auth_method, and if needed
which request_format, to configure. It tries forms first, and JSON if the answer can
mean that; after 415 only the other format. It makes five more requests at most. If
the endpoint locks clients out, each of them may count as a failure.

--json prints an array with an object for each grant. These are its members; a member
without a value is omitted:

    endpoint, issuer, client_id, auth_method, grant, request_format
    result                    "ok", "not_checked" or an error code
    status                    HTTP status of the answer
    token_type
    lifetime_seconds
    default_ttl_seconds       used if the lifetime is unknown
    scope, missing_scope
    clock_skew_seconds        positive if the endpoint's clock is ahead
    detail                    the cause, in our words
    endpoint_message          the endpoint's words
    hint                      what may help
    retry_after_seconds
    accepted_auth_method      found by --try-methods
    accepted_request_format   found by --try-methods
    help                      address of the documentation of a result that is not "ok"
    missing_values            for --value
    notes

The exit status is 0 if every endpoint that was asked granted a token. Otherwise it is
1, also if the configuration can't be set up or has no oauth_cc handler.
`

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--config <path>] [--adapter <name>] [--envfile <path>] [--value <placeholder>=<value>] [--try-methods] [--json]",
		Short: "Asks each token endpoint in a configuration for a token",
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
	flags.StringArray("value", nil, "Value of a placeholder of the request, as `placeholder=value`; repeatable")
	flags.Bool("try-methods", false, "If the client is refused, try the other ways to send the secret")
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
