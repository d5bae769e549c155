package endpoint

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Many servers refuse a request in a form of their own, often because a gateway before them does:
// RFC 9457's problem+json, or members that no standard has. This file finds the words in such answers,
// for operators. Nothing else depends on them but hints.

// Bounds of the search: an answer that goes beyond them is no refusal, or says it in its first words.
const (
	maxRefusal    = 64 << 10 // bytes of an answer
	maxWordsDepth = 6        // objects and lists within each other
	maxPhrases    = 4        // each is of one object
	maxListed     = 4        // elements of a list
)

// wordMember is a member of an answer that can say why.
type wordMember struct {
	name     string // in lower case, without separators
	isNumber bool   // a number says something, such as an error code; else only a text does
	isNested bool   // only an object in it says something; a text does not
}

// wordMembers are in the order in which they are quoted: codes, then words, then what has more of them.
var wordMembers = []wordMember{
	{name: "errorcode", isNumber: true}, {name: "code", isNumber: true}, {name: "error"}, {name: "title"}, {name: "httpmessage"},
	{name: "message"}, {name: "msg"}, {name: "errormessage"}, {name: "errormsg"}, {name: "errmsg"}, {name: "errorsummary"}, {name: "errordescription"},
	{name: "faultstring"}, {name: "description"}, {name: "detail"}, {name: "details"}, {name: "reason"}, {name: "moreinformation"}, {name: "diagnostics"},
	{name: "usermessage"}, {name: "developermessage"}, {name: "exceptionmessage"},
	{name: "fault"}, {name: "errors"}, {name: "errorcauses"}, {name: "exception"}, {name: "issue", isNested: true},
	{name: "response", isNested: true}, {name: "result", isNested: true}, {name: "status", isNested: true}, {name: "meta", isNested: true},
}

// words are collected from an answer. Each object that says something is a phrase, as is each text in a
// list. They are as the server wrote them.
type words struct {
	phrases []string
}

// String returns the phrases in one line.
func (w *words) String() string { return strings.Join(w.phrases, "; ") }

// collectFrom adds what an answer says in another form than OAuth's (RFC 6749 §5.2).
func (w *words) collectFrom(body []byte) {
	if len(body) > maxRefusal {
		return
	}
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, byteOrderMark)))
	decoder.UseNumber() // a code can have any number of digits
	var answer any
	if decoder.Decode(&answer) == nil {
		w.collect(answer, false, 0)
	}
}

// collect adds the phrases in a value. A text by itself counts if the value's name says so.
func (w *words) collect(value any, textCounts bool, depth int) {
	if depth > maxWordsDepth {
		return
	}
	switch value := value.(type) {
	case string:
		if textCounts {
			w.add(strings.TrimSpace(value))
		}
	case []any:
		for _, element := range value[:min(len(value), maxListed)] {
			w.collect(element, textCounts, depth+1)
		}
	case map[string]any:
		w.collectObject(value, depth)
	}
}

// collectObject adds a phrase of an object's own words, and then those of what is in it.
func (w *words) collectObject(object map[string]any, depth int) {
	named := make(map[string]any, len(object))
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(object))) { // so that the first of two spellings counts
		named[strings.ToLower(separators.Replace(name))] = object[name]
	}
	var own []string
	for _, member := range wordMembers {
		if text := member.text(named[member.name]); !isSaid(w.phrases, text) && !isSaid(own, text) {
			own = append(own, text)
		}
	}
	w.add(strings.Join(own, ": "))
	for _, member := range wordMembers {
		value := named[member.name]
		if _, isText := value.(string); !isText {
			w.collect(value, !member.isNested, depth+1)
		}
		if fields, ok := value.(map[string]any); ok && member.name == "errors" { // by the names of parameters
			for _, name := range slices.Sorted(maps.Keys(fields)) {
				w.collect(fields[name], true, depth+1)
			}
		}
	}
}

// separators of the words in a name.
var separators = strings.NewReplacer("_", "", "-", "")

// text returns what the member's value says by itself.
func (m wordMember) text(value any) string {
	switch value := value.(type) {
	case string:
		if !m.isNested {
			return strings.TrimSpace(value)
		}
	case json.Number:
		if m.isNumber && value != "0" {
			return value.String()
		}
	}
	return ""
}

// add adds a phrase, if it is not said yet.
func (w *words) add(phrase string) {
	if len(w.phrases) < maxPhrases && !isSaid(w.phrases, phrase) {
		w.phrases = append(w.phrases, phrase)
	}
}

// isSaid reports whether one of the texts says this already. Nothing needs no saying.
func isSaid(texts []string, text string) bool {
	return text == "" || slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(t, text) })
}
