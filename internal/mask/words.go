package mask

// undoBase64 returns a decoder of words in base64, of both alphabets (RFC 4648 §4 and §5). A word can be
// cut off, or follow others without a space. So skipped says how many characters come before four that
// encode three bytes.
func undoBase64(skipped int) decoder { return undoWords(6, skipped, base64Digit) }

// undoHex returns a decoder of words in hexadecimal.
func undoHex(skipped int) decoder { return undoWords(4, skipped, hexDigit) }

// undoWords returns a decoder of words whose characters have so many bits each. Other words are left out.
// Each byte comes from its whole word.
func undoWords(bits, skipped int, digit func(byte) (byte, bool)) decoder {
	least := skipped + (8*leastRun+bits-1)/bits // fewer characters have too little in them
	return func(v *view) (*view, bool) {
		decoded := &view{isDecoded: true, depth: v.depth + 1}
		for from := 0; from < len(v.text); from++ {
			to := from
			for ; to < len(v.text) && (to == from || !v.isApart(to)); to++ {
				if _, ok := digit(v.text[to]); !ok {
					break
				}
			}
			if to-from >= least {
				end := to
				for end < len(v.text) && bits == 6 && v.text[end] == '=' { // padding
					end++
				}
				decoded.add(decodeWord(v.text[from+skipped:to], bits, digit), v, from, end)
			}
			from = max(from, to-1)
		}
		return decoded, len(decoded.text) > 0
	}
}

// decodeWord decodes a word, up to the last whole byte.
func decodeWord(word []byte, bits int, digit func(byte) (byte, bool)) []byte {
	plain := make([]byte, 0, len(word)*bits/8)
	var pending uint
	have := 0
	for _, b := range word {
		value, _ := digit(b)
		pending, have = pending<<bits|uint(value), have+bits
		if have >= 8 {
			have -= 8
			plain = append(plain, byte(pending>>have))
		}
	}
	return plain
}

// base64Digit returns the value of a character in base64.
func base64Digit(b byte) (byte, bool) {
	switch {
	case 'A' <= b && b <= 'Z':
		return b - 'A', true
	case 'a' <= b && b <= 'z':
		return b - 'a' + 26, true
	case '0' <= b && b <= '9':
		return b - '0' + 52, true
	case b == '+', b == '-':
		return 62, true
	case b == '/', b == '_':
		return 63, true
	}
	return 0, false
}

// hexDigit returns the value of a digit in hexadecimal.
func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}
