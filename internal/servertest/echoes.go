package servertest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime/quotedprintable"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file has secrets, and the ways in which servers repeat them.

// AwkwardSecrets are of every kind that is awkward to repeat, by what is awkward.
var AwkwardSecrets = map[string]string{
	"letters and digits":     "k3Jq8ZpW1xVb",
	"eight characters":       "hunter2x",
	"letters alone":          "swordfishbanana",
	"quotes":                 `a"b'c"d'e"f'g"h`,
	"backslashes":            `C:\new\table\x41\u0042\q`,
	"spaces":                 "correct horse  battery staple",
	"white space around":     " \tk3Jq8ZpW1xVb \r\n",
	"umlauts":                "pässwörd-mit-Ümläuten",
	"umlauts, short":         "pässwörd",
	"umlauts alone":          "äöüÄÖÜßéèêàçñ",
	"emoji":                  "🔑key🔒lock🗝️old🧿eye-1",
	"emoji alone":            "🔑🔒🔓🔐🗝🧿🪪🎫",
	"kanji":                  "秘密鍵は誰にも見せない",
	"ISO-8859-1":             "p\xe4ssw\xf6rd-mit-\xdcml\xe4uten",
	"no text":                "\x80\xfe\x01key\xc3\x28\xa0more\xf0\x9f\x94text",
	"percent":                "100%41sure%2Fnot%zz%",
	"plus":                   "a+b+c+d==/e+f+g",
	"reserved":               `:+%&=/"<>\ ~#?[]@!$'()*,;`,
	"question marks":         "who?what?where?when?",
	"HTML":                   `<b>k3y&amp;&lt;more&#39;</b>`,
	"200 bytes":              strings.Repeat("Zx9-Kw2_", 25),
	"PEM":                    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHlKq4w1Zm9v\nYmFyYmF6cXV4cXV1eGNvcmdlZ3JhdWx0\n-----END PRIVATE KEY-----\n",
	"an environment's line":  "PARTNER_SECRET=k3Jq8ZpW1xVb",
	"the same, quoted":       `export PARTNER_SECRET="k3Jq8Zp="`,
	"byte order mark":        "\xef\xbb\xbfk3Jq8ZpW1xVb",
	"UTF-16":                 "\xff\xfek\x003\x00J\x00q\x008\x00Z\x00p\x00W\x001\x00x\x00",
	"base64":                 base64.StdEncoding.EncodeToString([]byte("\xfb\xff\xbe0123456789\xfe\xff")),
	"hexadecimal":            "9f86d081884c7d659a2feaa0c55ad015",
	"a JWT":                  "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhcHAifQ.c2lnbmF0dXJl",
	"control characters":     "a\x01b\x02c\x1bd\x7fe\x00f\x08g\vh",
	"zero-width characters":  "k3J\u200bq8Z\u200dpW1\ufeffxVb",
	"the letters of escapes": `nnrrttuu0041xx41%%25&&amp;`,
}

// Echoes are ways in which servers repeat what they were sent.
var Echoes = map[string]func(string) string{
	"as it is":         func(s string) string { return s },
	"as JSON":          asJSON,
	"as JSON, twice":   func(s string) string { return asJSON(asJSON(s)) },
	"as JSON in a URL": func(s string) string { return url.QueryEscape(asJSON(s)) },
	"as ASCII":         strconv.QuoteToASCII,
	"as Go":            strconv.Quote,
	"as Python":        asPython,
	"as bytes": func(s string) string {
		var text strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&text, `\x%02x`, s[i])
		}
		return text.String()
	},
	"as UTF-16": func(s string) string { return asUnits(s, `\u%04x`) },
	"as UTF-16, in capitals": func(s string) string {
		return strings.ToUpper(asUnits(s, `\u%04x`))
	},
	"as JavaScript's escape": func(s string) string { return asUnits(s, "%%u%04X") },
	"as code points": func(s string) string {
		var text strings.Builder
		for _, r := range s {
			fmt.Fprintf(&text, `\u{%x}`, r)
		}
		return text.String()
	},
	"in octal": func(s string) string {
		var text strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&text, `\%03o`, s[i])
		}
		return text.String()
	},
	"in a form":              url.QueryEscape,
	"in a path":              url.PathEscape,
	"in a form, lower case":  func(s string) string { return lowerPercents(url.QueryEscape(s)) },
	"in a form, twice":       func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	"in a form, three times": func(s string) string { return url.QueryEscape(url.QueryEscape(url.QueryEscape(s))) },
	"all of it in percents": func(s string) string {
		var text strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&text, "%%%02x", s[i])
		}
		return text.String()
	},
	"with + for a space": func(s string) string { return strings.ReplaceAll(s, " ", "+") },
	"with a space for +": func(s string) string { return strings.ReplaceAll(s, "+", " ") },
	"decoded once too often": func(s string) string {
		if decoded, err := url.QueryUnescape(s); err == nil {
			return decoded
		}
		return s
	},
	"in HTML":              html.EscapeString,
	"in HTML, twice":       func(s string) string { return html.EscapeString(html.EscapeString(s)) },
	"in HTML, named":       strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;", "ä", "&auml;", "ö", "&ouml;", "ü", "&uuml;", "é", "&eacute;").Replace,
	"in HTML, hexadecimal": func(s string) string { return asReferences(s, "&#x%X;") },
	"in HTML, padded":      func(s string) string { return asReferences(s, "&#%06d;") },
	"in HTML, JSON in it":  func(s string) string { return html.EscapeString(asJSON(s)) },
	"in base64":            func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"in base64 of a form":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s))) },
	"in base64, in a form": func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
	"in base64, JSON": func(s string) string {
		return strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(s)), "/", `\/`)
	},
	"in base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"in base64, twice": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s))))
	},
	"in Basic":             func(s string) string { return base64.StdEncoding.EncodeToString([]byte("app:" + s)) },
	"in Basic, of a form":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte("app:" + url.QueryEscape(s))) },
	"in Basic, of another": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("another:" + s + ":more")) },
	"in hexadecimal":       func(s string) string { return hex.EncodeToString([]byte(s)) },
	"in HEXADECIMAL":       func(s string) string { return "0x" + strings.ToUpper(hex.EncodeToString([]byte(s))) },
	"quoted-printable":     asQuotedPrintable,
	"mojibake":             func(s string) string { return asMojibake(s) },
	"mojibake, Windows":    func(s string) string { return windows1252.Replace(asMojibake(s)) },
	"mojibake, twice":      func(s string) string { return asMojibake(asMojibake(s)) },
	"mojibake, JSON":       func(s string) string { return strconv.QuoteToASCII(asMojibake(s)) },
	"ISO-8859-1":           asLatin1,
	"valid":                func(s string) string { return strings.ToValidUTF8(s, "\ufffd") },
	"valid bytes":          func(s string) string { return string([]rune(s)) },
	"only what is valid":   func(s string) string { return strings.ToValidUTF8(s, "") },
	"only ASCII":           func(s string) string { return asASCII(s, "") },
	"only ASCII, with ?":   func(s string) string { return asASCII(s, "?") },
	"only ASCII, with ??":  func(s string) string { return asASCII(s, "??") },
	"only ASCII, escaped":  func(s string) string { return asASCII(s, `\ufffd`) },
	"in capitals":          strings.ToUpper,
	"in small letters":     strings.ToLower,
	"without white space":  func(s string) string { return strings.Join(strings.Fields(s), "") },
	"with one space":       func(s string) string { return strings.Join(strings.Fields(s), " ") },
	"in lines":             func(s string) string { return strings.Join(strings.Fields(s), "\r\n\t") },
	"spaced":               func(s string) string { return strings.Join(strings.Split(s, ""), " ") },
	"with dots":            func(s string) string { return strings.Join(strings.Split(s, ""), "\u200b") },
	"with SQL's quotes":    func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" },
	"without punctuation": func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsPunct(r) || unicode.IsSymbol(r) {
				return -1
			}
			return r
		}, s)
	},
}

