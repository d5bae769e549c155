package oauthcc

import (
	"cmp"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// Users come to the page with a text that they search for: a message of the log, a result, a hint, a detail. These tests
// hold it to the texts that the code has.
const troubleshootingPage = "docs/troubleshooting.md"

// Headings of the page under which each heading is such a text.
const (
	logSections    = "Log messages at "
	resultsSection = "Error codes and results"
	configSection  = "Errors of the configuration"
)

// heading is one of a page.
type heading struct {
	line    int
	level   int
	text    string // without backquotes
	section string // the last heading of level 2
	body    string // up to the next heading
}

// headingLine matches a heading that is written with #.
var headingLine = regexp.MustCompile(`^(#{1,6}) +(.*?) *$`)

// headingsIn are those of a Markdown text.
func headingsIn(text string) (found []heading) {
	section, isCode := "", false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			isCode = !isCode
		}
		parts := headingLine.FindStringSubmatch(line)
		if isCode || parts == nil {
			if len(found) > 0 {
				found[len(found)-1].body += line + "\n"
			}
			continue
		}
		h := heading{line: i + 1, level: len(parts[1]), text: strings.ReplaceAll(parts[2], "`", "")}
		if h.level <= 2 {
			section = h.text
		}
		h.section = section
		found = append(found, h)
	}
	return found
}

// address leads to the heading.
func (h heading) address() string { return help.Address(h.text) }

