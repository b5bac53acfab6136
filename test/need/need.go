// Package need skips tests on machines that lack what they test with: loudly, and never in CI.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Root skips the test if it is not root, who may mount, make namespaces and cgroups.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Program skips the test without an executable of that name in PATH, and returns its path.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "the program %s: %v", name, err)
	}
	return path
}

// Missing skips the test for want of what the format tells. Where CI=true it fails: a CI machine has to have everything.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	what := "this test needs " + fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip("SKIPPED: " + what)
}
