package oauthcc

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
)

// loadEnvFiles sets variables of the environment as --envfile of Caddy's own commands does,
// which Caddy doesn't export: what is set already stays as it is.
func loadEnvFiles(paths []string) error {
	for _, path := range paths {
		if err := loadEnvFile(path); err != nil {
			return fmt.Errorf("--envfile %s: %w", path, err)
		}
	}
	if len(paths) > 0 {
		// Caddy derives these from the environment when it starts.
		caddy.ConfigAutosavePath = filepath.Join(caddy.AppConfigDir(), "autosave.json")
		caddy.DefaultStorage = &certmagic.FileStorage{Path: caddy.AppDataDir()}
	}
	return nil
}

func loadEnvFile(path string) error {
	file, err := os.Open(path) //nolint:gosec // the user's choice
	if err != nil {
		return errors.New("the file can't be read")
	}
	defer file.Close()
	variables := make(map[string]string)
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimPrefix(name, "export ")
		if !ok || name == "" || strings.Contains(name, " ") || strings.HasPrefix(value, " ") || strings.HasPrefix(value, "\t") {
			return fmt.Errorf("line %d is not KEY=VALUE without spaces around the equals sign", number) // nor quoted: it may be secret
		}
		if comment := strings.IndexByte(value, '#'); comment >= 0 {
			value = strings.TrimRight(value[:comment], " \t")
		}
		if value != "" && (value[0] == '"' || value[0] == '\'') {
			value = unquoteEnv(lines, line, value, &number)
		}
		variables[name] = value
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for name, value := range variables {
		if _, isSet := os.LookupEnv(name); isSet {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// unquoteEnv reads a quoted value, which can go on for several lines.
func unquoteEnv(lines *bufio.Scanner, line, value string, number *int) string {
	quote := value[:1]
	for !strings.HasSuffix(line, quote) || strings.HasSuffix(line, `\`+quote) {
		value = strings.ReplaceAll(value, `\`+quote, quote)
		if !lines.Scan() {
			break
		}
		*number++
		line = strings.ReplaceAll(lines.Text(), `\`+quote, quote)
		value += "\n" + line
	}
	return strings.TrimSuffix(strings.TrimPrefix(value, quote), quote)
}
