package oauthcc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// Caddy's website scans the source of a module: it lists what is registered, with the comments as documentation.
// What it can't read, it refuses without a line number.
func TestRegistryOfCaddyCanReadTheModules(t *testing.T) {
	found := 0
	for folder, files := range parsedPackages(t) {
		modules, faults := scanModules(files)
		for _, fault := range faults {
			t.Errorf("%s: %s", folder, fault)
		}
		found += len(modules)
		if folder == "." && !slices.Equal(modules, []string{"admin.api.oauth_cc", "http.handlers.oauth_cc"}) {
			t.Errorf("the package of the module registers %q", modules)
		}
	}
	if found < 3 { // those of the tests count
		t.Errorf("only %d modules found", found)
	}
}

func TestWhatTheRegistryOfCaddyCannotReadIsFound(t *testing.T) {
	const (
		method = "func (*M) CaddyModule() caddy.ModuleInfo {\nreturn caddy.ModuleInfo{ID: \"m\", New: func() caddy.Module { return new(M) }}\n}\n"
		right  = "// M does something.\ntype M struct {\n// What to do. `b` by default.\nB string `json:\"b\"`\n}\n" + method
	)
	register := func(argument string) string {
		return "func init() { caddy.RegisterModule(" + argument + ") }\n"
	}
	for _, c := range []struct{ name, source, fault string }{
		{"new", right + register("new(M)"), ""},
		{"a literal", right + register("M{}"), ""},
		{"a pointer", right + register("&M{}"), "RegisterModule is called with something else than T{} or new(T)"},
		{"a variable", right + register("m"), "RegisterModule is called with something else than T{} or new(T)"},
		{"a literal with fields", right + register(`M{B: "x"}`), "RegisterModule is called with something else than T{} or new(T)"},
		{"not registered", right, "M has a method CaddyModule, and is not registered"},
		{"another one", right + register("new(N)"), "N is registered, and has no method CaddyModule"},
		{"a constant id", strings.Replace(right, `"m"`, "id", 1) + register("new(M)"), "CaddyModule of M does not return a literal with a literal ID"},
		{"no id", strings.Replace(right, `ID: "m", `, "", 1) + register("new(M)"), "CaddyModule of M does not return a literal with a literal ID"},
		{"a composed result", strings.Replace(right, "return caddy.ModuleInfo{", "info := caddy.ModuleInfo{", 1) + register("new(M)"), "CaddyModule of M does not return a literal with a literal ID"},
		{"a result from elsewhere", strings.Replace(right, "return caddy.ModuleInfo{ID: \"m\", New: func() caddy.Module { return new(M) }}", "return info()", 1) + register("new(M)"), "CaddyModule of M does not return a literal with a literal ID"},
		{"no comment of the type", strings.Replace(right, "// M does something.\n", "", 1) + register("new(M)"), "M has no comment"},
		{"no comment of an option", strings.Replace(right, "// What to do. `b` by default.\n", "", 1) + register("new(M)"), "M.B has no comment"},
		{"a comment beside an option", strings.Replace(right, "// What to do. `b` by default.\nB string `json:\"b\"`", "B string `json:\"b\"` // What to do.", 1) + register("new(M)"), "M.B has no comment"},
		{"an unfinished comment", strings.Replace(right, "by default.", "by default", 1) + register("new(M)"), "the comment of M.B is no whole sentence"},
		{"a comment without a start", strings.Replace(right, "What to", "what to", 1) + register("new(M)"), "the comment of M.B is no whole sentence"},
		{"an option without a JSON name", strings.Replace(right, " `json:\"b\"`", "", 1) + register("new(M)"), "M.B has no name in JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "m.go", "package m\n"+c.source, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			_, faults := scanModules([]*ast.File{file})
			if c.fault == "" && len(faults) > 0 || c.fault != "" && !slices.Contains(faults, c.fault) {
				t.Errorf("got %q, want %q", faults, c.fault)
			}
		})
	}
}

