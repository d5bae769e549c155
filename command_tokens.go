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
Asks a running Caddy for its tokens, by its admin endpoint, and prints a table. Tokens
themselves and secrets are never printed.

STATE is fresh; stale, when the token is in use and the next request has it renewed; due,
when requests wait for the next one; expired; or none. EXPIRES is the time to the end of
the token. NEXT TRY is when the endpoint is asked again after a failure: "now" if it is
being asked, "on request" if the next request has it asked. Below a token that the
last request for failed, there is why: the error code and the HTTP status, what was
found out about the cause, the endpoint's own words, a hint at what may help, and
where the documentation says more. On a terminal, red means that requests get no
token, or one that the upstream rejects; yellow that the last request for a token
failed while there still is one.

--failing lists tokens whose last fetch failed, --state those in a state, --value the
tenants with a value that contains this. The last two can be repeated: a token is in
one of the states, and has all of the values.
At most 1000 tokens are listed, or as many as --limit says.

The admin endpoint is found as by "caddy reload": --address, or else the address in
the configuration that --config names, or else localhost:2019.

--watch prints the list again every two seconds, or as --interval says, until Ctrl-C.
On a terminal each list takes the place of the one before.

--json prints the answer of the admin endpoint as it is.

The exit status is 0 if the admin endpoint has answered, whatever the state of the
tokens is, else 1.
`

const refreshHelp = `
Has a running Caddy ask the token endpoint for another token, also in a pause after a
failure, and prints what came of it. The current token stays in use until then, and
also if that fails.

The id is the one that "caddy oauth-cc tokens" shows, or as much of its beginning as
no other token has.

The exit status is 0 if another token was granted, else 1.
`

const forgetHelp = `
Has a running Caddy forget a token, and end a pause after a failure, so that the next
request (or prefetch, at once) asks the token endpoint for another.

The id is the one that "caddy oauth-cc tokens" shows, or as much of its beginning as
no other token has.

The exit status is 0 if the token is forgotten, else 1.
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
	shared.String("address", "", "Address of the admin endpoint, if it is not the default")
	shared.StringP("config", "c", "", "Configuration file that tells the address of the admin endpoint, unless --address does")
	shared.StringP("adapter", "a", "", "Name of config adapter")
	flags := cmd.Flags()
	flags.Bool("failing", false, "List tokens whose last fetch failed")
	flags.StringSlice("state", nil, "List tokens in this `state`; repeatable")
	flags.StringArray("value", nil, "List tenants with a `value` that contains this; repeatable")
	flags.Int("limit", tokenlist.DefaultLimit, "How many tokens to list at most")
	flags.BoolP("watch", "w", false, "List again and again, until Ctrl-C")
	flags.Duration("interval", 2*time.Second, "How long --watch waits between two lists")
	flags.Bool("json", false, "Print the answer of the admin endpoint as it is")
	cmd.RunE = operate(func(ctx context.Context, fl caddycmd.Flags, o tokenlist.Operator) (err error) {
		o.JSON = fl.Bool("json")
		if o.Filter, err = tokenFilter(fl); err != nil {
			return err
		}
		if !fl.Bool("watch") {
			if fl.Changed("interval") {
				return errors.New("--interval is for --watch; add that")
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
		Use: "refresh <id> " + addressFlags, Short: "Has the endpoint asked for another token", Long: refreshHelp,
		Args: cobra.ExactArgs(1), DisableFlagsInUseLine: true,
		RunE: operate(func(ctx context.Context, fl caddycmd.Flags, o tokenlist.Operator) error {
			return o.Refresh(ctx, fl.Arg(0))
		}),
	}, &cobra.Command{
		Use: "forget <id> " + addressFlags, Short: "Has a token forgotten", Long: forgetHelp,
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
