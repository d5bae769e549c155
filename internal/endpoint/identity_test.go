package endpoint

import "testing"

func TestDifferentGrantsHaveDifferentKeys(t *testing.T) {
	lists := [][][]string{
		nil, {nil}, {nil, nil}, {{""}}, {{"", ""}}, {{""}, {""}},
		{{"ab"}}, {{"a", "b"}}, {{"a"}, {"b"}}, {{"b", "a"}}, {{"ab", ""}}, {{"", "ab"}}, {{"a", "b"}, nil}, {nil, {"a", "b"}},
		{{"a\x00b"}}, {{"a,b"}}, {{"a b"}}, {{"\x00\x00\x00\x00\x00\x00\x00\x01a"}}, {{"", "a"}}, {{"a"}},
	}
	seen := make(map[GrantKey]int)
	for i, list := range lists {
		key := NewGrantKey(list...)
		if j, ok := seen[key]; ok {
			t.Errorf("%q and %q have one key", lists[j], list)
		}
		seen[key] = i
		if key != NewGrantKey(list...) {
			t.Errorf("%q has two keys", list)
		}
	}
}
