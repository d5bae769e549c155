package providers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the documents on security name is there: files, headings, the code that a link goes to, and the tests.
func TestThreatModelNamesWhatExists(t *testing.T) {
	tests, named := testsOfRepository(t), 0
	for _, document := range []string{"SECURITY.md", "docs/threat-model.md"} {
		text := readDocument(t, document)
		for _, link := range markdownLink.FindAllStringSubmatch(text, -1) {
			if err := checkLink(document, link[1], link[2]); err != nil {
				t.Errorf("%s: %s: %v", document, link[0], err)
			}
		}
		for _, name := range testName.FindAllStringSubmatch(text, -1) {
			named++
			if !tests[name[1]] {
				t.Errorf("%s: there is no test %s", document, name[1])
			}
		}
	}
	if named < 100 {
		t.Errorf("the documents name %d tests", named)
	}
}

// Each threat has a test, or says that it has none.
func TestEveryThreatHasATest(t *testing.T) {
	rows, proven := 0, false
	for line := range strings.Lines(readDocument(t, "docs/threat-model.md")) {
		line, isRow := strings.CutSuffix(strings.TrimSpace(line), "|")
		if !isRow {
			proven = false
			continue
		}
		last := strings.TrimSpace(line[strings.LastIndex(line, "|")+1:])
		switch {
		case last == "test":
			proven = true
		case proven && !strings.HasPrefix(last, "---"):
			rows++
			if !testName.MatchString(last) && !strings.HasPrefix(last, "no test") {
				t.Errorf("no test in the row: %s", line)
			}
		}
	}
	if rows < 50 {
		t.Errorf("there are %d threats", rows)
	}
}

var (
	markdownLink = regexp.MustCompile(`\[([^\]]*)\]\(([^)]*)\)`)
	testName     = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
)

func readDocument(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkLink wants the folder or the file that a link in a document leads to, and in it the heading or what its text names.
func checkLink(document, text, target string) error {
	if strings.HasPrefix(target, "https://") {
		return nil
	}
	path, heading, hasHeading := strings.Cut(target, "#")
	file := filepath.Join(repository, filepath.Dir(document), path)
	if path == "" {
		file = filepath.Join(repository, document)
	}
	if info, err := os.Stat(file); err != nil || info.IsDir() {
		return err
	}
	content, err := os.ReadFile(file)
	switch {
	case err != nil:
		return err
	case hasHeading && !slices.Contains(headingsOf(string(content)), heading):
		return fmt.Errorf("no heading #%s", heading)
	case filepath.Ext(file) == ".go":
		names, err := declaredIn(file)
		if err == nil && !names[strings.Trim(text, "`")] {
			err = fmt.Errorf("%s is not declared there", text)
		}
		return err
	}
	return nil
}

// headingsOf are the headings of a document as links name them.
func headingsOf(markdown string) (names []string) {
	for line := range strings.Lines(markdown) {
		level, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || level == "" || strings.Trim(level, "#") != "" {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case strings.ContainsRune("?,.'`:;()/", r):
				return -1
			}
			return r
		}, strings.ToLower(title))
		names = append(names, name)
	}
	return names
}

// declaredIn returns what a Go file declares; methods with their receiver, as in Type.method.
func declaredIn(file string) (map[string]bool, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for _, declaration := range parsed.Decls {
		switch declaration := declaration.(type) {
		case *ast.FuncDecl:
			names[receiverOf(declaration)+declaration.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range declaration.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return names, nil
}

// receiverOf is the type of a method's receiver with a dot, or empty for a function.
func receiverOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if name, ok := receiver.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}

// testsOfRepository returns the names of all tests, those of nested modules included.
func testsOfRepository(t *testing.T) map[string]bool {
	t.Helper()
	tests := make(map[string]bool)
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		names, err := declaredIn(path)
		for name := range names {
			tests[name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
