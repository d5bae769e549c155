package operators

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// openTerminal opens a terminal of this size: what a person looks at, and what the command prints to.
func openTerminal(t *testing.T, columns, rows uint16) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
	return screen, terminal
}

// onTerminal runs a command to its end on a terminal of this width, and returns what is on the screen.
func onTerminal(t *testing.T, columns uint16, env []string, args ...string) string {
	t.Helper()
	screen, terminal := openTerminal(t, columns, 50)
	p := gatewaytest.CaddyProcess(t, args...)
	p.Env = append(append(p.Env, "TERM=xterm", "NO_COLOR="), env...)
	p.Stdout = terminal
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(screen) // it ends with an error when the terminal is closed
		shown <- string(text)
	}()
	_ = p.Run()
	terminal.Close()
	return strings.ReplaceAll(<-shown, "\r\n", "\n")
}

var colors = regexp.MustCompile("\x1b\\[[0-9]+m")

func TestTablesFitTheTerminal(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	refusingBad(endpoint)
	site := "handle /bad {\n" + clientOptions(endpoint, "bad") + upstream.Proxy() + "}\nhandle /t {\n" + clientOptions(endpoint, "{http.request.header.X-Tenant}") + upstream.Proxy() +
		"}\nhandle {\n" + endpoint.Options() + upstream.Proxy() + "}\n"
	g := gatewaytest.StartWithAdmin(t, site)
	g.Get("/")
	g.Get("/bad")
	tokens := []string{"oauth-cc", "tokens", "--address", g.Admin}
	check := []string{"oauth-cc", "check", "--config", gatewaytest.CaddyfileWith(t, site)}
	for name, command := range map[string][]string{"tokens": tokens, "check": check} {
		full := onTerminal(t, 1000, []string{"TERM=dumb"}, command...)
		if strings.Contains(full, "\x1b") || strings.Contains(full, "…/") || !strings.Contains(full, "\n    hint: ") {
			t.Errorf("%s on a dumb terminal: %q", name, full)
		}
		for _, columns := range []int{40, 80, 200} {
			shown := onTerminal(t, uint16(columns), nil, command...)
			if !strings.Contains(shown, "\x1b[32m") || !strings.Contains(shown, "\x1b[31m") {
				t.Errorf("%s at %d has no colours: %q", name, columns, shown)
			}
			plain := colors.ReplaceAllString(shown, "")
			for line := range strings.Lines(plain) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns && !strings.HasPrefix(line, "    see https://") {
					t.Errorf("%s at %d: %d characters in %q", name, columns, n, line)
				}
			}
			isTable := strings.Contains(plain, "ENDPOINT  ")
			if columns == 40 && isTable || columns == 200 && !strings.Contains(plain, "\n"+endpoint.URL+"/token  ") {
				t.Errorf("%s at %d:\n%s", name, columns, plain)
			}
			for word := range strings.FieldsSeq(full[strings.Index(full, "hint: "):strings.LastIndex(full, "which")]) {
				if !strings.Contains(plain, word) {
					t.Errorf("%s at %d lacks %q:\n%s", name, columns, word, plain)
				}
			}
		}
		if shown := onTerminal(t, 80, []string{"NO_COLOR=1"}, command...); strings.Contains(shown, "\x1b") {
			t.Errorf("%s with NO_COLOR: %q", name, shown)
		}
	}
}

func TestWatchRedrawsTheTerminal(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	screen, terminal := openTerminal(t, 80, 5)
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "tokens", "--address", g.Admin, "--watch", "--interval", "1ms")
	p.Env = append(p.Env, "TERM=xterm", "NO_COLOR=")
	p.Stdout = terminal
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	lines := bufio.NewScanner(screen)
	next := func() string {
		if !lines.Scan() {
			t.Fatal("it ended")
		}
		return strings.TrimSuffix(lines.Text(), "\r")
	}
	// The line with the time, an empty one, and two of four: five would scroll. Each is erased before it is written.
	for frame, before := range []string{"\x1b[2J\x1b[H", "\x1b[J\x1b[H", "\x1b[J\x1b[H"} {
		if head := next(); !strings.HasPrefix(head, before+"\x1b[K") || !strings.HasSuffix(head, "  every 1ms, Ctrl-C ends it") {
			t.Errorf("frame %d begins with %q", frame, head)
		}
		for i, want := range []string{"", "1 token: 1 none", "… 3 more lines; --failing, --state and --value show fewer tokens"} {
			if got := next(); got != "\x1b[K"+want {
				t.Errorf("frame %d, line %d: got %q, want %q", frame, i, got, want)
			}
		}
	}
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	_ = p.Wait()
	p.WantStatus(t, 0)
}
