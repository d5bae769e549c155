package oauthcc

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// A golden file in there has all that the module logs in one scenario, a line for each
// entry: level, message and fields. Run with -update to write what the code does.
const (
	logDir          = "testdata/logs"
	logExtension    = ".log"
	moduleLogger    = "http.handlers.oauth_cc"
	unboundDuration = "<duration>"
)

// logScenario is what happens to a gateway. It returns what was logged, as Caddy writes it.
type logScenario func(t *testing.T) string

func TestLogLinesAreGolden(t *testing.T) {
	for name, run := range logScenarios() {
		t.Run(name, func(t *testing.T) {
			checkLogGolden(t, name, readableLog(t, run(t)))
		})
	}
	if t.Failed() {
		return
	}
	for _, file := range logFiles(t) {
		if name := strings.TrimSuffix(filepath.Base(file), logExtension); logScenarios()[name] == nil {
			t.Errorf("%s has no scenario", file)
		}
	}
}

// inVirtualTime is a scenario in a bubble.
func inVirtualTime(play func(t *testing.T) *virtualGateway) logScenario {
	return func(t *testing.T) (log string) {
		synctest.Test(t, func(t *testing.T) { log = play(t).log() })
		return log
	}
}

// namedApp is a gateway in virtual time whose client is called app.
func namedApp(t *testing.T, h *Handler) *virtualGateway {
	g := newVirtualGateway(t, h)
	g.ClientID, g.reporter.public.ClientID = "app", "app"
	return g
}

// log waits until nothing goes on any more and is what was logged.
func (g *virtualGateway) log() string {
	g.t.Helper()
	synctest.Wait()
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	var text bytes.Buffer
	for _, entry := range g.logs.All() {
		entry.LoggerName = moduleLogger
		line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			g.t.Fatal(err)
		}
		text.Write(line.Bytes())
	}
	return text.String()
}

// readableLog is what the module has logged. What differs from run to run is named.
func readableLog(t *testing.T, text string) string {
	t.Helper()
	var readable strings.Builder
	for line := range strings.Lines(text) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		logger, _ := entry["logger"].(string)
		if !strings.Contains(logger, "oauth_cc") {
			continue
		}
		if logger != moduleLogger {
			t.Errorf("the logger is %s: %s", logger, line)
		}
		level, message := entry["level"], entry["msg"]
		for _, name := range []string{"level", "msg", "logger", "ts"} {
			delete(entry, name)
		}
		for name, value := range entry {
			entry[name] = readableField(name, value)
		}
		fmt.Fprintf(&readable, "%-5s %s %s\n", level, message, sortedJSON(t, entry))
	}
	return readable.String()
}

// sortedJSON writes an object in the order of its names.
func sortedJSON(t testing.TB, object map[string]any) string {
	t.Helper()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text.String())
}

var (
	loopbackPort = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	testFolder   = regexp.MustCompile(regexp.QuoteMeta(filepath.Join(os.TempDir(), "Test")) + `\w+/\d+`)
	idOfToken    = regexp.MustCompile(`^[0-9a-f]{12,}(-\d+)?$`)
)

func readableField(name string, value any) any {
	switch value := value.(type) {
	case float64:
		// What is measured or drawn. It is never negative, nor a number of nanoseconds.
		if slices.Contains([]string{"duration", "next_try", "waited"}, name) && value >= 0 && value < 2*time.Hour.Seconds() {
			return unboundDuration
		}
	case string:
		value = loopbackPort.ReplaceAllString(value, "127.0.0.1:<port>")
		value = testFolder.ReplaceAllString(value, "<folder>")
		if name == "id" && idOfToken.MatchString(value) {
			return "<id>"
		}
		if name == "token" {
			return readableFingerprint(value)
		}
		return value
	}
	return value
}

// readableFingerprint tells which of the test servers' tokens it is.
func readableFingerprint(value string) string {
	for _, granted := range []string{"token-1", "token-2", "token-3", "of-old", "of-new", "of-newer"} {
		if value == tokencache.Fingerprint(granted) {
			return "<fingerprint of " + granted + ">"
		}
	}
	return value
}

func checkLogGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join(logDir, name+logExtension)
	if *updateGoldens {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("%v; it logs\n%s", err, got)
	} else if string(want) != got {
		t.Errorf("%s: the log is not what it was; - what was, + what is:\n%s", file, diffLines(string(want), got))
	}
}

// diffLines shows what has become of a text, line by line.
func diffLines(old, now string) string {
	a, b := strings.SplitAfter(old, "\n"), strings.SplitAfter(now, "\n")
	common := make([][]int, len(a)+1) // lines that a[i:] and b[j:] have in common
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i, line := range slices.Backward(a) {
		for j, other := range slices.Backward(b) {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); line == other {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var diff strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			diff.WriteString("  " + a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			diff.WriteString("- " + a[i])
			i++
		default:
			diff.WriteString("+ " + b[j])
			j++
		}
	}
	return strings.TrimRight(diff.String(), "\n ")
}

func logFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(logDir, "*"+logExtension))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files in %s: %v", logDir, err)
	}
	return files
}

