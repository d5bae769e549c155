package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// place is a place in a JSON object: a member that is looked for, an object that has such members, or both.
type place struct {
	names  []string          // under which the member is found
	within map[string]*place // the members of an object, by their names in the answer
}

// lookFor adds a member, which is found under a name. path has the names of the objects around it, from the
// outermost, and its own.
func (p *place) lookFor(name string, path ...string) {
	for _, member := range path {
		if p.within == nil {
			p.within = make(map[string]*place)
		}
		if p.within[member] == nil {
			p.within[member] = new(place)
		}
		p = p.within[member]
	}
	p.names = append(p.names, name)
}

// maxMembers bounds the members of an answer, of which some twenty are registered. For forms, net/url has
// the same limit.
const maxMembers = 10_000

// findIn finds the members in a JSON object. What it returns are parts of the body. It reports whether the body is an
// object with at most maxMembers, including those of the objects on the path. If a name comes twice, the last counts.
// Other members are skipped one by one, as keeping them would take twenty times the memory of the body.
func (p *place) findIn(body []byte) (map[string]json.RawMessage, bool) {
	r := memberReader{body: body, decoder: json.NewDecoder(bytes.NewReader(body)), found: make(map[string]json.RawMessage)}
	if start, err := r.decoder.Token(); err != nil || start != json.Delim('{') || !r.readObject(p) {
		return nil, false
	}
	_, err := r.decoder.Token()
	return r.found, errors.Is(err, io.EOF)
}

// memberReader goes through a body once.
type memberReader struct {
	body    []byte
	decoder *json.Decoder
	found   map[string]json.RawMessage

	count int             // of the members so far
	value json.RawMessage // its memory is used again
}

// readObject reads an object after its opening brace. Objects within each other are read only as deep as places are.
func (r *memberReader) readObject(p *place) bool {
	for ; r.decoder.More(); r.count++ {
		if r.count >= maxMembers { // an object within can have brought it beyond that
			return false
		}
		token, err := r.decoder.Token()
		if err != nil {
			return false
		}
		name, _ := token.(string)
		if !r.readValue(p.within[name]) {
			return false
		}
	}
	_, err := r.decoder.Token() // the closing brace
	return err == nil
}

// readValue reads the value of a member. p is nil if nobody looks for it.
func (r *memberReader) readValue(p *place) bool {
	value := bytes.TrimLeft(r.body[r.decoder.InputOffset():], ": \t\r\n")
	start := len(r.body) - len(value)
	r.forget(p)
	if p != nil && p.within != nil && bytes.HasPrefix(value, []byte("{")) {
		if _, err := r.decoder.Token(); err != nil || !r.readObject(p) {
			return false
		}
	} else if r.decoder.Decode(&r.value) != nil {
		return false
	}
	if p != nil {
		for _, name := range p.names {
			r.found[name] = r.body[start:r.decoder.InputOffset()]
		}
	}
	return true
}

// forget drops what was found in an earlier member of the same name.
func (r *memberReader) forget(p *place) {
	if p == nil {
		return
	}
	for _, name := range p.names {
		delete(r.found, name)
	}
	for _, inner := range p.within {
		r.forget(inner)
	}
}
