package images

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSyncTree(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "a/g", "a/b/h"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"dangling": "/nowhere", "a/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, limit := range map[string]int{"file by file": 100, "just as many": 6, "more than the limit": 5} {
		t.Run(name, func(t *testing.T) {
			if err := syncTree(t.Context(), dir, limit); err != nil {
				t.Error(err)
			}
		})
	}
	if err := syncTree(t.Context(), filepath.Join(dir, "nowhere"), 10); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a folder that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := syncTree(ctx, dir, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}
