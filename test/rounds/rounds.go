// Package rounds says how often tests repeat what they repeat.
package rounds

import (
	"os"
	"strconv"
	"testing"
)

// Or is the number of rounds that KEELSON_ROUNDS asks for, and usual where it is not set. A
// value that is no number above 0 fails the test.
func Or(t testing.TB, usual int) int {
	t.Helper()
	text := os.Getenv("KEELSON_ROUNDS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("KEELSON_ROUNDS=%q: must be a number above 0", text)
	}
	return n
}
