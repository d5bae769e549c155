package mask

import (
	"bytes"
	"html"
	"regexp"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// undoEach returns a decoder of escapes that begin with a byte. decode returns what the escape at the beginning of a
// text means, and its length. The length is 0 if there is no escape.
func undoEach(begin byte, decode func(text []byte) (plain []byte, size int)) decoder {
	return func(v *view) (*view, bool) {
		if bytes.IndexByte(v.text, begin) < 0 {
			return nil, false
		}
		decoded, changed := v.derived(), false
		for at := 0; at < len(v.text); {
			plain, size := v.text[at:at+1], 0
			if v.text[at] == begin {
				plain, size = decode(v.text[at:])
			}
			if size == 0 {
				plain, size = v.text[at:at+1], 1
			} else {
				changed = true
			}
			decoded.add(plain, v, at, at+size)
			at += size
		}
		return decoded, changed
	}
}

var (
	// undoPercents undoes the escapes of URLs, and %uXXXX, which JavaScript's escape writes.
	undoPercents = undoEach('%', func(text []byte) ([]byte, int) {
		if code, size := codeUnits(text, "%u", 4); size > 0 {
			return code, size
		}
		return hexByte(text, 1)
	})

	// undoEntities undoes HTML's.
	undoEntities = undoEach('&', func(text []byte) ([]byte, int) {
		entity := string(htmlEntity.Find(text))
		plain := html.UnescapeString(entity)
		if entity == "" || plain == entity {
			return nil, 0
		}
		return []byte(plain), len(entity)
	})

	// undoBackslashes undoes the escapes of JSON and of programming languages.
	undoBackslashes = undoEach('\\', backslashed)

	// undoQuotedPrintable undoes those of mail (RFC 2045 §6.7).
	undoQuotedPrintable = undoEach('=', func(text []byte) ([]byte, int) {
		if softBreak := softLineBreak.Find(text); softBreak != nil {
			return nil, len(softBreak)
		}
		return hexByte(text, 1)
	})
)

var (
	htmlEntity    = regexp.MustCompile(`^&(#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8}|[A-Za-z][A-Za-z0-9]{1,31});?`)
	softLineBreak = regexp.MustCompile(`^=[ \t]*\r?\n`)
	octalByte     = regexp.MustCompile(`^\\[0-3][0-7]{2}`)
	bracedCode    = regexp.MustCompile(`^\\[uUxX]\{([0-9a-fA-F]{1,8})\}`)
)

// backslashed reads an escape that begins with a backslash. Of one that is unknown, the backslash is
// dropped.
func backslashed(text []byte) ([]byte, int) {
	if octal := octalByte.Find(text); octal != nil {
		code, _ := strconv.ParseUint(string(octal[1:]), 8, 8)
		return []byte{byte(code)}, len(octal)
	}
	if braced := bracedCode.FindSubmatch(text); braced != nil {
		code, _ := strconv.ParseUint(string(braced[1]), 16, 32)
		return utf8.AppendRune(nil, rune(code)), len(braced[0])
	}
	if len(text) < 2 {
		return nil, 0
	}
	switch text[1] {
	case 'x', 'X':
		if plain, size := hexByte(text, 2); size > 0 {
			return plain, size
		}
	case 'U', 'u': // also in a text that is in capitals
		if code, ok := hexAt(text, 2, 8); ok && text[1] == 'U' && code <= utf8.MaxRune {
			return utf8.AppendRune(nil, rune(code)), 10
		}
		if plain, size := codeUnits(text, string(text[:2]), 4); size > 0 {
			return plain, size
		}
	case 'n', 'r', 't', 'b', 'f', 'v':
		return []byte{' '}, 2 // white space is all the same
	}
	_, size := nextRune(text[1:])
	return text[1 : 1+size], 1 + size
}

// hexByte reads a byte in hexadecimal after so many others.
func hexByte(text []byte, after int) ([]byte, int) {
	code, ok := hexAt(text, after, 2)
	if !ok {
		return nil, 0
	}
	return []byte{byte(code)}, after + 2
}

// codeUnits reads a code unit of UTF-16 in hexadecimal digits after a prefix, or a pair that is one
// character.
func codeUnits(text []byte, prefix string, digits int) ([]byte, int) {
	size := len(prefix) + digits
	code, ok := hexAt(text, len(prefix), digits)
	if !ok || !bytes.EqualFold(text[:len(prefix)], []byte(prefix)) {
		return nil, 0
	}
	if rest := text[size:]; utf16.IsSurrogate(rune(code)) && len(rest) >= size && bytes.EqualFold(rest[:len(prefix)], []byte(prefix)) {
		if low, ok := hexAt(rest, len(prefix), digits); ok {
			if r := utf16.DecodeRune(rune(code), rune(low)); r != utf8.RuneError {
				return utf8.AppendRune(nil, r), 2 * size
			}
		}
	}
	return utf8.AppendRune(nil, rune(code)), size
}

// hexAt reads digits in hexadecimal at a place of a text.
func hexAt(text []byte, at, digits int) (uint64, bool) {
	if len(text) < at+digits {
		return 0, false
	}
	for _, b := range text[at : at+digits] {
		if _, ok := hexDigit(b); !ok {
			return 0, false
		}
	}
	code, err := strconv.ParseUint(string(text[at:at+digits]), 16, 32)
	return code, err == nil
}
