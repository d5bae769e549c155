package mask

// view is a text with some encodings undone.
type view struct {
	text []byte

	// Where each byte comes from in the original text.
	from, to []int

	// isDecoded means that bytes come from words that were decoded as a whole, such as base64. What is of
	// different words is apart.
	isDecoded bool

	depth int // how many encodings are undone
}

// newView returns the view of a text as it is.
func newView(text []byte) *view {
	v := &view{text: text, from: make([]int, len(text)), to: make([]int, len(text))}
	for i := range text {
		v.from[i], v.to[i] = i, i+1
	}
	return v
}

// derived returns an empty view that is to be made from this one.
func (v *view) derived() *view {
	return &view{
		text: make([]byte, 0, len(v.text)), from: make([]int, 0, len(v.text)), to: make([]int, 0, len(v.text)),
		isDecoded: v.isDecoded, depth: v.depth + 1,
	}
}

// add appends a text that comes from bytes of another view.
func (v *view) add(text []byte, of *view, from, to int) {
	for _, b := range text {
		v.text, v.from, v.to = append(v.text, b), append(v.from, of.from[from]), append(v.to, of.to[to-1])
	}
}

// source returns the part of the original text from which a part of the view comes.
func (v *view) source(from, to int) span { return span{v.from[from], v.to[to-1]} }

// isApart reports whether a byte comes from another word than the one before it.
func (v *view) isApart(at int) bool {
	return v.isDecoded && v.from[at] != v.from[at-1]
}

// standsAlone reports whether a part of the view is not within a word or a number. In what was decoded as a
// whole it needs text around it: what was not encoded decodes to anything by chance.
func (v *view) standsAlone(from, to int) bool {
	isEdge := func(at, outside int) bool { // at is where the part or what is around it begins
		switch {
		case at == 0, at == len(v.text), v.isApart(at):
			return true
		case v.isDecoded && (v.text[outside] < ' ' || v.text[outside] > '~'):
			return false
		}
		return classOf(v.text[at-1])&classOf(v.text[at])&(letters|digits) == 0
	}
	return isEdge(from, from-1) && isEdge(to, to)
}

// Bounds of the search, of encodings within each other and of all views together. Most texts have fewer
// than ten views.
const (
	maxDepth = 5
	maxViews = 100
)

// viewsOf returns the text as it is, and with encodings undone, those with fewer first.
func viewsOf(text string) []*view {
	views := []*view{newView([]byte(text))}
	seen := map[string]bool{text: true}
	for i := 0; i < len(views); i++ { //nolint:intrange // it grows
		v := views[i]
		if v.depth == maxDepth {
			break
		}
		for _, decode := range decoders {
			decoded, changed := decode(v)
			if changed && !seen[string(decoded.text)] {
				if len(views) == maxViews {
					return views
				}
				seen[string(decoded.text)] = true
				views = append(views, decoded)
			}
		}
	}
	return views
}

// decoder undoes one encoding. It reports whether there was any.
type decoder func(*view) (decoded *view, changed bool)

// decoders are for all encodings that are undone.
var decoders = append(append([]decoder(nil), escapes...),
	undoQuotedPrintable, undoBase64(0), undoBase64(1), undoBase64(2), undoBase64(3), undoHex(0), undoHex(1))

// escapes are those whose decoded form servers take for the secret itself.
var escapes = []decoder{undoPercents, undoEntities, undoBackslashes}
