package oauthcc

import (
	"bytes"
	"encoding/json"
	goflag "flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

var updateGoldens = goflag.Bool("update", false, "write what the code does into the golden files")

// A golden file holds a Caddyfile, a line of dashes and what comes of it. Files of
// errors hold several such cases.
const (
	adaptDir        = "testdata/adapt"
	errorDir        = "testdata/adapt/errors"
	goldenExtension = ".caddyfiletest"
	resultSeparator = "----------\n"
	caseSeparator   = "==========\n"
)

type adaptGolden struct {
	input, result string
}

func goldenFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+goldenExtension))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files in %s: %v", dir, err)
	}
	return files
}

func readGoldens(t testing.TB, file string) []adaptGolden {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var goldens []adaptGolden
	for part := range strings.SplitSeq(string(text), caseSeparator) {
		input, result, ok := strings.Cut(part, resultSeparator)
		if !ok {
			t.Fatalf("%s: no line of dashes after\n%s", file, part)
		}
		goldens = append(goldens, adaptGolden{input, result})
	}
	return goldens
}

// checkGoldens compares what produce makes of each Caddyfile in a folder with what is
// written there.
func checkGoldens(t *testing.T, dir string, produce func(t *testing.T, input string) string) {
	for _, file := range goldenFiles(t, dir) {
		t.Run(strings.TrimSuffix(filepath.Base(file), goldenExtension), func(t *testing.T) {
			var cases []string
			for _, g := range readGoldens(t, file) {
				result := produce(t, g.input) + "\n"
				if result != g.result && !*updateGoldens {
					t.Errorf("%s\ncomes to\n%s\nwant\n%s", g.input, result, g.result)
				}
				cases = append(cases, g.input+resultSeparator+result)
			}
			if *updateGoldens {
				if err := os.WriteFile(file, []byte(strings.Join(cases, caseSeparator)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestCaddyfileAdaptsToJSON(t *testing.T) {
	checkGoldens(t, adaptDir, func(t *testing.T, input string) string {
		var indented bytes.Buffer
		if err := json.Indent(&indented, gatewaytest.AdaptWithoutWarnings(t, input), "", "\t"); err != nil {
			t.Fatal(err)
		}
		return indented.String()
	})
}

func TestAdaptedJSONSurvivesARoundTrip(t *testing.T) {
	for _, file := range goldenFiles(t, adaptDir) {
		for _, config := range gatewaytest.AdaptedHandlers(t, readGoldens(t, file)[0].result) {
			written, err := json.Marshal(strictHandler(t, config))
			if err != nil {
				t.Fatal(err)
			}
			if !sameJSON(t, written, config) {
				t.Errorf("%s: %s is written back as %s", file, config, written)
			}
		}
	}
}

// An option that has been added without goldens would go unnoticed otherwise.
func TestEveryOptionHasGoldens(t *testing.T) {
	for _, option := range optionNames() {
		for _, dir := range []string{adaptDir, errorDir} {
			file := filepath.Join(dir, option+goldenExtension)
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
				continue
			}
			for _, g := range readGoldens(t, file) {
				if !strings.Contains(g.input, "\t\t"+option) {
					t.Errorf("%s: has a case without the option", file)
				}
			}
		}
	}
	everything := gatewaytest.AdaptedHandlers(t, readGoldens(t, filepath.Join(adaptDir, "everything"+goldenExtension))[0].result)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(everything[0], &members); err != nil {
		t.Fatal(err)
	}
	for field := range reflect.TypeFor[Handler]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.IsExported() && members[name] == nil {
			t.Errorf("everything%s: %s is missing", goldenExtension, name)
		}
	}
}

// Each option has a heading, which links lead to, with an example that can be loaded.
func TestEveryOptionIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "options.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	sections := strings.Split(string(page), "\n### `")
	for _, section := range sections[1:] {
		option, text, _ := strings.Cut(section, "`")
		documented = append(documented, option)
		_, example, ok := strings.Cut(text, "```caddyfile\n")
		example, _, _ = strings.Cut(example, "```")
		if !ok || !strings.HasPrefix(example, option) {
			t.Errorf("%s has no example", option)
			continue
		}
		endpoint := "https://auth.example.com/token"
		if option == "token_endpoint" {
			endpoint = ""
		}
		site := ":80 {\noauth_cc " + endpoint + " {\n" + example + "}\n}\n"
		if _, err := gatewaytest.Adapt(site); err != nil {
			t.Errorf("%s: %v", option, err)
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(documented)), slices.Sorted(slices.Values(optionNames()))) {
		t.Errorf("documented are %v, and the options are %v", documented, optionNames())
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range optionNames() {
		if !strings.Contains(string(readme), "[`"+option+"`](docs/options.md#"+option+")") {
			t.Errorf("README.md does not lead to %s", option)
		}
	}
}

var (
	errorPlace  = regexp.MustCompile(`, at Caddyfile:(\d+)$`)
	errorAdvice = regexp.MustCompile(`: give|; (use|write|keep|the options are)|takes|: transport \{`)
)

func TestCaddyfileErrorsNameThePlaceAndTheRemedy(t *testing.T) {
	checkGoldens(t, errorDir, func(t *testing.T, input string) string {
		config, err := gatewaytest.Adapt(input)
		if err == nil {
			t.Errorf("%s\nis accepted as %s", input, config)
			return ""
		}
		message := err.Error()
		place := errorPlace.FindStringSubmatch(message)
		if place == nil {
			t.Errorf("%q names no file and line", message)
			return message
		}
		number, _ := strconv.Atoi(place[1])
		lines := strings.Split(input, "\n")
		if option := strings.Fields(lines[number-1])[0]; !strings.Contains(message, option) {
			t.Errorf("%q does not name %s, which is what the line is about", message, option)
		}
		if !errorAdvice.MatchString(message) {
			t.Errorf("%q does not say what to write instead", message)
		}
		if strings.Contains(message, "canary") {
			t.Errorf("%q quotes a secret", message)
		}
		return message
	})
}

// The options inside transport are Caddy's own, and so are their errors.
func TestTransportErrorsNameThePlace(t *testing.T) {
	_, err := gatewaytest.Adapt(":80 {\noauth_cc https://auth.example.com/token {\ntransport {\ndial_timeouts 2s\n}\n}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "dial_timeouts") || !strings.HasSuffix(err.Error(), "Caddyfile:4") {
		t.Errorf("got %v", err)
	}
}

// strictHandler refuses unknown members, as Caddy does.
func strictHandler(t testing.TB, config []byte) *Handler {
	t.Helper()
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON(config, h); err != nil {
		t.Fatalf("%v in %s", err, config)
	}
	return h
}

func sameJSON(t testing.TB, a, b []byte) bool {
	t.Helper()
	var left, right any
	if err := json.Unmarshal(a, &left); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &right); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(left, right)
}
