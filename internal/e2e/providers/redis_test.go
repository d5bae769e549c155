package providers

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

func init() {
	caddy.RegisterModule(new(redisStandIn))
}

// redisOptions are all that github.com/pberkel/caddy-storage-redis v1.8.1 has. It refuses others.
var redisOptions = []string{
	"address", "host", "port", "db", "timeout", "username", "password", "sentinel_password", "master_name",
	"key_prefix", "encryption_key", "aes_key", "compression",
	"tls_enabled", "tls_insecure", "tls_server_certs_pem", "tls_server_certs_path", "route_by_latency", "route_randomly",
}

// redisSwitches are those of them that are on or off.
var redisSwitches = []string{"tls_enabled", "tls_insecure", "route_by_latency", "route_randomly"}

// redisStandIn takes the Caddyfile of that module. Like the module it asks its server for a sign of
// life when a configuration is loaded, for which a connection is enough here. It keeps everything in memory.
type redisStandIn struct {
	ClientType string              `json:"client_type,omitempty"`
	Options    map[string][]string `json:"options,omitempty"`
}

// standInsByPrefix are the storages, which outlive configurations.
var standInsByPrefix sync.Map

func (*redisStandIn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.redis", New: func() caddy.Module { return new(redisStandIn) }}
}

func (s *redisStandIn) Provision(ctx caddy.Context) error {
	for _, address := range s.Options["address"] {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		conn.Close()
	}
	return nil
}

func (s *redisStandIn) CertMagicStorage() (certmagic.Storage, error) {
	storage, _ := standInsByPrefix.LoadOrStore(strings.Join(s.Options["key_prefix"], ""), storagetest.NewMemory())
	return storage.(*storagetest.Memory), nil
}

func (s *redisStandIn) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		if s.ClientType = d.Val(); s.ClientType != "cluster" && s.ClientType != "failover" {
			return d.ArgErr()
		}
	}
	s.Options = make(map[string][]string)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option, values := d.Val(), d.RemainingArgs()
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			values = append(values, d.Val())
		}
		if err := checkRedisOption(option, values); err != nil {
			return d.WrapErr(err)
		}
		s.Options[option] = values
	}
	return nil
}

func checkRedisOption(option string, values []string) error {
	if !slices.Contains(redisOptions, option) {
		return fmt.Errorf("unknown configuration key: %s", option)
	}
	if len(values) == 0 {
		return fmt.Errorf("no value for %s", option)
	}
	if slices.Contains(redisSwitches, option) {
		if _, err := strconv.ParseBool(values[0]); err != nil {
			return fmt.Errorf("%s is true or false: %w", option, err)
		}
	}
	return nil
}

func adaptRedis(storage string) error {
	_, err := gatewaytest.Adapt("http://localhost:8080 {\noauth_cc https://auth.example.com {\nclient_id a\nclient_secret b\nstorage redis " + storage + "\n}\n}\n")
	return err
}

func TestRedisStandInTakesTheOptionsOfItsModule(t *testing.T) {
	for _, option := range redisOptions {
		if err := adaptRedis("{\n" + option + " true\n}"); err != nil {
			t.Errorf("%s: %v", option, err)
		}
		if err := adaptRedis("{\n" + option + "\n}"); err == nil {
			t.Errorf("%s is taken without a value", option)
		}
	}
	for _, storage := range []string{"", "cluster {\naddress {\nlocalhost:1\nlocalhost:2\n}\n}", "failover {\nmaster_name a\n}"} {
		if err := adaptRedis(storage); err != nil {
			t.Errorf("%q: %v", storage, err)
		}
	}
	for _, storage := range []string{"sentinel", "{\nskip_connection_check true\n}", "{\ntls_enable true\n}", "{\ntls_enabled perhaps\n}"} {
		if err := adaptRedis(storage); err == nil {
			t.Errorf("%q is taken", storage)
		}
	}
}

func TestRedisStandInLoadsOnlyWithItsServer(t *testing.T) {
	address := gatewaytest.FreeAddr(t)
	config, err := json.Marshal(redisStandIn{Options: map[string][]string{"address": {address}}})
	if err != nil {
		t.Fatal(err)
	}
	load := func() error {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		_, err := ctx.LoadModuleByID("caddy.storage.redis", config)
		return err
	}
	if err := load(); err == nil {
		t.Error("loaded without its server")
	}
	startRedis(t, address)
	if err := load(); err != nil {
		t.Error(err)
	}
}

// startRedis has something to connect to, until stop.
func startRedis(t *testing.T, address string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { listener.Close() })
	t.Cleanup(stop)
	return stop
}
