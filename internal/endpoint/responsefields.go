package endpoint

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// ResponseFieldNames are the members of an answer that can be in another place than OAuth's.
var ResponseFieldNames = []string{"access_token", "expires_in", "token_type"}

// maxPath bounds the names in a path.
const maxPath = 8

// CheckResponseField refuses a member that can't have another place, and a path that can't be followed.
func CheckResponseField(name, path string) error {
	if !slices.Contains(ResponseFieldNames, name) {
		return fmt.Errorf("response_field: %q can't have another place; use one of %s", name, strings.Join(ResponseFieldNames, ", "))
	}
	if path != name && slices.Contains(answerNames, path) {
		return fmt.Errorf("response_field: the path %s is another member of the answer; write the path of %s", path, name)
	}
	members := strings.Split(path, ".")
	for _, member := range members {
		if !pathMember.MatchString(member) {
			return fmt.Errorf("response_field: %q is not a path; write the names of the members that lead to %s with dots between them, such as data.accessToken "+
				"(letters, digits, hyphens, underscores and blanks; no expressions, lists or placeholders)", path, name)
		}
	}
	if len(members) > maxPath {
		return fmt.Errorf("response_field: %q has more than %d names; use a shorter path", path, maxPath)
	}
	return nil
}

// pathMember is the name of a member in a path. The search for tokens in an answer finds these names, too.
var pathMember = regexp.MustCompile(`^[A-Za-z0-9_ -]{1,64}$`)

// checkResponseFields checks them in a fixed order.
func (r Request) checkResponseFields() error {
	for _, name := range slices.Sorted(maps.Keys(r.ResponseFields)) {
		if err := CheckResponseField(name, r.ResponseFields[name]); err != nil {
			return err
		}
	}
	return nil
}

// answerPlaces says where the members of an answer are: where fields has them, else where OAuth has them.
func answerPlaces(fields map[string]string) *place {
	p := new(place)
	for _, name := range answerNames {
		path := fields[name]
		if path == "" {
			path = name
		}
		p.lookFor(name, strings.Split(path, ".")...)
	}
	return p
}

// lastName returns the last name in a path.
func lastName(path string) string { return path[strings.LastIndex(path, ".")+1:] }
