package table

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

var sample = Table{
	Columns: []Column{{Name: "ENDPOINT", Least: 16}, {Name: "CLIENT", Least: 8}, {Name: "STATE", Tells: true}, {Name: "ID"}},
	Rows: []Row{
		{Cells: []string{"https://auth.partner.example/oauth/token", "a-client-with-a-name", "fresh", "9e1f0c7a35d2"}, Mood: Good},
		{Cells: []string{"https://a.example", "", "expired", "1b2c3d4e5f60"}, Mood: Bad, Remarks: []string{
			"hint: the endpoint may want the secret in another way", "detail: none",
		}},
	},
}

func draw(t *testing.T, table Table, s Style) string {
	t.Helper()
	var out strings.Builder
	if err := table.Write(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func wantDrawn(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPipeGetsTheFullText(t *testing.T) {
	wantDrawn(t, draw(t, sample, Style{}), `ENDPOINT                                  CLIENT                STATE    ID
https://auth.partner.example/oauth/token  a-client-with-a-name  fresh    9e1f0c7a35d2
https://a.example                         -                     expired  1b2c3d4e5f60
    hint: the endpoint may want the secret in another way
    detail: none
`)
}

func TestNarrowTerminalShortensTheWidestColumns(t *testing.T) {
	wantDrawn(t, draw(t, sample, Style{Width: 60}), `ENDPOINT           CLIENT              STATE    ID
https://…th/token  a-client…th-a-name  fresh    9e1f0c7a35d2
https://a.example  -                   expired  1b2c3d4e5f60
    hint: the endpoint may want the secret in another way
    detail: none
`)
}

// An address that is cut can't be opened.
func TestAddressIsNeverBroken(t *testing.T) {
	const address = "https://docs.example.com/an/address/that/is/wider/than/the/terminal#here"
	addressed := Table{Columns: sample.Columns, Rows: []Row{sample.Rows[1]}}
	addressed.Rows[0].See = address + "\x1b"
	for _, width := range []int{0, 20, 60} {
		if got := draw(t, addressed, Style{Width: width}); !strings.HasSuffix(got, "    detail: none\n    see "+address+" \n") {
			t.Errorf("at %d:\n%s", width, got)
		}
	}
}

func TestTableThatDoesNotFitBecomesRecords(t *testing.T) {
	wantDrawn(t, draw(t, sample, Style{Width: 44}), `https://auth.partner.example/oauth/token
    client: a-client-with-a-name
    state: fresh  id: 9e1f0c7a35d2
https://a.example
    state: expired  id: 1b2c3d4e5f60
    hint: the endpoint may want the secret
      in another way
    detail: none
`)
	wantDrawn(t, draw(t, sample, Style{Width: 20}), `https://auth.partner
.example/oauth/token
    client:
    a-client-with-a-
    name
    state: fresh
    id: 9e1f0c7a35d2
https://a.example
    state: expired
    id: 1b2c3d4e5f60
    hint: the
      endpoint may
      want the
      secret in
      another way
    detail: none
`)
}

// Whatever the width, no line is wider, and all of a remark is there.
func TestEveryLineFits(t *testing.T) {
	table := sample
	table.Rows = append(table.Rows, Row{Cells: []string{"令牌令牌令牌令牌令牌令牌令牌", "e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301", "none", "令牌"}, Remarks: []string{
		"the endpoint says: 令牌令牌令牌令牌令牌令牌令牌令牌令牌令牌 " + strings.Repeat("x", 300), "",
	}})
	for most := leastWidth; most <= 220; most++ {
		out := draw(t, table, Style{Width: most})
		for line := range strings.Lines(out) {
			if got := width(strings.TrimSuffix(line, "\n")); got > most {
				t.Errorf("at %d: %d in %q", most, got, line)
			}
		}
		if n := strings.Count(out, "x"); n < 300 {
			t.Errorf("at %d: %d of 300", most, n)
		}
	}
}

func TestColours(t *testing.T) {
	out := draw(t, sample, Style{Width: 200, Colors: true})
	for _, want := range []string{"\x1b[1mENDPOINT\x1b[0m", "\x1b[32mfresh\x1b[0m  ", "\x1b[31mexpired\x1b[0m  "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	plain := strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "", "\x1b[32m", "", "\x1b[31m", "").Replace(out)
	wantDrawn(t, plain, draw(t, sample, Style{}))
	if records := draw(t, sample, Style{Width: 44, Colors: true}); !strings.Contains(records, "state: \x1b[31mexpired\x1b[0m  id: ") {
		t.Errorf("got %q", records)
	}
}

// Others' texts can't move the cursor or colour the screen.
func TestControlCharactersAreNotDrawn(t *testing.T) {
	table := Table{Columns: []Column{{Name: "A"}, {Name: "B"}}, Rows: []Row{{Cells: []string{"a\x1b[2Jb\nc", "\u009b31m\u202ed\xff"}, Remarks: []string{"x\ry\x07"}}}}
	wantDrawn(t, draw(t, table, Style{}), "A         B\na [2Jb c   31m d \n    x y \n")
}

func TestOnlyTerminalsAreStyled(t *testing.T) {
	if s := StyleOf(new(bytes.Buffer)); s != (Style{}) {
		t.Errorf("got %+v", s)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestTableThatCannotBeWrittenIsAnError(t *testing.T) {
	if err := sample.Write(brokenWriter{}, Style{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestShortenedTexts(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
	}{
		{"short", 5, "short"}, {"abcdefghij", 7, "abc…hij"}, {"abcdefghij", 6, "ab…hij"}, {"令牌令牌", 5, "令…牌"}, {"ab", 1, "…"},
	} {
		if got := shorten(test.text, test.most); got != test.want {
			t.Errorf("%q in %d: got %q, want %q", test.text, test.most, got, test.want)
		}
	}
	for i := range 12 {
		text := fmt.Sprint("令e\u0301", strings.Repeat("x", i))
		if got := shorten(text, 4); width(got) > 4 {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// A client chooses what its tenant is called. If time grew with the square of that, these would not end.
func TestLongTextsAreDrawnInLinearTime(t *testing.T) {
	long := strings.Repeat("令x", 1<<19)
	if got := shorten(long, 7); got != "令x…令x" {
		t.Errorf("it becomes %q", got)
	}
	if got := wrap(long, 30); len(got) != 1<<19/10+1 {
		t.Errorf("%d lines", len(got))
	}
}
