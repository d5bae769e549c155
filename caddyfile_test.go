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
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
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
		if err := json.Indent(&indented, adaptWithoutWarnings(t, input), "", "\t"); err != nil {
			t.Fatal(err)
		}
		return indented.String()
	})
}

func TestAdaptedJSONSurvivesARoundTrip(t *testing.T) {
	for _, file := range goldenFiles(t, adaptDir) {
		for _, config := range adaptedHandlers(t, readGoldens(t, file)[0].result) {
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
	for _, option := range options {
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
	everything := adaptedHandlers(t, readGoldens(t, filepath.Join(adaptDir, "everything"+goldenExtension))[0].result)
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

var (
	errorPlace  = regexp.MustCompile(`, at Caddyfile:(\d+)$`)
	errorAdvice = regexp.MustCompile(`: give|; (use|write|keep|the options are)|takes|: transport \{`)
)

func TestCaddyfileErrorsNameThePlaceAndTheRemedy(t *testing.T) {
	checkGoldens(t, errorDir, func(t *testing.T, input string) string {
		config, err := adapt(input)
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
	_, err := adapt(":80 {\noauth_cc https://auth.example.com/token {\ntransport {\ndial_timeouts 2s\n}\n}\n}\n")
	if err == nil || !strings.Contains(err.Error(), "dial_timeouts") || !strings.HasSuffix(err.Error(), "Caddyfile:4") {
		t.Errorf("got %v", err)
	}
}

// FuzzUnmarshalCaddyfile starts from the golden files, errors included. Whatever is
// accepted must be the same after it was written as JSON.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	for _, file := range slices.Concat(goldenFiles(f, adaptDir), goldenFiles(f, errorDir)) {
		for _, g := range readGoldens(f, file) {
			_, directive, _ := strings.Cut(g.input, "oauth_cc")
			f.Add("oauth_cc" + directive)
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		h := new(Handler)
		if h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)) != nil {
			return
		}
		written, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(strictHandler(t, written))
		if err != nil {
			t.Fatal(err)
		}
		if !sameJSON(t, written, again) {
			t.Errorf("%s\nis written back as\n%s", written, again)
		}
	})
}

// adaptWithoutWarnings adapts a Caddyfile, which is also to be as caddy fmt writes it.
func adaptWithoutWarnings(t testing.TB, text string) []byte {
	t.Helper()
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, warnings, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, warning := range warnings {
		t.Errorf("%s in\n%s", warning, text)
	}
	return config
}

// adaptedHandlers returns the oauth_cc handlers in a configuration, in its order, as
// what Caddy unmarshals into Handler.
func adaptedHandlers(t testing.TB, config string) []json.RawMessage {
	t.Helper()
	var decoded any
	if err := json.Unmarshal([]byte(config), &decoded); err != nil {
		t.Fatal(err)
	}
	var found []json.RawMessage
	var search func(value any)
	search = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, element := range value {
				search(element)
			}
		case map[string]any:
			if value["handler"] == "oauth_cc" {
				delete(value, "handler")
				text, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, text)
				return
			}
			for _, member := range value {
				search(member)
			}
		}
	}
	search(decoded)
	if len(found) == 0 {
		t.Fatalf("no oauth_cc handler in %s", config)
	}
	return found
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