// parsedPackages has the files of each package of this module, but for tests, by folder.
func parsedPackages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	packages := make(map[string][]*ast.File)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() {
			if name == "test" || name == "testdata" || name != "." && strings.HasPrefix(name, ".") { // test is another module
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		folder := filepath.ToSlash(filepath.Dir(path))
		packages[folder] = append(packages[folder], file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// scanModules returns the ids of a package's modules, and what is wrong with them.
func scanModules(files []*ast.File) (ids, faults []string) {
	registered, methods, types := make(map[string]bool), make(map[string]*ast.FuncDecl), make(map[string]commentedType)
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.CallExpr:
				if isSelector(node.Fun, "caddy", "RegisterModule") {
					if name := registeredType(node.Args[0]); name != "" {
						registered[name] = true
					} else {
						fault("RegisterModule is called with something else than T{} or new(T)")
					}
				}
			case *ast.FuncDecl:
				if node.Recv != nil && node.Name.Name == "CaddyModule" {
					methods[receiverType(node)] = node
				}
			case *ast.GenDecl:
				for _, spec := range node.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok {
						types[spec.Name.Name] = commentedType{spec, firstComment(spec.Doc, node.Doc)}
					}
				}
			}
			return true
		})
	}
	for _, name := range slices.Sorted(maps.Keys(registered)) {
		if methods[name] == nil {
			fault("%s is registered, and has no method CaddyModule", name)
		}
	}
	documented := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if !registered[name] {
			fault("%s has a method CaddyModule, and is not registered", name)
		}
		if id := literalID(methods[name]); id != "" {
			ids = append(ids, id)
		} else {
			fault("CaddyModule of %s does not return a literal with a literal ID", name)
		}
		if types[name].comment == "" {
			fault("%s has no comment", name)
		}
		checkOptions(name, types, documented, fault)
	}
	slices.Sort(ids)
	return ids, faults
}

// commentedType is the declaration of a type with its comment.
type commentedType struct {
	*ast.TypeSpec
	comment string
}

// checkOptions checks the exported fields of a struct, and of those of the package that its fields have.
func checkOptions(name string, types map[string]commentedType, documented map[string]bool, fault func(string, ...any)) {
	if documented[name] || types[name].TypeSpec == nil {
		return
	}
	documented[name] = true
	body, ok := types[name].Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range body.Fields.List {
		for _, option := range field.Names {
			if !option.IsExported() {
				continue
			}
			full, comment := name+"."+option.Name, firstComment(field.Doc)
			if comment == "" {
				fault("%s has no comment", full)
			} else if !isWholeSentence(comment) {
				fault("the comment of %s is no whole sentence", full)
			}
			if field.Tag == nil || !strings.Contains(field.Tag.Value, `json:"`) {
				fault("%s has no name in JSON", full)
			}
			ast.Inspect(field.Type, func(node ast.Node) bool {
				if inner, ok := node.(*ast.Ident); ok {
					checkOptions(inner.Name, types, documented, fault)
				}
				_, foreign := node.(*ast.SelectorExpr)
				return !foreign
			})
		}
	}
}

// isWholeSentence reports whether a comment starts with a capital letter and ends with a full stop.
func isWholeSentence(comment string) bool {
	first := []rune(strings.TrimLeft(comment, "`{"))[0]
	return !unicode.IsLower(first) && strings.HasSuffix(comment, ".")
}

// registeredType returns T of T{} and new(T), or nothing.
func registeredType(argument ast.Expr) string {
	var name ast.Expr
	switch argument := argument.(type) {
	case *ast.CompositeLit:
		if len(argument.Elts) == 0 {
			name = argument.Type
		}
	case *ast.CallExpr:
		if function, ok := argument.Fun.(*ast.Ident); ok && function.Name == "new" && len(argument.Args) == 1 {
			name = argument.Args[0]
		}
	}
	if ident, ok := name.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

func receiverType(method *ast.FuncDecl) string {
	receiver := method.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	if ident, ok := receiver.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

// literalID returns the ID that the method CaddyModule returns in a literal, or nothing.
func literalID(method *ast.FuncDecl) string {
	if len(method.Body.List) != 1 {
		return ""
	}
	result, ok := method.Body.List[0].(*ast.ReturnStmt)
	if !ok || len(result.Results) != 1 {
		return ""
	}
	info, ok := result.Results[0].(*ast.CompositeLit)
	if !ok || !isSelector(info.Type, "caddy", "ModuleInfo") {
		return ""
	}
	for _, element := range info.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			return ""
		}
		if key, ok := pair.Key.(*ast.Ident); !ok || key.Name != "ID" {
			continue
		}
		if value, ok := pair.Value.(*ast.BasicLit); ok && value.Kind == token.STRING {
			id, _ := strconv.Unquote(value.Value)
			return id
		}
	}
	return ""
}

func isSelector(expr ast.Expr, of, name string) bool {
	selector, ok := expr.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == of
}

// firstComment returns the first comment that there is.
func firstComment(groups ...*ast.CommentGroup) string {
	for _, group := range groups {
		if text := strings.TrimSpace(group.Text()); text != "" {
			return text
		}
	}
	return ""
}
