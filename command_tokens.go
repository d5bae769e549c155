package oauthcc

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokenlist"
)

const listHelp = `
Lists the tokens of a running Caddy in a table. It asks the admin endpoint. The tokens
themselves and secrets are never printed.

    STATE      fresh     in use
               stale     in use, and the next request starts its renewal
               due       about to expire, requests wait for the next token
               expired
               none      there is no token
    EXPIRES    how long the token is still valid
    NEXT TRY   when the endpoint is asked again after a failure: "now" if it is being
               asked, "on request" if the next request starts that

If the last request for a token failed, the reason is printed below the token: the
error code and the HTTP status, the cause, the endpoint's own words, a hint at what may
help, and the address of the documentation. On a terminal, a red STATE means that
requests get no token, or one that the upstream rejects. A yellow one means that the
last request for a token failed, but there still is a token.

These flags select tokens. A token must match all of them:

    --failing   the last request for the token failed
    --state     the token is in this state, or in one of them if you repeat the flag
    --value     a value of the tenant contains this text; if you repeat the flag, the
                tenant must match each

At most 1000 tokens are listed, unless --limit is given.

The admin endpoint is found as by "caddy reload": it is that of --address, otherwise
that of the configuration in --config, otherwise localhost:2019.

--watch prints the list every two seconds, or at the --interval, until you press
Ctrl-C. On a terminal each list replaces the previous one.

--json prints the answer of the admin endpoint as it is.

The exit status is 0 if the admin endpoint answered, regardless of the states of the
tokens. Otherwise it is 1.
`

const refreshHelp = `
Makes a running Caddy ask the token endpoint for another token, even during a pause
after a failure, and prints the result. The current token stays in use until there is
another one, also if the request fails.

The id is the one that "caddy oauth-cc tokens" shows. The beginning of it is enough if
no other token has the same.

The exit status is 0 if another token was granted. Otherwise it is 1.
`

const forgetHelp = `
Makes a running Caddy forget a token. That also ends a pause after a failure. The next
request asks the token endpoint for another token; with prefetch, that happens
immediately.

The id is the one that "caddy oauth-cc tokens" shows. The beginning of it is enough if
no other token has the same.

The exit status is 0 if the token is forgotten. Otherwise it is 1.
`

// addressFlags say where the admin endpoint is, in the usage of a command.
const addressFlags = "[--address <interface>] [--config <path> [--adapter <name>]]"

func newTokensCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokens " + addressFlags + " [--failing] [--state <state>] [--value <value>] [--limit <n>] [--watch [--interval <duration>]] [--json]",
		Short: "Lists the tokens of a running Caddy",
		Long:  listHelp,
		Example: `  $ caddy oauth-cc tokens
  $ caddy oauth-cc tokens --failing
  $ caddy oauth-cc tokens --state expired --state none --value acme
  $ caddy oauth-cc tokens --address unix//run/caddy/admin.sock --watch
  $ caddy oauth-cc tokens refresh 9e1f`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	shared := cmd.PersistentFlags()
	shared.String("address", "", "Address of the admin endpoint (default: that of --config, else localhost:2019)")
	shared.StringP("config", "c", "", "Configuration file with the address of the admin endpoint")
	shared.StringP("adapter", "a", "", "Name of config adapter")
	flags := cmd.Flags()
	flags.Bool("failing", false, "List tokens for which the last request failed")
	flags.StringSlice("state", nil, "List tokens in this `state`; repeatable")
	flags.StringArray("value", nil, "List tenants with a `value` that contains this text; repeatable")
	flags.Int("limit", tokenlist.DefaultLimit, "Maximum number of tokens to list")
	flags.BoolP("watch", "w", false, "Repeat the list until Ctrl-C")
	flags.Duration("interval", 2*time.Second, "Time between two lists of --watch")
	flags.Bool("json", false, "Print the answer of the admin endpoint as it is")
	cmd.RunE = operate(func(ctx context.Context, fl caddycmd.Flags, o tokenlist.Operator) (err error) {
		o.JSON = fl.Bool("json")
		if o.Filter, err = tokenFilter(fl); err != nil {
			return err
		}
		if !fl.Bool("watch") {
			if fl.Changed("interval") {
				return errors.New("--interval is for --watch; add --watch, or remove --interval")
			}
			return o.List(ctx)
		}
		interval, err := fl.GetDuration("interval")
		if err != nil || interval <= 0 {
			return errors.New("--interval: not a time to wait; write one such as 5s")
		}
		return o.Watch(ctx, interval)
	})
	cmd.AddCommand(&cobra.Command{
		Use: "refresh <id> " + addressFlags, Short: "Asks the token endpoint for another token", Long: refreshHelp,
		Args: cobra.ExactArgs(1), DisableFlagsInUseLine: true,
		RunE: operate(func(ctx context.Context, fl caddycmd.Flags, o tokenlist.Operator) error {
			return o.Refresh(ctx, fl.Arg(0))
		}),
	}, &cobra.Command{
		Use: "forget <id> " + addressFlags, Short: "Forgets a token, so that the next request gets another", Long: forgetHelp,
		Args: cobra.ExactArgs(1), DisableFlagsInUseLine: true,
		RunE: operate(func(ctx context.Context, fl caddycmd.Flags, o tokenlist.Operator) error {
			return o.Forget(ctx, fl.Arg(0))
		}),
	})
	return cmd
}

// tokenFilter reads the filter of the command.
func tokenFilter(fl caddycmd.Flags) (f tokenlist.Filter, err error) {
	if f.Limit, err = fl.GetInt("limit"); err != nil {
		return f, err
	}
	if f.States, err = fl.GetStringSlice("state"); err != nil {
		return f, err
	}
	if f.Values, err = fl.GetStringArray("value"); err != nil {
		return f, err
	}
	if f.Failing, err = fl.GetBool("failing"); err != nil {
		return f, err
	}
	return f, f.Check()
}

// operate makes a command of what is to be done with a running gateway.
func operate(do func(context.Context, caddycmd.Flags, tokenlist.Operator) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			context.AfterFunc(ctx, stop) // a second interrupt ends the process
			gateway, err := runningGateway(fl)
			if err == nil {
				err = do(ctx, fl, tokenlist.Operator{Gateway: gateway, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
			}
			if err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
}

// runningGateway finds the gateway as Caddy's own commands do.
func runningGateway(fl caddycmd.Flags) (*tokenlist.Gateway, error) {
	if fl.String("config") != "" {
		if err := quietLog(); err != nil {
			return nil, err
		}
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	return tokenlist.NewGateway(address)
}
