package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// TestWrite checks Write and Copy, each with a content that replaces the other's.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "settings")
	for _, test := range []struct {
		content string
		mode    os.FileMode
		copied  bool
	}{{"first", 0o600, false}, {strings.Repeat("second, longer", piece), 0o755, true}, {"third", 0o700, true}, {"", 0o644, false}} {
		err := error(nil)
		if test.copied {
			err = Copy(path, strings.NewReader(test.content), test.mode)
		} else {
			err = Write(path, []byte(test.content), test.mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(got) != test.content || info.Mode().Perm() != test.mode {
			t.Errorf("got %.80q, mode %v, %v, %v; want %.80q, %v", got, info.Mode(), err, serr, test.content, test.mode)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside the file: %v, %v", entries, err)
	}
	fails := iotest.ErrReader(errors.New("cut off"))
	if err := Copy(path, io.MultiReader(strings.NewReader("half"), fails), 0o600); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a failed read gave %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || len(got) != 0 {
		t.Errorf("a failed read left %q, %v; want the content before", got, err)
	}
	missing := filepath.Join(dir, "missing", "settings")
	if err := Write(missing, nil, 0o600); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("the error should name %s: %v", missing, err)
	}
}
