package mask

// maxGap bounds what is skipped within a run because it does not count, in bytes. A character that is not
// ASCII can have become several.
const maxGap = 64

// find returns where runs of secrets are in a view, as spans of the text that it is a view of.
func (g *grams) find(v *view) []span {
	var found []span
	scans := make([]scan, len(foldings))
	for i := range scans {
		scans[i] = scan{grams: g, view: v}
	}
	for at := 0; at < len(v.text); {
		r, size := nextRune(v.text[at:])
		symbol := fold(r)
		number := g.known(symbol)
		for i, fold := range foldings {
			if fold.keeps(symbol) {
				found = scans[i].next(found, number, symbol, at, at+size)
			}
		}
		at += size
	}
	for i := range scans {
		found = scans[i].endRun(found)
	}
	return found
}

// scan goes through the symbols of a view in one folding. Runs that overlap are one.
type scan struct {
	grams *grams
	view  *view

	// The last symbols: packed, where they start in the view, how many there were, and where the last
	// ends.
	window uint64
	starts [wholeRun]int
	count  int
	end    int

	run found // not yet complete
}

// found is a run of symbols that is in a secret. It is empty if its kind is 0.
type found struct {
	kind        kind
	from, to    int // in the view
	first, last int // numbers of its symbols
	classes     class
}

// next takes the next symbol, which is at a place of the view. It appends the run that ends before it.
func (s *scan) next(spans []span, number byte, symbol rune, from, to int) []span {
	if s.count > 0 && (from-s.end > maxGap || s.view.isApart(from)) {
		spans = s.endRun(spans)
		s.window = 0
	}
	if symbol == ' ' && number != 0 && number == byte(s.window) {
		s.end = to // white space is one symbol
		return spans
	}
	s.starts[s.count%wholeRun] = from
	s.count++
	s.end = to
	s.window = pack(s.window, number)
	if number == 0 {
		return s.endRun(spans)
	}
	for size := wholeRun; size > 0; size-- {
		packed := s.window << (8 * (wholeRun - size)) >> (8 * (wholeRun - size))
		if !s.grams.sizes[size] || packed>>(8*(size-1)) == 0 { // there are fewer symbols
			continue
		}
		if k := s.grams.kinds[packed]; k != 0 {
			spans = s.extend(spans, k, size)
		}
	}
	return spans
}

// extend adds the last symbols to the run, or starts another with them.
func (s *scan) extend(spans []span, k kind, size int) []span {
	if s.view.isDecoded && size == 1 {
		return spans // by chance
	}
	first, from := s.count-size, s.starts[(s.count-size)%wholeRun]
	if s.view.isDecoded && size >= leastRun || s.view.standsAlone(from, s.end) {
		k = anywhere
	}
	if s.run.kind != 0 && first > s.run.last {
		spans = s.endRun(spans)
	}
	if s.run.kind == 0 {
		s.run = found{from: from, first: first}
	}
	s.run.kind = max(s.run.kind, k)
	s.run.from, s.run.first = min(s.run.from, from), min(s.run.first, first)
	s.run.to, s.run.last = s.end, s.count-1
	for i := first; i < s.count; i++ {
		s.run.classes |= classOf(s.view.text[s.starts[i%wholeRun]])
	}
	return spans
}

// endRun appends the run, if it is to be hidden where it is.
func (s *scan) endRun(spans []span) []span {
	r := s.run
	s.run = found{}
	if r.kind == 0 {
		return spans
	}
	isWord := r.classes == letters || r.classes == digits
	if r.kind == anywhere || r.last-r.first+1 >= wholeRun || r.kind == partial && !isWord || s.view.standsAlone(r.from, r.to) {
		return append(spans, s.view.source(r.from, r.to))
	}
	return spans
}

// class is what characters are in a run. White space is none.
type class byte

const (
	letters class = 1 << iota
	digits
	others
)

func classOf(b byte) class {
	switch {
	case b <= ' ':
		return 0
	case '0' <= b && b <= '9':
		return digits
	case isAlphanumeric(b):
		return letters
	}
	return others
}
