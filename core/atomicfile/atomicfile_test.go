package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "settings")
	for _, test := range []struct {
		content string
		mode    os.FileMode
	}{{"first", 0o600}, {"second, longer", 0o755}, {"", 0o644}} {
		if err := Write(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(got) != test.content || info.Mode().Perm() != test.mode {
			t.Errorf("got %q, mode %v, %v, %v; want %q, %v", got, info.Mode(), err, serr, test.content, test.mode)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside the file: %v, %v", entries, err)
	}
	missing := filepath.Join(dir, "missing", "settings")
	if err := Write(missing, nil, 0o600); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("the error should name %s: %v", missing, err)
	}
}
