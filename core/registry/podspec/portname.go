package podspec

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// portName says what is wrong with the name of a port. The library looks by two
// regular expressions, of which a pod's probes and ports need a dozen: names that
// are plainly right need none.
func portName(name string) []string {
	letter := false
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z':
			letter = true
		case c >= '0' && c <= '9', c == '-':
		default:
			return validation.IsValidPortName(name)
		}
	}
	if letter && len(name) <= 15 && name[0] != '-' && name[len(name)-1] != '-' && !strings.Contains(name, "--") {
		return nil
	}
	return validation.IsValidPortName(name)
}