func readTroubleshooting(t *testing.T) (text string, headings []heading) {
	t.Helper()
	page, err := os.ReadFile(troubleshootingPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(page), headingsIn(string(page))
}

// within are the texts of the headings of level 3 in the sections whose names begin so.
func within(headings []heading, section string) (texts []string) {
	for _, h := range headings {
		if h.level == 3 && strings.HasPrefix(h.section, section) {
			texts = append(texts, h.text)
		}
	}
	return texts
}

func TestHeadingsOfTroubleshootingDiffer(t *testing.T) {
	_, headings := readTroubleshooting(t)
	seen := make(map[string]heading)
	for _, h := range headings {
		address := h.address()
		if other, ok := seen[address]; ok {
			t.Errorf("lines %d and %d have the address %s", other.line, h.line, address)
		}
		seen[address] = h
	}
}

func TestTroubleshootingHasEveryLogMessage(t *testing.T) {
	_, headings := readTroubleshooting(t)
	logged := make(map[string]bool)
	for _, call := range logCalls(t) {
		for _, message := range call.messages {
			logged[message] = true
			at := slices.IndexFunc(headings, func(h heading) bool { return h.text == message && strings.HasPrefix(h.section, logSections) })
			switch {
			case at < 0:
				t.Errorf("%s: %s has no heading %q", call.at, troubleshootingPage, message)
			case !strings.Contains(headings[at].section, call.level):
				t.Errorf("%s: %q is logged at %s, and is below %q", call.at, message, call.level, headings[at].section)
			}
		}
	}
	for _, text := range within(headings, logSections) {
		if !logged[text] {
			t.Errorf("nothing logs %q", text)
		}
	}
}

// A line at warn or error ends its hint with the address of a heading: that of its error code if it is about a token request,
// else that of its message. Lines at info have none.
func TestLogLeadsToTroubleshooting(t *testing.T) {
	_, headings := readTroubleshooting(t)
	known := make(map[string]bool)
	for _, h := range headings {
		known[h.address()] = true
	}
	aboutTokenRequests := []string{
		"no token obtained", "token not renewed; the current token stays in use",
		"the issuer's metadata could not be read again; the known metadata stays in use",
	}
	warnings := 0
	for _, line := range goldenLogLines(t) {
		level, rest, _ := strings.Cut(line, " ")
		message, fields, _ := strings.Cut(strings.TrimLeft(rest, " "), " {")
		var entry struct{ Error, Hint string }
		if err := json.Unmarshal([]byte("{"+fields), &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		subject := message
		if slices.Contains(aboutTokenRequests, message) {
			subject = entry.Error
		}
		want := "see " + help.Address(subject)
		before, leads := strings.CutSuffix(entry.Hint, want)
		switch {
		case level == "info" && entry.Hint != "":
			t.Errorf("it is no failure, and has a hint: %s", line)
		case level != "warn" && level != "error":
		case !leads || before != "" && !strings.HasSuffix(before, "; ") || strings.Contains(before, troubleshootingPage):
			t.Errorf("the hint does not end with %q: %s", want, line)
		case !known[help.Address(subject)]:
			t.Errorf("%s has no heading %q: %s", troubleshootingPage, subject, line)
		default:
			warnings++
		}
	}
	if warnings < 40 {
		t.Errorf("only %d lines lead there", warnings)
	}
}

// resultCodes are the results of a check. The log's field error and {http.oauth_cc.error} have those of them that are
// failures.
func resultCodes(t *testing.T) (codes []string) {
	t.Helper()
	for _, file := range []string{"internal/endpoint/error.go", "internal/check/result.go"} {
		for _, declaration := range parsedSources(t)[filepath.FromSlash(file)].Decls {
			group, ok := declaration.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range group.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if ok && regexp.MustCompile(`^(Class\w+|result\w+|registeredErrors)$`).MatchString(value.Names[0].Name) {
					codes = append(codes, literalsIn(value)...)
				}
			}
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func TestTroubleshootingHasEveryResult(t *testing.T) {
	_, headings := readTroubleshooting(t)
	codes, listed := resultCodes(t), within(headings, resultsSection)
	if len(codes) < 15 || !slices.Contains(codes, "not_checked") || !slices.Contains(codes, "timeout") || !slices.Contains(codes, "use_dpop_nonce") {
		t.Errorf("the codes are %q", codes)
	}
	for _, code := range codes {
		if !slices.Contains(listed, code) {
			t.Errorf("%s has no heading %q", troubleshootingPage, code)
		}
	}
	for _, text := range listed {
		if !slices.Contains(codes, text) {
			t.Errorf("there is no result %q", text)
		}
	}
}

// The check's help is the address of a heading.
func TestHelpLeadsToTroubleshooting(t *testing.T) {
	_, headings := readTroubleshooting(t)
	template := endpoint.Request{Endpoint: "https://auth.example.com/token", ClientID: "app"}
	results, err := check.Checker{}.All(t.Context(), []check.Target{{Template: template, Unfit: errors.New("unfit")}})
	if err != nil {
		t.Fatal(err)
	}
	page, anchor, _ := strings.Cut(results[0].Help, "#")
	if !strings.HasSuffix(page, "/blob/main/"+troubleshootingPage) || anchor != results[0].Result {
		t.Errorf("the help is %s", results[0].Help)
	}
	for _, code := range resultCodes(t) {
		if address := page + "#" + code; !slices.ContainsFunc(headings, func(h heading) bool { return h.address() == address }) {
			t.Errorf("no heading of %s has the address %s", troubleshootingPage, address)
		}
	}
}

// What the check prints is not always a result's own name.
func TestTroubleshootingHasTheWordsOfTheCheck(t *testing.T) {
	_, headings := readTroubleshooting(t)
	body := func(text string) string {
		at := slices.IndexFunc(headings, func(h heading) bool { return h.text == text })
		if at < 0 {
			t.Fatalf("%s has no heading %q", troubleshootingPage, text)
		}
		return headings[at].body
	}
	body(check.Summarize([]check.Result{{Result: "timeout"}}).Error())
	var table strings.Builder
	if err := check.WriteTable(&table, []check.Result{{Result: "not_checked"}}); err != nil {
		t.Fatal(err)
	}
	if words := "not checked"; !strings.Contains(table.String(), words) || !strings.Contains(body("not_checked"), words) {
		t.Errorf("%s does not say %q, or the check does not:\n%s", troubleshootingPage, words, table.String())
	}
}

// advice is a text for operators that the code makes: constant parts, with values between them.
type advice struct {
	at    gotoken.Position
	parts []string
}

// String shows the text with dots for the values.
func (a advice) String() string { return strings.Join(a.parts, "…") }

// words is how many letters the constant parts have.
func (a advice) words() int { return len(strings.Join(a.parts, "")) }

// pattern matches the text with any values.
func (a advice) pattern() string {
	quoted := make([]string, len(a.parts))
	for i, part := range a.parts {
		quoted[i] = regexp.QuoteMeta(part)
	}
	return strings.Join(quoted, ".*")
}

// fits reports whether all of another text can be this one.
func (a advice) fits(text string) bool {
	return regexp.MustCompile("^" + a.pattern() + "$").MatchString(text)
}

// shortest is how long a text has to be to be one for operators, and not a name or a mark between two.
const shortest = 16

func TestTroubleshootingHasEveryHintAndDetail(t *testing.T) {
	_, headings := readTroubleshooting(t)
	listed := listedAdvice(headings)
	given := adviceInSources(t, isAdvice)
	if len(given) < 90 {
		t.Errorf("only %d texts were found", len(given))
	}
	for _, a := range given {
		if !slices.ContainsFunc(listed, regexp.MustCompile(a.pattern()).MatchString) {
			t.Errorf("%s: %s does not list `%s`", a.at, troubleshootingPage, a)
		}
	}
	constants := constantsInSources(t)
	for _, text := range listed {
		if rest := withoutConstants(text, constants); len(rest) > longestValue {
			t.Errorf("nothing says `%s`: %q is not in the code", text, rest)
		}
	}
}

// longestValue is how many letters of a text on the page can be no constants of the code, but an example for what is put
// between these.
const longestValue = 30

// constantsInSources are the constant parts of all texts in the module's files, the longest first.
func constantsInSources(t *testing.T) (constants []string) {
	t.Helper()
	for _, a := range adviceInSources(t, func([]ast.Node, string) bool { return true }) {
		for _, part := range a.parts {
			if len(part) >= shortest/2 {
				constants = append(constants, part)
			}
		}
	}
	slices.SortFunc(constants, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(constants)
}

// withoutConstants is what is left of a text, but for the dots that stand for values.
func withoutConstants(text string, constants []string) string {
	for _, constant := range constants {
		text = strings.ReplaceAll(text, constant, "")
	}
	return strings.ReplaceAll(text, "…", "")
}

func TestTextThatIsGoneIsNoticed(t *testing.T) {
	constants := constantsInSources(t)
	for text, isGone := range map[string]bool{
		"the endpoint may want JSON; try request_format json":                                                false,
		"asked for was read write; check the spelling, and whether the client has been granted these scopes": false,
		"asked for was …; check the spelling, and whether the client has been given these scopes":            true,
		"the endpoint wants JSON; write the option request_format with json":                                 true,
	} {
		if rest := withoutConstants(text, constants); (len(rest) > longestValue) != isGone {
			t.Errorf("%s: %q is left", text, rest)
		}
	}
}

// listedText matches an item of a list that begins with a text in backquotes.
var listedText = regexp.MustCompile("(?m)^- `([^`\n]+)`")

// listedAdvice are the hints and the details on the page.
func listedAdvice(headings []heading) (listed []string) {
	for _, h := range headings {
		if h.section == resultsSection || strings.HasPrefix(h.section, logSections) {
			for _, item := range listedText.FindAllStringSubmatch(h.body, -1) {
				listed = append(listed, item[1])
			}
		}
	}
	return listed
}

// The headings are errors that the code has, with … for what differs.
func TestTroubleshootingHasErrorsOfTheConfiguration(t *testing.T) {
	_, headings := readTroubleshooting(t)
	texts := adviceInSources(t, func([]ast.Node, string) bool { return true })
	listed := within(headings, configSection)
	if len(listed) < 10 {
		t.Errorf("only %d errors are listed", len(listed))
	}
	for _, text := range listed {
		if !slices.ContainsFunc(texts, func(a advice) bool { return a.fits(text) }) {
			t.Errorf("no error is %q", text)
		}
	}
}

// parsedSources are the module's files, by path.
func parsedSources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	for _, name := range sourceFiles(t) {
		file, err := parser.ParseFile(sourcePositions, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	return files
}

var sourcePositions = gotoken.NewFileSet()

// literalsIn are the string constants in a node.
func literalsIn(node ast.Node) (texts []string) {
	ast.Inspect(node, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == gotoken.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil {
				texts = append(texts, text)
			}
		}
		return true
	})
	return texts
}

// adviceInSources are the texts in the module's files whose nodes around them, from the file on, are wanted.
func adviceInSources(t *testing.T, wanted func(around []ast.Node, file string) bool) (found []advice) {
	t.Helper()
	for name, file := range parsedSources(t) {
		var around []ast.Node
		ast.Inspect(file, func(n ast.Node) bool {
			if n == nil {
				around = around[:len(around)-1]
				return true
			}
			if x, ok := n.(ast.Expr); ok {
				if parts := partsOf(x); parts != nil {
					a := advice{sourcePositions.Position(x.Pos()), withoutValues(parts)}
					if a.words() >= shortest && strings.Contains(a.String(), " ") && wanted(around, filepath.ToSlash(name)) {
						found = append(found, a)
					}
					return false // its parts are no texts of their own
				}
			}
			around = append(around, n)
			return true
		})
	}
	slices.SortFunc(found, func(a, b advice) int { return strings.Compare(a.at.String(), b.at.String()) })
	return found
}

// partsOf are the operands of an expression that is a text. Those that are no constants are empty. It is nil for
// anything else.
func partsOf(x ast.Expr) []string {
	switch x := x.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(x.Value); err == nil && x.Kind == gotoken.STRING {
			return []string{text}
		}
	case *ast.BinaryExpr:
		if x.Op != gotoken.ADD {
			return nil
		}
		left, right := partsOf(x.X), partsOf(x.Y)
		switch {
		case left == nil && right == nil:
			return nil
		case left == nil:
			left = []string{""}
		case right == nil:
			right = []string{""}
		}
		return append(left, right...)
	}
	return nil
}

// formatted matches a verb of fmt.
var formatted = regexp.MustCompile(`%(\.0f)?[a-z]`)

// withoutValues joins the constants that follow each other, and breaks them at the verbs for values.
func withoutValues(operands []string) (parts []string) {
	const value = "\x00"
	var text strings.Builder
	for _, operand := range operands {
		if operand == "" {
			text.WriteString(value)
		}
		text.WriteString(formatted.ReplaceAllString(operand, value))
	}
	return strings.Split(strings.ReplaceAll(text.String(), "%%", "%"), value)
}

// detailFunctions are those whose errors get into a detail, or into the error of "no token for a request".
var detailFunctions = []string{"DescribeSkew", "assertionProblem", "readyAuth", "checkDiscovered", "explain", "values", "checkFit"}

// isAdvice reports whether a text is a hint or a detail: by the file, or by the name of the function that returns it or
// of what it is assigned to.
func isAdvice(around []ast.Node, file string) bool {
	if strings.HasPrefix(file, "internal/tokenlist/") {
		return false // they are for who has just run the command
	}
	isAdviceFile := strings.HasPrefix(file, "internal/endpoint/hints") || file == "internal/endpoint/network.go"
	for i, node := range slices.Backward(around) {
		switch node := node.(type) {
		case *ast.CallExpr:
			switch name := calledName(node); {
			case name == "String" && strings.HasPrefix(strings.Join(literalsIn(node), " "), "hint "): // of a log entry
				return true
			case slices.Contains([]string{"MustCompile", "Contains", "HasPrefix", "MatchString", "remark"}, name):
				return false
			}
		case *ast.CaseClause:
			if i+1 < len(around) && slices.Contains(node.List, asExpr(around[i+1])) {
				return false
			}
		case *ast.KeyValueExpr:
			if name, ok := node.Key.(*ast.Ident); ok && isAdviceName(name.Name) {
				return true
			}
		case *ast.AssignStmt:
			if slices.ContainsFunc(node.Lhs, func(x ast.Expr) bool { return isAdviceName(nameOf(x)) }) {
				return true
			}
		case *ast.FuncDecl:
			return isAdviceFile || isAdviceName(node.Name.Name) || slices.Contains(detailFunctions, node.Name.Name)
		case *ast.ImportSpec, *ast.GenDecl:
			return isAdviceFile
		}
	}
	return false
}

func asExpr(n ast.Node) ast.Expr {
	x, _ := n.(ast.Expr)
	return x
}

func calledName(call *ast.CallExpr) string { return nameOf(call.Fun) }

// nameOf is the last name in an expression such as failure.Hint.
func nameOf(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}

// isAdviceName reports whether a name is that of a hint or a detail.
func isAdviceName(name string) bool {
	return regexp.MustCompile(`(?i)(hint|detail)$`).MatchString(name) || strings.HasPrefix(name, "HintAfter")
}