// goldenLogLines are the lines of all golden files.
func goldenLogLines(t testing.TB) (lines []string) {
	t.Helper()
	for _, file := range logFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(text)), "\n")...)
	}
	return lines
}

// A message that is added without a scenario would go unnoticed otherwise.
func TestEveryLogMessageIsGolden(t *testing.T) {
	golden := strings.Join(goldenLogLines(t), "\n")
	calls := logCalls(t)
	below := 0
	for _, call := range calls {
		if strings.Contains(filepath.ToSlash(call.at.Filename), "internal/fleet/") {
			below++
		}
	}
	if len(calls) < 15 || below == 0 {
		t.Errorf("only %d calls were found, %d of them below internal/fleet", len(calls), below)
	}
	for _, call := range calls {
		if len(call.messages) == 0 {
			t.Errorf("%s: the message is no constant, so that no test can tell whether it is covered", call.at)
		}
		for _, message := range call.messages {
			if line := "(?m)^" + cmp.Or(call.level, `\w+`) + " +" + regexp.QuoteMeta(message) + ` \{`; !regexp.MustCompile(line).MatchString(golden) {
				t.Errorf("%s: no golden file in %s has %s %q", call.at, logDir, call.level, message)
			}
		}
	}
}

// logCall is a place where the module writes to the log.
type logCall struct {
	at       gotoken.Position
	level    string   // empty if it is not fixed
	messages []string // each that it can be
}

// logMethods are those of zap's logger, with the place of the message.
var logMethods = map[string]int{
	"Debug": 0, "Info": 0, "Warn": 0, "Error": 0, "DPanic": 0, "Panic": 0, "Fatal": 0, "Log": 1, "Check": 1,
	"Debugf": 0, "Infof": 0, "Warnf": 0, "Errorf": 0, "Debugw": 0, "Infow": 0, "Warnw": 0, "Errorw": 0,
}

// sourceFiles are those of all packages of the module, but for tests and what only these use.
func sourceFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (path == "test" || path != "." && strings.HasPrefix(entry.Name(), ".") || strings.HasSuffix(path, "test") && filepath.Dir(path) == "internal"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// logCalls finds the calls in the module's files that are to a logger by their looks.
func logCalls(t *testing.T) []logCall {
	t.Helper()
	var calls []logCall
	positions := gotoken.NewFileSet()
	for _, name := range sourceFiles(t) {
		file, err := parser.ParseFile(positions, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			ast.Inspect(declaration, func(node ast.Node) bool {
				call, ok := node.(*ast.CallExpr)
				if !ok {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				place, ok := logMethods[method.Sel.Name]
				if !ok || len(call.Args) <= place || !isLogger(method.X) {
					return true
				}
				found := logCall{at: positions.Position(call.Pos()), messages: constantsOf(declaration, call.Args[place])}
				switch level, ok := call.Args[0].(*ast.SelectorExpr); {
				case place == 0:
					found.level = strings.ToLower(method.Sel.Name)
				case ok: // zapcore.DebugLevel
					found.level = strings.ToLower(strings.TrimSuffix(level.Sel.Name, "Level"))
				}
				calls = append(calls, found)
				return true
			})
		}
	}
	return calls
}

// isLogger reports whether the expression is a logger by its name, or is made from one.
func isLogger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.HasPrefix(strings.ToLower(x.Name), "log") // not fmt or t
	case *ast.SelectorExpr:
		return isLogger(x.Sel)
	case *ast.CallExpr: // logger.With(…), ctx.Logger()
		return isLogger(x.Fun) || isMadeFromLogger(x)
	}
	return false
}

func isMadeFromLogger(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	return ok && isLogger(method.X)
}

// constantsOf are the texts that the expression can be, as far as they are written in the
// declaration.
func constantsOf(declaration ast.Decl, x ast.Expr) []string {
	switch x := x.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(x.Value); err == nil && x.Kind == gotoken.STRING {
			return []string{text}
		}
	case *ast.BinaryExpr:
		left, right := constantsOf(declaration, x.X), constantsOf(declaration, x.Y)
		if len(left) == 1 && len(right) == 1 {
			return []string{left[0] + right[0]}
		}
	case *ast.Ident:
		return assigned(declaration, x.Name)
	}
	return nil
}

// assigned are the texts that are assigned to a variable, or none if something else is as
// well.
func assigned(declaration ast.Decl, name string) (texts []string) {
	unknown := false
	ast.Inspect(declaration, func(node ast.Node) bool {
		assignment, ok := node.(*ast.AssignStmt)
		if !ok || len(assignment.Lhs) != len(assignment.Rhs) {
			return true
		}
		for i, left := range assignment.Lhs {
			if variable, ok := left.(*ast.Ident); ok && variable.Name == name {
				found := constantsOf(declaration, assignment.Rhs[i])
				unknown = unknown || len(found) == 0
				texts = append(texts, found...)
			}
		}
		return true
	})
	if unknown {
		return nil
	}
	return texts
}
