package faults

import (
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// faultyStorage is a storage whose operations fail as a row says. Configurations name it.
type faultyStorage struct {
	Name string `json:"name,omitempty"`
}

var storages sync.Map

// putStorage makes a storage that configurations can name.
func putStorage(t *testing.T, name string, fails func(operation string) error) {
	memory := storagetest.NewMemory()
	memory.Becomes(fails, nil)
	storages.Store(name, memory)
	t.Cleanup(func() { storages.Delete(name) })
}

func storageOf(p *play) *storagetest.Memory {
	storage, _ := storages.Load(p.token.addr)
	return storage.(*storagetest.Memory)
}

func (*faultyStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.oauth_cc_test_faulty", New: func() caddy.Module { return new(faultyStorage) }}
}

func (s *faultyStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Name) {
		return d.ArgErr()
	}
	return nil
}

func (s *faultyStorage) CertMagicStorage() (certmagic.Storage, error) {
	storage, _ := storages.Load(s.Name)
	return storage.(certmagic.Storage), nil
}

// Interface guards
var (
	_ caddy.StorageConverter = (*faultyStorage)(nil)
	_ caddyfile.Unmarshaler  = (*faultyStorage)(nil)
)
