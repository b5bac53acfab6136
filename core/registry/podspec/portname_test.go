package podspec

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// FuzzPortName checks that names are judged as the library does.
func FuzzPortName(f *testing.F) {
	for _, name := range []string{
		"", "a", "1", "-", "a-b", "-a", "a-", "a--b", "A", "ä", "a b", "a.b", "a_b", "0123456789abcde", "0123456789abcdef", "0-1", "\x00", "http", "8080-tcp",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got, want := portName(name), validation.IsValidPortName(name); !slices.Equal(got, want) {
			t.Errorf("portName(%q) = %q, want %q", name, got, want)
		}
	})
}
