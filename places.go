package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// This file is about what stands around a placeholder of the request: what a client sends must not change how that
// is read.

// placeMark stands for a placeholder of the request while its place is looked for. It is a character of Unicode's
// private use area.
const placeMark = "\ue001"

// place is where in an option's value a placeholder of the request stands.
type place struct {
	whole  bool // it is all of the value
	url    bool // it is a part of a URL
	word   bool // it is a part of another value, in which separators can have a meaning
	quoted int  // it is in a string of JSON; more than 1 if that is JSON in a string of JSON, and so on
}

// findPlaces sets the places of the placeholders in a text, in which each has a mark.
func findPlaces(text string, uses []placeholderUse) error {
	switch option, _, _ := strings.Cut(uses[0].option, " "); option {
	case "client_id", "client_secret", "client_assertion":
		uses[0].place.whole = text == placeMark // each is a single value, which is encoded as a whole
		return nil
	case "token_endpoint":
		for i := range uses {
			uses[i].place = place{whole: text == placeMark, url: text != placeMark}
		}
		return nil
	}
	if text == placeMark {
		uses[0].place.whole = true
		return nil
	}
	if looksLikeJSON(text) {
		if found, ok := jsonPlaces(text); ok {
			return setJSONPlaces(uses, found)
		}
	}
	for i, isURL := range urlParts(text) {
		uses[i].place = place{url: isURL, word: !isURL}
	}
	return nil
}

// urlParts reports for each mark in a text whether it is in a URL, behind its scheme.
func urlParts(text string) []bool {
	parts := strings.Split(text, placeMark)
	list := make([]bool, len(parts)-1)
	for i := range list {
		list[i] = i > 0 && list[i-1] || strings.Contains(parts[i], "://")
	}
	return list
}

// jsonPlace is where a mark stands in JSON.
type jsonPlace struct {
	place       // quoted is 0 outside of a string
	isName bool // it is in the name of an object's member
}

func setJSONPlaces(uses []placeholderUse, found []jsonPlace) error {
	for i, p := range found {
		switch name := uses[i].name; {
		case p.isName:
			return fmt.Errorf("placeholder {%s} is in the name of a JSON member, which a client could choose; write the name, and use the placeholder in the value", name)
		case p.quoted == 0:
			return fmt.Errorf("placeholder {%s} is outside of a JSON string, where a client could add JSON of its own; put quotes around it, or have a map choose the whole value", name)
		}
		uses[i].place = p.place
	}
	return nil
}

// looksLikeJSON reports whether a text begins like an object, an array or a string of JSON.
func looksLikeJSON(text string) bool {
	text = strings.TrimLeft(text, " \t\r\n")
	return text != "" && strings.Contains(`{["`, text[:1])
}

// jsonPlaces finds the marks in a text that is JSON. It reports false if it is not.
func jsonPlaces(text string) (found []jsonPlace, ok bool) {
	rest := text
	for {
		next := strings.IndexAny(rest, `"`+placeMark)
		if next < 0 {
			break
		}
		rest = rest[next:]
		if after, isMark := strings.CutPrefix(rest, placeMark); isMark {
			found, rest = append(found, jsonPlace{}), after
			continue
		}
		literal := jsonString.FindString(rest)
		if literal == "" {
			return nil, false
		}
		rest = rest[len(literal):]
		in, ok := placesInString(literal)
		if !ok {
			return nil, false
		}
		if strings.HasPrefix(strings.TrimLeft(rest, " \t\r\n"), ":") {
			for i := range in {
				in[i].isName = true
			}
		}
		found = append(found, in...)
	}
	return found, json.Valid([]byte(withNumbers(text)))
}

// jsonString matches a string at the beginning of a text.
var jsonString = regexp.MustCompile(`^"(?:[^"\\]|\\.)*"`)

// withNumbers puts a number in place of each mark outside of a string, where a mark is no JSON.
func withNumbers(text string) string {
	return marksAndStrings.ReplaceAllStringFunc(text, func(match string) string {
		if match == placeMark {
			return "0"
		}
		return match
	})
}

var marksAndStrings = regexp.MustCompile(placeMark + `|"(?:[^"\\]|\\.)*"`)

// placesInString finds the marks in a string of JSON, which can be JSON itself.
func placesInString(literal string) ([]jsonPlace, bool) {
	marks := strings.Count(literal, placeMark)
	if marks == 0 {
		return nil, true
	}
	var content string
	if json.Unmarshal([]byte(literal), &content) != nil || strings.Count(content, placeMark) != marks {
		return nil, false
	}
	isLike := looksLikeJSON(content)
	if found, ok := jsonPlaces(content); isLike && ok {
		for i := range found {
			if found[i].quoted > 0 {
				found[i].quoted++
			}
		}
		return found, true
	}
	found := make([]jsonPlace, marks)
	for i, isURL := range urlParts(content) {
		found[i].place = place{quoted: 1, url: isURL, word: isLike} // what is like JSON may be read by a lenient parser
	}
	return found, true
}

// escape returns a value as it is written in the place. In JSON that is the inside of a string.
func (p place) escape(value string) string {
	for range p.quoted {
		text, err := json.Marshal(value)
		if err != nil {
			return "" // does not happen with a string
		}
		value = string(text[1 : len(text)-1])
	}
	return value
}

// urlPart is what can stand in a URL without changing how the rest of it is read.
var urlPart = regexp.MustCompile(`^[A-Za-z0-9_~-]+([.]+[A-Za-z0-9_~-]+)*$`)

// isWord reports whether a value has nothing that separates, quotes or encloses values in lists, header fields,
// queries or markup.
func isWord(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\"'`\\,;&|<>()[]{}", r)
	})
}

// checkFit refuses a value that would change how what stands around it is read.
func (p requestPlaceholder) checkFit(value string) error {
	switch {
	case p.urlPart && !urlPart.MatchString(value):
		return errors.New("has characters that a part of a URL can't have; letters, digits, hyphens, underscores, tildes and dots between them are allowed")
	case p.word && !isWord(value):
		return errors.New("has characters that a part of a value can't have; white space, quotes, brackets and any of , ; & | \\ could separate it from the rest")
	}
	return nil
}
