package mask

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

// wholeRun is how many characters of a secret are hidden wherever they are. Of a secret with less than
// twice as many, half is enough.
const wholeRun = 8

// leastRun is the least of a secret that is hidden by itself. Fewer characters occur by chance.
const leastRun = 4

// maxSecret bounds how much of a secret is looked for, in bytes. A header field carries no more.
const maxSecret = 64 << 10

// kind says where a run is hidden. What two secrets have in common is hidden as the stricter kind says.
type kind byte

const (
	standing kind = iota + 1 // where it stands alone, not within a word or a number
	partial                  // the same if it is of letters alone or of digits alone; others everywhere
	anywhere                 // everywhere
)

// grams are the runs that are looked for.
type grams struct {
	kinds map[uint64]kind // by the symbols of the run, as pack makes it; at most wholeRun symbols
	sizes [wholeRun + 1]bool

	// Symbols are numbered, as those of all secrets usually fit into a byte. If they don't, several have
	// the same number, and some more is hidden. No symbol has the number 0.
	ascii   [utf8.RuneSelf]byte
	further map[rune]byte
	last    int

	// The symbols of ASCII that are in the text. Runs with others are left out, as most texts are short and
	// some secrets long.
	present [utf8.RuneSelf]bool
}

// grams returns the runs of all secrets in all forms, as far as they can be in these views.
func (s Secrets) grams(views []*view) *grams {
	g := &grams{kinds: make(map[uint64]kind), further: make(map[rune]byte)}
	for _, v := range views {
		for _, b := range v.text {
			if symbol := fold(rune(b)); symbol < utf8.RuneSelf {
				g.present[symbol] = true
			} else {
				g.present[' '], g.present['i'], g.present['k'] = true, true, true // what other characters can be folded to
			}
		}
	}
	for _, secret := range s.Certain {
		for _, form := range formsOf(secret) {
			g.addForm(form, true)
		}
	}
	for _, value := range s.Possible {
		if isOrdinary(value) {
			continue
		}
		for _, form := range formsOf(value) {
			g.addForm(form, false)
		}
	}
	return g
}

// minRuns is the least length of a secret that is looked for in parts.
const minRuns = 6

// addForm adds the runs of one form of a secret.
func (g *grams) addForm(form []rune, isCertain bool) {
	n := len(form)
	var folded, before []rune
	for _, fold := range foldings {
		folded, before = fold.all(before[:0], form), folded
		if slices.Equal(folded, before) {
			continue
		}
		switch {
		case n < leastRun || n < minRuns && !isCertain:
			if len(folded) == n {
				g.add(folded, standing)
			}
			continue
		case n >= minRuns && len(folded) == n && n <= wholeRun:
			g.add(folded, anywhere)
		case len(folded) >= leastRun && len(folded) <= wholeRun:
			g.add(folded, partial)
		}
		if n >= minRuns {
			g.addRuns(folded)
			if len(folded) < n {
				g.addSparseRuns(form, fold)
			}
		}
	}
}

// runOf returns how long the runs of a secret are, and where they are hidden.
func runOf(length int) (int, kind) {
	if length >= 2*wholeRun {
		return wholeRun, anywhere
	}
	return max(leastRun, length/2), partial
}

// addRuns adds the runs of a folded form.
func (g *grams) addRuns(folded []rune) {
	run, k := runOf(len(folded))
	start := 0 // after the last symbol that is not in the text
	for last, symbol := range folded {
		if !g.isPresent(symbol) {
			start = last + 1
		}
		if from := last + 1 - run; from >= start {
			g.add(folded[from:last+1], k)
		}
	}
}

// addSparseRuns adds what folding leaves of the runs of a form, as much as is enough to know them by.
func (g *grams) addSparseRuns(form []rune, fold folding) {
	run, _ := runOf(len(form))
	var folded []rune
	for from := range len(form) - run + 1 {
		folded = fold.all(folded[:0], form[from:from+run])
		if len(folded) >= leastRun || run == leastRun && len(folded) == run-1 {
			g.add(folded, partial)
		}
	}
}

func (g *grams) isPresent(symbol rune) bool { return symbol >= utf8.RuneSelf || g.present[symbol] }

// add adds a run, if it can be in the text.
func (g *grams) add(symbols []rune, k kind) {
	if slices.ContainsFunc(symbols, func(symbol rune) bool { return !g.isPresent(symbol) }) {
		return
	}
	var packed uint64
	for _, r := range symbols {
		packed = pack(packed, g.number(r))
	}
	g.kinds[packed] = max(g.kinds[packed], k)
	g.sizes[len(symbols)] = true
}

// pack appends a symbol to packed ones, of which it keeps the last eight.
func pack(packed uint64, symbol byte) uint64 { return packed<<8 | uint64(symbol) }

// number returns the number of a symbol, and gives it one if it has none.
func (g *grams) number(r rune) byte {
	if known := g.known(r); known != 0 {
		return known
	}
	number := byte(1 + g.last%0xff)
	g.last++
	if r < utf8.RuneSelf {
		g.ascii[r] = number
	} else {
		g.further[r] = number
	}
	return number
}

// known returns the number of a symbol, or 0 if no secret has it.
func (g *grams) known(r rune) byte {
	if r < utf8.RuneSelf {
		return g.ascii[r]
	}
	return g.further[r]
}

// folding is a way to write a secret and a text alike.
type folding byte

const (
	foldSpaces  folding = iota // white space and control characters are one space
	foldDense                  // they don't count
	foldPrinted                // only printable ASCII counts, but no question marks, which replace other characters
	foldPlain                  // only letters and digits of ASCII count
)

var foldings = []folding{foldSpaces, foldDense, foldPrinted, foldPlain}

// all appends the symbols of a form to a folded text.
func (f folding) all(folded, form []rune) []rune {
	for _, r := range form {
		symbol := fold(r)
		if f.keeps(symbol) && (symbol != ' ' || len(folded) == 0 || folded[len(folded)-1] != ' ') {
			folded = append(folded, symbol)
		}
	}
	return folded
}

// keeps reports whether a symbol counts.
func (f folding) keeps(symbol rune) bool {
	switch f {
	case foldSpaces:
	case foldDense:
		return symbol != ' '
	case foldPrinted:
		return symbol > ' ' && symbol < utf8.RuneSelf && symbol != '?'
	case foldPlain:
		return symbol < utf8.RuneSelf && isAlphanumeric(byte(symbol))
	}
	return true
}

// fold returns the symbol of a character.
func fold(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z' || '!' <= r && r <= '@':
		return r
	case 'A' <= r && r <= 'Z':
		return r + 'a' - 'A'
	case !unicode.IsPrint(r): // white space, control characters, and what joins characters
		return ' '
	}
	return unicode.ToLower(r)
}

// isAlphanumeric reports whether a byte is a letter or a digit of ASCII.
func isAlphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// nextRune returns the first character of a text, and its size in bytes. A byte that is not UTF-8 is read
// as ISO-8859-1.
func nextRune(text []byte) (rune, int) {
	if text[0] < utf8.RuneSelf {
		return rune(text[0]), 1
	}
	if r, size := utf8.DecodeRune(text); r != utf8.RuneError || size > 1 {
		return r, size
	}
	return rune(text[0]), 1
}

// runesOf returns the characters of a text.
func runesOf(text []byte) []rune {
	runes := make([]rune, 0, len(text))
	for len(text) > 0 {
		r, size := nextRune(text)
		runes = append(runes, r)
		text = text[size:]
	}
	return runes
}