func asJSON(s string) string {
	text, _ := json.Marshal(s)
	return string(text[1 : len(text)-1])
}

// asPython writes characters up to U+00FF as \xNN.
func asPython(s string) string {
	var text strings.Builder
	for _, r := range s {
		switch {
		case r < 0x7f && r >= ' ':
			text.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&text, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&text, `\u%04x`, r)
		default:
			fmt.Fprintf(&text, `\U%08x`, r)
		}
	}
	return text.String()
}

// asUnits writes code units of UTF-16.
func asUnits(s, format string) string {
	var text strings.Builder
	for _, r := range s {
		if r > 0xffff {
			fmt.Fprintf(&text, format, 0xd800+(r-0x10000)>>10)
			r = 0xdc00 + (r-0x10000)&0x3ff
		}
		fmt.Fprintf(&text, format, r)
	}
	return text.String()
}

func asReferences(s, format string) string {
	var text strings.Builder
	for _, r := range s {
		fmt.Fprintf(&text, format, r)
	}
	return text.String()
}

func asQuotedPrintable(s string) string {
	var text strings.Builder
	w := quotedprintable.NewWriter(&text)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return text.String()
}

// asMojibake reads UTF-8 as ISO-8859-1.
func asMojibake(s string) string {
	var text []rune
	for i := range len(s) {
		text = append(text, rune(s[i]))
	}
	return string(text)
}

// windows1252 has more characters than ISO-8859-1.
var windows1252 = strings.NewReplacer("\u0080", "€", "\u0082", "‚", "\u0083", "ƒ", "\u0084", "„", "\u0085", "…", "\u0086", "†", "\u0087", "‡",
	"\u0088", "ˆ", "\u0089", "‰", "\u008a", "Š", "\u008b", "‹", "\u008c", "Œ", "\u008e", "Ž", "\u0091", "‘", "\u0092", "’", "\u0093", "“", "\u0094", "”",
	"\u0095", "•", "\u0096", "–", "\u0097", "—", "\u0098", "˜", "\u0099", "™", "\u009a", "š", "\u009b", "›", "\u009c", "œ", "\u009e", "ž", "\u009f", "Ÿ")

// asLatin1 encodes what ISO-8859-1 has, and writes ? for the rest.
func asLatin1(s string) string {
	var text []byte
	for _, r := range s {
		if r > 0xff {
			r = '?'
		}
		text = append(text, byte(r))
	}
	return string(text)
}

// asASCII replaces all other characters.
func asASCII(s, with string) string {
	var text strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			text.WriteRune(r)
		} else {
			text.WriteString(with)
		}
	}
	return text.String()
}

func lowerPercents(s string) string { return percentPair.ReplaceAllStringFunc(s, strings.ToLower) }

var percentPair = regexp.MustCompile(`%[0-9A-F]{2}`)

// Cuts are parts of what is repeated: at least half of it, in characters.
var Cuts = map[string]func([]rune) []rune{
	"the beginning": func(r []rune) []rune { return r[:(len(r)+1)/2] },
	"the end":       func(r []rune) []rune { return r[len(r)/2:] },
	"the middle":    func(r []rune) []rune { return r[len(r)/4 : len(r)/4+(len(r)+1)/2] },
	"all but its middle": func(r []rune) []rune {
		return append(append([]rune(nil), r[:(len(r)+1)/2]...), append([]rune(" ... "), r[(len(r)+1)/2+len(r)/8:]...)...)
	},
}
